package kextcore

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/weirfw/weir/pkg/verdict"
)

// Defaults of Config.
const (
	DefaultTimeout    = 30 * time.Second
	DefaultMaxPending = 4096

	// maxPendingBytes bounds the memory of packets that wait for the handler.
	maxPendingBytes = 16 << 20
)

// ErrBadConfig is wrapped by errors about a configuration that cannot work.
var ErrBadConfig = errors.New("kext: bad config")

// ErrRunning is returned by a second Run while the first one runs.
var ErrRunning = errors.New("kext: source runs already")

// ErrClosed is wrapped when something is asked of a source whose Run does not run.
var ErrClosed = errors.New("kext: source does not run")

// ErrNoSplitTunnel is wrapped when a connection was to be split and the driver does not know how.
var ErrNoSplitTunnel = errors.New("kext: the driver does not know the split tunnel")

// ErrNoPacketID is wrapped by a verdict for what the driver has no packet of.
var ErrNoPacketID = errors.New("kext: the driver gave the packet no id")

// Config of a Runner.
type Config struct {
	// Default is the action for packets that nobody decides about.
	Default verdict.Action
	// Timeout is how long a packet waits for the handler.
	Timeout time.Duration
	// MaxPending is how many packets may wait for the handler.
	MaxPending int
	// AcceptProxied accepts at once what newer drivers let pass by themselves: what they have redirected to our split tunnel's
	// proxy (kextwire.ForProxy).
	AcceptProxied bool
	// Logger is told what does not end in an error; nil is silence.
	Logger *slog.Logger
}

// withDefaults returns c with its defaults filled in. The error wraps ErrBadConfig.
func (c Config) withDefaults() (Config, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MaxPending == 0 {
		c.MaxPending = DefaultMaxPending
	}
	switch {
	case c.Timeout < 0 || c.MaxPending < 0:
		return c, fmt.Errorf("%w: a size or time is negative", ErrBadConfig)
	case c.Default.Permanent() || c.Default >= verdict.NumActions:
		return c, fmt.Errorf("%w: default %v: use Drop, Block or Accept", ErrBadConfig, c.Default)
	}
	return c, nil
}

// MissingOpen is the error of a package whose Config has no Open.
func MissingOpen(pkg string) error { return fmt.Errorf("%w: %s: Open is required", ErrBadConfig, pkg) }
