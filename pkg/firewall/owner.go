package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// HolderFinder is a ProcessFinder that can tell whose a connection is now, whoever made it.
type HolderFinder interface {
	ProcessFinder
	// Holder is Find for a connection that goes on: its process may run another program by now, or have handed it on.
	Holder(ctx context.Context, i *packet.Info, d packet.Direction) (*conn.Process, error)
}

// SocketKeeper is a HolderFinder that can tell whether a process has a connection's socket still. Several may have it: the one that
// made the connection, or was seen to use it, is not replaced by another then.
type SocketKeeper interface {
	// Holds returns the process as it is now if it has the socket of the connection; nil if it has not, or that is not known.
	Holds(ctx context.Context, p *conn.Process, i *packet.Info, d packet.Direction) *conn.Process
}

// ErrNoHolder is returned by Reassign without a HolderFinder.
var ErrNoHolder = errors.New("firewall: the process finder cannot tell who holds a connection")

// OfProcess selects the connections of one process. A start of 0 is any.
func OfProcess(pid int, startTicks uint64) Selection {
	return func(s *conn.Snapshot) bool {
		return s.Process != nil && s.Process.PID == pid && (startTicks == 0 || s.Process.StartTicks == startTicks)
	}
}

// Reassign looks again whose the selected live connections are. One that turns out to belong to another process gets that one, and
// if that is another app, is decided anew as by Reevaluate. Where the holder is not known, everything stays: unknown is not
// another. It returns how many belong to another process than before, or to another program of the same.
func (f *Firewall) Reassign(ctx context.Context, sel Selection) (moved int, err error) {
	holders, ok := f.cfg.Processes.(HolderFinder)
	if !ok {
		return 0, ErrNoHolder
	}
	var errs []error
	f.cfg.Store.Range(func(c *conn.Conn) bool {
		s := c.State()
		if !s.Live() || s.Internal || s.Decision.Verdict == verdict.Undecided || !sel(s) {
			return true
		}
		did, err := f.reassign(ctx, holders, c, s)
		if err != nil {
			errs = append(errs, err)
		}
		if did {
			moved++
		}
		return ctx.Err() == nil
	})
	if ctx.Err() != nil {
		errs = append(errs, fmt.Errorf("reassign: %w", context.Cause(ctx)))
	}
	return moved, errors.Join(errs...)
}

func (f *Firewall) reassign(ctx context.Context, holders HolderFinder, c *conn.Conn, old *conn.Snapshot) (moved bool, err error) {
	i := packet.Info{Tuple: old.Tuple, Direction: old.Direction, Version: 6}
	if old.Tuple.Is4() {
		i.Version = 4
	}
	p, err := holders.Holder(ctx, &i, old.Direction)
	if err != nil || p == nil || sameProgram(p, old.Process) {
		return false, nil //nolint:nilerr // unknown: it stays whose it was
	}
	if k, ok := holders.(SocketKeeper); ok && old.Process != nil && (p.PID != old.Process.PID || p.StartTicks != old.Process.StartTicks) {
		if kept := k.Holds(ctx, old.Process, &i, old.Direction); kept != nil {
			p = kept
		}
		if sameProgram(p, old.Process) {
			return false, nil
		}
	}
	c.Update(func(s *conn.Snapshot) { s.Process = p })
	f.stats.reassigned.Add(1)
	f.cfg.Logger.Debug("a connection belongs to another process now", "connection", old.Tuple, "from", old.Process.Name(), "to", p.Name())
	if sameApp(p, old.Process) || !judgedByPolicy(c.State()) {
		return true, nil
	}
	_, err = f.reevaluate(ctx, c, pushChanges)
	return true, err
}

// sameProgram reports whether two descriptions are of one process that runs one program.
func sameProgram(a, b *conn.Process) bool {
	return a == b || a != nil && b != nil && a.PID == b.PID && a.StartTicks == b.StartTicks && sameApp(a, b)
}

// sameApp reports whether rules cannot tell two processes apart, but for their numbers and what they descend from.
func sameApp(a, b *conn.Process) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Path == b.Path && a.InnerPath == b.InnerPath && a.Script == b.Script && a.UID == b.UID && a.Cgroup == b.Cgroup && a.App.ID == b.App.ID && slices.Equal(a.Args, b.Args)
}
