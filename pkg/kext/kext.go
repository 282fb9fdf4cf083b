package kext

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/weirfw/weir/internal/kextcore"
	"github.com/weirfw/weir/internal/kextdev"
	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// DefaultDevice is the device of the driver that the protocols are known from.
const DefaultDevice = `\\.\PortmasterKext`

// The errors of a Source. Those of packages kextv1 and kextv2 are the same.
var (
	// ErrBadConfig is wrapped by errors about a configuration that cannot work.
	ErrBadConfig = kextcore.ErrBadConfig
	// ErrRunning is returned by a second Run while the first one runs.
	ErrRunning = kextcore.ErrRunning
	// ErrClosed is wrapped when something is asked of a Source whose Run does not run.
	ErrClosed = kextcore.ErrClosed
	// ErrNoSplitTunnel is wrapped when the driver does not know the split tunnel and it is needed.
	ErrNoSplitTunnel = kextcore.ErrNoSplitTunnel
)

// Version is a driver's version.
type Version = kextwire.Version

// Stats are sums over the Run that runs, or the last one.
type Stats = kextcore.Stats

// Device is the opened device of the driver. All methods may be called at the same time; Close makes the others return with an
// error, and may be called more than once.
type Device interface {
	kextv2.Device
	// Control is DeviceIoControl: it returns how much of out the driver filled.
	Control(code uint32, in, out []byte) (int, error)
}

// SplitTunnel says what is asked of the driver about the split tunnel.
type SplitTunnel uint8

const (
	// SplitUnused is for who never splits. Any driver will do. A verdict to split drops the connection if the driver does not
	// know it.
	SplitUnused SplitTunnel = iota
	// SplitNeeded refuses drivers that do not know the split tunnel.
	SplitNeeded
	// SplitTrusted is SplitNeeded, but a driver of protocol v1 is believed to know it, as only changed ones do.
	SplitTrusted
)

// Config of a Source. The zero value opens DefaultDevice.
type Config struct {
	// Device is the path of the driver's device. Default DefaultDevice.
	Device string
	// Open opens the device in another way; then Device does not count. Default: the system's.
	Open func() (Device, error)
	// SplitTunnel says whether the split tunnel is needed. Default SplitUnused.
	SplitTunnel SplitTunnel
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

// backend is a Source of either protocol.
type backend interface {
	intercept.Source
	intercept.Updater
	Stats() Stats
}

// Source reads packets from the driver. It implements intercept.Source and intercept.Updater. All methods may be called from
// any goroutine; a Source runs once at a time, and may run again: with another driver then, if there is one.
type Source struct {
	cfg Config

	mu      sync.Mutex // guards what follows
	running bool
	active  backend // nil unless Run runs and the driver is known
	last    backend // of the last Run
	version Version // of the last driver that was opened
}

var (
	_ intercept.Source  = (*Source)(nil)
	_ intercept.Updater = (*Source)(nil)
)

// New returns a Source that does nothing yet. The error wraps ErrBadConfig, or errors.ErrUnsupported on systems other than
// Windows.
func New(cfg Config) (*Source, error) {
	if cfg.SplitTunnel > SplitTrusted {
		return nil, fmt.Errorf("%w: split tunnel %d does not exist", ErrBadConfig, cfg.SplitTunnel)
	}
	if cfg.Device == "" {
		cfg.Device = DefaultDevice
	}
	if cfg.Open == nil {
		if err := kextdev.Supported(); err != nil {
			return nil, err
		}
		cfg.Open = openSystem(cfg.Device)
	}
	s := &Source{cfg: cfg}
	if _, err := s.choose(Version{}, nil); err != nil { // what is wrong with the rest is said now
		return nil, err
	}
	return s, nil
}

// openSystem opens the device of a driver of this system.
func openSystem(path string) func() (Device, error) {
	return func() (Device, error) {
		d, err := kextdev.Open(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%w: there is no device %s: the driver's service does not run: %w", intercept.ErrNotInterceptable, path, err)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%w: the device %s may not be opened: it takes an administrator, and no other program may have it: %w",
				intercept.ErrNotInterceptable, path, err)
		case err != nil:
			return nil, err
		}
		return d, nil
	}
}

// CheckSplitTunnel says why connections cannot be split with a driver of this version. The error wraps ErrNoSplitTunnel.
func CheckSplitTunnel(v Version, s SplitTunnel) error {
	switch {
	case s == SplitUnused || v.AtLeast(2, 1, 0) || s == SplitTrusted && !v.Streams():
		return nil
	case !v.Streams():
		return fmt.Errorf("%w: it has version %v, and 2.1.0 or later is needed: update the driver, switch the split tunnel off, "+
			"or say that this one knows verdict 8 (kext.SplitTrusted)", ErrNoSplitTunnel, v)
	}
	return fmt.Errorf("%w: it has version %v, and 2.1.0 or later is needed: update the driver or switch the split tunnel off",
		ErrNoSplitTunnel, v)
}

