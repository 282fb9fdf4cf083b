package kextv2

import (
	"context"
	"log/slog"
	"time"

	"github.com/weirfw/weir/internal/kextcore"
	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Defaults of Config.
const (
	DefaultTimeout    = kextcore.DefaultTimeout
	DefaultMaxPending = kextcore.DefaultMaxPending
)

// The errors of a Source. Those of packages kext and kextv1 are the same.
var (
	// ErrBadConfig is wrapped by errors about a configuration that cannot work.
	ErrBadConfig = kextcore.ErrBadConfig
	// ErrRunning is returned by a second Run while the first one runs.
	ErrRunning = kextcore.ErrRunning
	// ErrClosed is wrapped when something is asked of a Source whose Run does not run.
	ErrClosed = kextcore.ErrClosed
	// ErrNoSplitTunnel is wrapped when a connection was to be split and the driver does not know how.
	ErrNoSplitTunnel = kextcore.ErrNoSplitTunnel
)

// Version is a driver's version.
type Version = kextwire.Version

// Stats are sums since New.
type Stats = kextcore.Stats

// Device is the opened device of the driver. All methods may be called at the same time.
type Device interface {
	// Read waits for what the driver sends.
	Read(b []byte) (int, error)
	// Write gives the driver one command.
	Write(b []byte) (int, error)
	// Close makes calls of Read and Write return with an error. It may be called more than once.
	Close() error
}

// Config of a Source.
type Config struct {
	// Open opens the device, at the beginning of each Run. Required. The Source closes it.
	Open func() (Device, error)
	// Version is the driver's. The zero value is the oldest of this protocol, which does not know the split tunnel.
	Version Version
	// Default is the action for packets that nobody decides about: Drop (the default), Block or Accept.
	Default verdict.Action
	// Timeout is how long a packet waits for the handler's verdict before it gets Default. It may be up to an eighth, but not
	// more than a second, late. Default 30 s.
	Timeout time.Duration
	// MaxPending is how many packets may wait for the handler's verdict before more get Default. Default 4096.
	MaxPending int
	// Logger for what does not end in an error, and for what the driver logs. Default silence.
	Logger *slog.Logger
}

// Source reads packets from the driver. It implements intercept.Source and intercept.Updater. All methods may be called from
// any goroutine; a Source runs once at a time, and may run again.
type Source struct {
	cfg    Config
	runner *kextcore.Runner
}

var (
	_ intercept.Source  = (*Source)(nil)
	_ intercept.Updater = (*Source)(nil)
)

// New returns a Source that does nothing yet. The error wraps ErrBadConfig.
func New(cfg Config) (*Source, error) {
	runner, err := kextcore.NewRunner(kextcore.Config{
		Default: cfg.Default, Timeout: cfg.Timeout, MaxPending: cfg.MaxPending, Logger: cfg.Logger,
		AcceptProxied: knowsSplitTunnel(cfg.Version) && !cfg.Version.AtLeast(2, 1, 1),
	})
	if err != nil {
		return nil, err
	}
	if cfg.Open == nil {
		return nil, kextcore.MissingOpen("kextv2")
	}
	return &Source{cfg: cfg, runner: runner}, nil
}

// knowsSplitTunnel reports whether the driver knows verdict 11.
func knowsSplitTunnel(v Version) bool { return v.AtLeast(2, 1, 0) }

// Run implements intercept.Source. The error is that of Config.Open, of the device, or ErrRunning.
func (s *Source) Run(ctx context.Context, h intercept.Handler, ready func()) error {
	return s.runner.Run(ctx, s.open, h, ready)
}

func (s *Source) open() (kextcore.Protocol, error) {
	dev, err := s.cfg.Open()
	if err != nil {
		return nil, err
	}
	return newConversation(dev, knowsSplitTunnel(s.cfg.Version)), nil
}

// Update implements intercept.Updater. The error wraps ErrClosed, ErrNoSplitTunnel (the connection is dropped then) or what
// the device says.
func (s *Source) Update(t packet.Tuple, action verdict.Action, _ uint8) error {
	return s.runner.Update(t, action)
}

// Forget implements intercept.Updater; see the package comment for its price. The error wraps ErrClosed or what the device
// says.
func (s *Source) Forget(t packet.Tuple) error { return s.runner.Forget(t) }

// ForgetAll implements intercept.Updater. The error wraps ErrClosed or what the device says.
func (s *Source) ForgetAll() error { return s.runner.ForgetAll() }

// PrintMemoryStats makes the driver log what memory it uses, which the Logger gets. The error wraps ErrClosed or what the
// device says.
func (s *Source) PrintMemoryStats() error {
	const op = "print memory statistics"
	p, err := s.runner.Protocol(op)
	if err != nil {
		return err
	}
	return p.(*conversation).printMemoryStats() //nolint:errcheck,forcetypeassert // open makes no other
}

// Stats returns what happened so far.
func (s *Source) Stats() Stats { return s.runner.Stats() }
