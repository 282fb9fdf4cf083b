package dnsmon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	// DefaultSocket is where systemd-resolved tells what it answers.
	DefaultSocket = "/run/systemd/resolve/io.systemd.Resolve.Monitor"
	// DefaultSession is the name of the session in which Windows tells what its DNS client answers.
	DefaultSession  = "weir-dnsmon"
	DefaultMinPause = 100 * time.Millisecond
	DefaultMaxPause = 10 * time.Second
)

// Config of a Monitor. New copies it.
type Config struct {
	// Handle gets each answer, in the order of the resolver, from one goroutine. It should not block: what is not read in time is
	// lost when the resolver's buffer is full. It may keep the Answer. Required.
	Handle func(Answer)
	// Socket is the path of the resolver's socket (Linux). Default DefaultSocket.
	Socket string
	// Session is the name of the tracing session (Windows), which nobody else may use. Default DefaultSession.
	Session string
	// Library replaces the system's tracing libraries (Windows): for tests.
	Library string
	// MinPause and MaxPause are between attempts to connect; each in vain doubles the pause. Defaults 100 ms and 10 s.
	MinPause, MaxPause time.Duration
	// Report gets conditions; optional. It must not block.
	Report func(Condition)
	// Logger is silent if nil.
	Logger *slog.Logger
}

// The conditions that a Monitor reports, one at a time.
const (
	// ResolverAbsent: the system has no resolver that could tell, or it does not run.
	ResolverAbsent = "resolver-absent"
	// ResolverRefuses: it does not want to tell.
	ResolverRefuses = "resolver-refuses"
	// ResolverUnknown: it tells in a way that is not understood.
	ResolverUnknown = "resolver-unknown"
)

// Condition is something about the resolver that a person should know.
type Condition struct {
	// ID is one of the constants.
	ID string
	// Text says, for people, what is and what helps.
	Text string
	// Over is true when the condition, reported before, is no longer so.
	Over bool
}

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("dnsmon: bad configuration")

// Stats counts since New.
type Stats struct {
	// Answers were handed over.
	Answers uint64 `json:"answers"`
	// Bad are messages that were not understood.
	Bad uint64 `json:"bad"`
	// Connects is how often the resolver began to tell.
	Connects uint64 `json:"connects"`
	// Connected: it tells now.
	Connected bool `json:"connected"`
}

// monitor is what the Monitors of all systems share.
type monitor struct {
	cfg       Config
	answers   atomic.Uint64
	bad       atomic.Uint64
	connects  atomic.Uint64
	connected atomic.Bool
	condition string // the ID of what was reported last and is not over; of Run alone
}

func (c *Config) setDefaults() error {
	c.Socket, c.Session = cmp.Or(c.Socket, DefaultSocket), cmp.Or(c.Session, DefaultSession)
	c.MinPause = cmp.Or(c.MinPause, DefaultMinPause)
	c.MaxPause = cmp.Or(c.MaxPause, max(c.MinPause, DefaultMaxPause))
	if c.Report == nil {
		c.Report = func(Condition) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Handle == nil || c.MinPause < 0 || c.MaxPause < c.MinPause {
		return fmt.Errorf("%w: Handle is required, MinPause must be positive and not above MaxPause", ErrConfig)
	}
	return nil
}

// Stats may be called at any time.
func (m *monitor) Stats() Stats {
	return Stats{Answers: m.answers.Load(), Bad: m.bad.Load(), Connects: m.connects.Load(), Connected: m.connected.Load()}
}

// keepListening calls listen again and again until ctx is done, with pauses. It calls ready once: listen does when the resolver tells,
// or it is told at the first failure.
func (m *monitor) keepListening(
	ctx context.Context, ready func(), listen func(ctx context.Context, settled func()) error, failed func(error),
) error {
	var once sync.Once
	settled := func() {
		if ready != nil {
			once.Do(ready)
		}
	}
	for pause := m.cfg.MinPause; ctx.Err() == nil; pause = min(2*pause, m.cfg.MaxPause) {
		err := listen(ctx, settled)
		if ctx.Err() != nil {
			break
		}
		if m.connected.Swap(false) {
			pause = m.cfg.MinPause
		}
		failed(err)
		settled()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	m.connected.Store(false)
	return nil
}

// report tells a condition once, and that the one before is over. Without an ID there is none any more.
func (m *monitor) report(c Condition) {
	if c.ID == m.condition {
		return
	}
	if m.condition != "" {
		m.cfg.Report(Condition{ID: m.condition, Over: true})
	}
	if m.condition = c.ID; c.ID != "" {
		m.cfg.Report(c)
	}
}
