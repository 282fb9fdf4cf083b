package dnsmon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirfw/weir/internal/varlink"
)

// Monitor is told by systemd-resolved what it answers. Create it with New.
type Monitor struct{ monitor }

// New returns a Monitor that does nothing yet. The error wraps ErrConfig, or errors.ErrUnsupported on a system whose resolver
// does not tell.
func New(cfg Config) (*Monitor, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &Monitor{monitor{cfg: cfg}}, nil
}

// Run listens until ctx is done; then it returns nil. It calls ready once: when the resolver tells, or at the first failure, which
// Config.Report gets. A resolver that is not there, or goes away, is tried again; what it answers meanwhile is lost.
func (m *Monitor) Run(ctx context.Context, ready func()) error {
	return m.keepListening(ctx, ready, m.listen, m.failed)
}

// listen subscribes and hands over what comes, until that ends.
func (m *Monitor) listen(ctx context.Context, settled func()) error {
	c, err := varlink.Dial(ctx, m.cfg.Socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() {
		_ = c.Close() // to end Receive; it is closed again below
	})()
	var silent atomic.Bool
	patience := time.AfterFunc(helloLimit, func() {
		silent.Store(true)
		_ = c.Close() // as above
	})
	defer patience.Stop()
	err = m.receive(c, func() { patience.Stop(); settled() })
	if silent.Load() {
		err = fmt.Errorf("it has said nothing for %v", helloLimit)
	}
	return errors.Join(err, c.Close())
}

// helloLimit is how long a resolver may take to answer the subscription. One that hangs must not keep its listener from being ready.
const helloLimit = 3 * time.Second

func (m *Monitor) receive(c *varlink.Conn, settled func()) error {
	if err := c.Send(subscription()); err != nil {
		return err
	}
	for {
		r, err := c.Receive()
		if err == nil {
			err = m.take(r, settled)
		}
		switch {
		case err == nil && !r.Continues:
			return fmt.Errorf("subscription: %w", io.EOF)
		case errors.Is(err, ErrBadEvent), errors.Is(err, varlink.ErrMalformed), errors.Is(err, varlink.ErrTooLong):
			if m.bad.Add(1); !m.connected.Load() {
				return err // not even the beginning is understood
			}
			m.cfg.Logger.Debug("message of the resolver not understood", "err", err)
		case err != nil:
			return err
		}
	}
}

// take reads one reply.
func (m *Monitor) take(r varlink.Reply, settled func()) error {
	a, ready, err := parseEvent(r.Parameters)
	if err != nil {
		return err
	}
	if !m.connected.Swap(true) {
		m.connects.Add(1)
		m.report(Condition{})
		m.cfg.Logger.Debug("the resolver tells what it answers", "socket", m.cfg.Socket)
		settled()
	}
	if !ready {
		m.answers.Add(1)
		m.cfg.Handle(a)
	}
	return nil
}

// failed reports why the resolver does not tell. That it ended is no reason: it may start again at once.
func (m *Monitor) failed(err error) {
	m.cfg.Logger.Debug("the resolver does not tell what it answers", "err", err)
	var refused *varlink.Error
	switch {
	case errors.Is(err, fs.ErrPermission), errors.As(err, &refused) && refuses(refused):
		m.report(Condition{ID: ResolverRefuses, Text: fmt.Sprintf(
			"systemd-resolved does not tell what it answers: %v: run as root, or allow the polkit action %s", err, polkitAction)})
	case errors.As(err, &refused), errors.Is(err, ErrBadEvent), errors.Is(err, varlink.ErrMalformed), errors.Is(err, varlink.ErrTooLong):
		m.report(Condition{ID: ResolverUnknown, Text: fmt.Sprintf(
			"this version of systemd-resolved tells its answers in a way that is not understood: %v", err)})
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
	default:
		m.report(Condition{ID: ResolverAbsent, Text: fmt.Sprintf(
			"systemd-resolved 252 or newer does not run: %v: names come from DNS packets only", err)})
	}
}

// polkitAction is what versions want to be allowed whose socket anybody may open.
const polkitAction = "org.freedesktop.resolve1.subscribe-query-results"

// refuses recognises a lack of rights, as different versions say it.
func refuses(e *varlink.Error) bool {
	if e.Name == "io.systemd.System" {
		var system struct {
			Errno int `json:"errno"`
		}
		return json.Unmarshal(e.Parameters, &system) == nil && syscall.Errno(system.Errno).Is(fs.ErrPermission)
	}
	return strings.HasSuffix(e.Name, ".PermissionDenied") || strings.HasSuffix(e.Name, ".InteractiveAuthenticationRequired") ||
		strings.HasSuffix(e.Name, ".NotAuthenticated")
}

// subscription is the call that begins the stream of events.
func subscription() varlink.Call {
	return varlink.Call{Method: "io.systemd.Resolve.Monitor.SubscribeQueryResults", More: true}
}
