package kextv1

import (
	"context"
	"log/slog"
	"time"

	"github.com/weirfw/weir/internal/kextcore"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Defaults of Config.
const (
	DefaultTimeout    = kextcore.DefaultTimeout
	DefaultMaxPending = kextcore.DefaultMaxPending
)

// The errors of a Source. Those of packages kext and kextv2 are the same.
var (
	// ErrBadConfig is wrapped by errors about a configuration that cannot work.
	ErrBadConfig = kextcore.ErrBadConfig
	// ErrRunning is returned by a second Run while the first one runs.
	ErrRunning = kextcore.ErrRunning
	// ErrClosed is wrapped when something is asked of a Source whose Run does not run.
	ErrClosed = kextcore.ErrClosed
	// ErrNoPacketID is wrapped by a verdict on a request that the driver gave no id.
	ErrNoPacketID = kextcore.ErrNoPacketID
)

// Stats are sums since New.
type Stats = kextcore.Stats

// Device is the opened device of the driver. All methods may be called at the same time.
type Device interface {
	// Control is DeviceIoControl: it returns how much of out the driver filled.
	Control(code uint32, in, out []byte) (int, error)
	// Close makes calls of Control return with an error. It may be called more than once.
	Close() error
}

// Config of a Source.
type Config struct {
	// Open opens the device, at the beginning of each Run. Required. The Source closes it.
	Open func() (Device, error)
	// KnowsSplitTunnel tells that the driver, unlike the original ones of this version, knows verdict 8. What it redirects to
	// the split tunnel's proxy, port 719 of this host, is then accepted at once: it asks about that like about anything else.
	// Default false.
	KnowsSplitTunnel bool
	// Default is the action for packets that nobody decides about: Drop (the default), Block or Accept.
	Default verdict.Action
	// Timeout is how long a packet waits for the handler's verdict before it gets Default. It may be up to an eighth, but not
	// more than a second, late. Default 30 s.
	Timeout time.Duration
	// MaxPending is how many packets may wait for the handler's verdict before more get Default. Default 4096.
	MaxPending int
	// Logger for what does not end in an error. Default silence.
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
		AcceptProxied: cfg.KnowsSplitTunnel,
	})
	if err != nil {
		return nil, err
	}
	if cfg.Open == nil {
		return nil, kextcore.MissingOpen("kextv1")
	}
	return &Source{cfg: cfg, runner: runner}, nil
}

// Run implements intercept.Source. The error is that of Config.Open, of the device, or ErrRunning.
func (s *Source) Run(ctx context.Context, h intercept.Handler, ready func()) error {
	return s.runner.Run(ctx, s.open, h, ready)
}

func (s *Source) open() (kextcore.Protocol, error) {
	dev, err := s.cfg.Open()
	if err != nil {
		return nil, err
	}
	return newConversation(dev), nil
}

// Update implements intercept.Updater. The error wraps ErrClosed or what the device says.
func (s *Source) Update(t packet.Tuple, action verdict.Action, _ uint8) error {
	return s.runner.Update(t, action)
}

// Forget implements intercept.Updater; see the package comment for its price. The error wraps ErrClosed or what the device
// says.
func (s *Source) Forget(t packet.Tuple) error { return s.runner.Forget(t) }

// ForgetAll implements intercept.Updater. The error wraps ErrClosed or what the device says.
func (s *Source) ForgetAll() error { return s.runner.ForgetAll() }

// Stats returns what happened so far.
func (s *Source) Stats() Stats { return s.runner.Stats() }
