package refd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/metrics"
	"github.com/weirfw/weir/internal/winsvc"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/kext"
	"github.com/weirfw/weir/pkg/names"
)

// resolverSource is where names come from that the system's resolver tells.
const resolverSource = names.ETW

// kextSource is the Windows backend: the driver's service, made at the start and removed at the end, and the driver.
type kextSource struct {
	*kext.Source
	driver winsvc.Driver
	log    *slog.Logger
}

// openSource returns the packet backend that cfg describes.
func openSource(cfg *config.Loaded, log *slog.Logger, _ func()) (source, error) {
	log = log.With("module", "packets")
	s, err := kext.New(kext.Config{
		Device: cfg.Kext.Device, SplitTunnel: splitTunnelOf(&cfg.File), Timeout: cfg.Kext.PacketTimeout, Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	return &kextSource{Source: s, driver: driverOf(&cfg.File), log: log}, nil
}

func driverOf(cfg *config.File) winsvc.Driver {
	return winsvc.Driver{Name: cfg.Kext.Service, Path: cfg.Kext.Driver}
}

// splitTunnelOf says what is asked of the driver: an engine that it cannot serve must not seem to work.
func splitTunnelOf(cfg *config.File) kext.SplitTunnel {
	switch {
	case cfg.SplitTunnel.Engine == config.SplitNone:
		return kext.SplitUnused
	case cfg.Kext.TrustSplitTunnel:
		return kext.SplitTrusted
	}
	return kext.SplitNeeded
}

// Run implements intercept.Source. A service of a refd that was killed is replaced. At the end every step is tried: kext.Source
// asks the driver to shut down and closes its handle, then the service is stopped and deleted.
func (s *kextSource) Run(ctx context.Context, h intercept.Handler, ready func()) error {
	release, err := only(s.driver.Name)
	if err != nil {
		return err
	}
	defer release()
	service, err := winsvc.InstallDriver(ctx, s.driver)
	if err != nil {
		return uninterceptable(err)
	}
	if err := service.Start(ctx); err != nil {
		return uninterceptable(errors.Join(err, service.Remove()))
	}
	s.log.Info("driver started", "service", s.driver.Name, "file", s.driver.Path)
	err = s.Source.Run(ctx, h, func() {
		if v, ok := s.Version(); ok {
			s.log.Info("driver answers", "version", v)
		}
		if ready != nil {
			ready()
		}
	})
	if rerr := service.Remove(); rerr != nil {
		err = errors.Join(err, rerr)
	} else {
		s.log.Info("driver stopped and its service removed", "service", s.driver.Name)
	}
	return err
}

// uninterceptable marks what trying again does not help against.
func uninterceptable(err error) error {
	if errors.Is(err, winsvc.ErrNoDriver) || errors.Is(err, winsvc.ErrUnsigned) {
		return fmt.Errorf("%w: %w (the key is kext.driver)", intercept.ErrNotInterceptable, err)
	}
	return err
}

// kextFigures are shown by `refd status`.
type kextFigures struct {
	// Driver is the version of the driver that was met last; empty if there was none.
	Driver string `json:"driver,omitempty"`
	kext.Stats
}

func (s *kextSource) figures() any {
	f := kextFigures{Stats: s.Stats()}
	if v, ok := s.Version(); ok {
		f.Driver = v.String()
	}
	return f
}

// cleanup removes the service of the driver, if there is one.
func (s *kextSource) cleanup(ctx context.Context) error { return removeDriver(ctx, s.driver.Name) }

func removeDriver(ctx context.Context, name string) error {
	if err := winsvc.RemoveDriver(ctx, name); err != nil && !errors.Is(err, winsvc.ErrNotInstalled) {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// Cleanup removes the driver's service that a refd with this configuration left.
func Cleanup(ctx context.Context, cfg *config.File, _ *slog.Logger) error {
	release, err := only(cfg.Kext.Service)
	if err != nil {
		return err
	}
	defer release()
	return removeDriver(ctx, cfg.Kext.Service)
}

// FindTraces looks for what a refd with this configuration left: the service of its driver.
func FindTraces(_ context.Context, cfg *config.File) (Traces, error) {
	installed, err := winsvc.Installed(cfg.Kext.Service)
	if err != nil || !installed {
		return Traces{}, err //nolint:wrapcheck // it says which service
	}
	return Traces{Services: []string{cfg.Kext.Service}}, nil
}

// sourceFigures are what of the figures of the backend goes to Prometheus.
func sourceFigures(s source) metrics.Source {
	k, ok := s.(*kextSource)
	if !ok {
		return metrics.Source{}
	}
	f := k.Stats()
	return metrics.Source{Packets: f.Packets, Verdicts: f.Verdicts, Drops: map[string]uint64{
		"pending": f.Overflows, "timeout": f.Timeouts,
	}}
}