// Run implements intercept.Source. The error wraps intercept.ErrNotInterceptable if there is no driver to open,
// ErrNoSplitTunnel if it is too old, ErrRunning, or what the device says.
func (s *Source) Run(ctx context.Context, h intercept.Handler, ready func()) error {
	if ctx.Err() != nil {
		return nil
	}
	if !s.enter() {
		return ErrRunning
	}
	defer s.leave()
	dev, err := s.cfg.Open()
	if err != nil {
		return fmt.Errorf("open the driver: %w", err)
	}
	unguard := context.AfterFunc(ctx, func() {
		_ = dev.Close() // a driver that does not answer; closed once more below
	})
	b, err := s.meet(dev)
	if !unguard() {
		return dev.Close() //nolint:wrapcheck // done before it began
	}
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	err = b.Run(ctx, h, ready)
	// It closes the device, unless ctx was done before it began.
	if cerr := dev.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close the driver: %w", cerr)
	}
	return err
}

// meet reads the driver's version and chooses who speaks to it.
func (s *Source) meet(dev Device) (backend, error) {
	v, err := readVersion(dev)
	if err != nil {
		return nil, err
	}
	if err := CheckSplitTunnel(v, s.cfg.SplitTunnel); err != nil {
		return nil, err
	}
	b, err := s.choose(v, dev)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active, s.last, s.version = b, b, v
	return b, nil
}

// readVersion asks the driver for its version.
func readVersion(dev Device) (Version, error) {
	var b [kextwire.VersionSize]byte
	n, err := dev.Control(kextwire.CodeVersion, nil, b[:])
	if err != nil {
		return Version{}, fmt.Errorf("read the driver's version: %w", err)
	}
	v, err := kextwire.DecodeVersion(b[:min(max(n, 0), len(b))])
	if err != nil {
		return Version{}, fmt.Errorf("read the driver's version: %w", err)
	}
	return v, nil
}

// choose returns a backend for a driver of this version.
func (s *Source) choose(v Version, dev Device) (backend, error) {
	c := &s.cfg
	if v.Streams() {
		return kextv2.New(kextv2.Config{
			Open: func() (kextv2.Device, error) { return dev, nil }, Version: v,
			Default: c.Default, Timeout: c.Timeout, MaxPending: c.MaxPending, Logger: c.Logger,
		})
	}
	return kextv1.New(kextv1.Config{
		Open: func() (kextv1.Device, error) { return dev, nil }, KnowsSplitTunnel: c.SplitTunnel == SplitTrusted,
		Default: c.Default, Timeout: c.Timeout, MaxPending: c.MaxPending, Logger: c.Logger,
	})
}

func (s *Source) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return false
	}
	s.running = true
	return true
}

func (s *Source) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.active = false, nil
}

// backend returns who speaks to the driver. The error wraps ErrClosed.
func (s *Source) backend(op string) (backend, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return nil, fmt.Errorf("%s: %w", op, ErrClosed)
	}
	return s.active, nil
}

// Update implements intercept.Updater. The error wraps ErrClosed, ErrNoSplitTunnel or what the device says.
func (s *Source) Update(t packet.Tuple, action verdict.Action, route uint8) error {
	b, err := s.backend("update a verdict")
	if err != nil {
		return err
	}
	return b.Update(t, action, route) //nolint:wrapcheck // it says which operation
}

// Forget implements intercept.Updater; see packages kextv1 and kextv2 for its price. The error wraps ErrClosed or what the
// device says.
func (s *Source) Forget(t packet.Tuple) error {
	b, err := s.backend("forget a connection")
	if err != nil {
		return err
	}
	return b.Forget(t) //nolint:wrapcheck // it says which operation
}

// ForgetAll implements intercept.Updater. The error wraps ErrClosed or what the device says.
func (s *Source) ForgetAll() error {
	b, err := s.backend("forget all connections")
	if err != nil {
		return err
	}
	return b.ForgetAll() //nolint:wrapcheck // it says which operation
}

// Version returns the version of the driver that was met last. ok is false if there was none yet.
func (s *Source) Version() (v Version, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version, s.last != nil
}

// Stats returns what happened in the Run that runs, or in the last one.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if last == nil {
		return Stats{}
	}
	return last.Stats()
}
