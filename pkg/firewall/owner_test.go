package firewall_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// holders is a HolderFinder whose answer can be changed.
type holders struct {
	mu  sync.Mutex // guards p
	p   *conn.Process
	err error
}

func (h *holders) Find(context.Context, *packet.Info, packet.Direction) (*conn.Process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.p, h.err
}

func (h *holders) Holder(ctx context.Context, i *packet.Info, d packet.Direction) (*conn.Process, error) {
	return h.Find(ctx, i, d)
}

func (h *holders) set(p *conn.Process, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.p, h.err = p, err
}

// A connection that turns out to belong to another app is decided anew; one that another process of the same app has now is not.
func TestReassign(t *testing.T) {
	curl := &conn.Process{PID: 10, StartTicks: 1, Path: "/usr/bin/curl"}
	for _, tt := range []struct {
		name    string
		now     *conn.Process
		err     error
		moved   int
		pid     int
		verdict verdict.Verdict
	}{
		{"the same", curl, nil, 0, 10, verdict.Accept},
		{"read anew", &conn.Process{PID: 10, StartTicks: 1, Path: "/usr/bin/curl"}, nil, 0, 10, verdict.Accept},
		{"another process of the app", &conn.Process{PID: 11, StartTicks: 2, Path: "/usr/bin/curl"}, nil, 1, 11, verdict.Accept},
		{"another program", &conn.Process{PID: 10, StartTicks: 1, Path: "/usr/bin/wget"}, nil, 1, 10, verdict.Block},
		{"another app", &conn.Process{PID: 12, StartTicks: 3, Path: "/usr/bin/wget"}, nil, 1, 12, verdict.Block},
		{"unknown", nil, errors.New("gone"), 0, 10, verdict.Accept},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			h := &holders{p: curl}
			r := start(t, func(c *firewall.Config) {
				c.Processes = h
				c.Deciders = []firewall.Decider{decider(func(s *conn.Snapshot) firewall.Outcome {
					if s.Process.Path == "/usr/bin/curl" {
						return says(verdict.Accept)
					}
					return says(verdict.Block)
				})}
			})
			i := out(packet.TCP, 1, faraway)
			r.want(i, verdict.ActionPermanentAccept)
			h.set(tt.now, tt.err)
			if moved, err := r.Reassign(t.Context(), firewall.OfProcess(10, 1)); moved != tt.moved || err != nil {
				t.Errorf("got %d, %v; want %d", moved, err, tt.moved)
			}
			synctest.Wait()
			if s := r.state(i.Tuple); s.Process.PID != tt.pid || s.Verdict() != tt.verdict {
				t.Errorf("got process %d, %v; want %d, %v", s.Process.PID, s.Verdict(), tt.pid, tt.verdict)
			}
			if got := r.Stats().Reassigned; got != uint64(tt.moved) {
				t.Errorf("got %d in the figures; want %d", got, tt.moved)
			}
		})
	}
}

// keepers are holders that know who has a socket still.
type keepers struct {
	holders
	kept *conn.Process
}

func (k *keepers) Holds(_ context.Context, p *conn.Process, _ *packet.Info, _ packet.Direction) *conn.Process {
	if k.kept != nil && k.kept.PID == p.PID {
		return k.kept
	}
	return nil
}

// Who has the socket still keeps the connection, whomever a search finds; with what he runs now.
func TestReassignKeepsWhoHolds(t *testing.T) {
	curl := &conn.Process{PID: 10, StartTicks: 1, Path: "/usr/bin/curl"}
	wget := &conn.Process{PID: 10, StartTicks: 1, Path: "/usr/bin/wget"}
	parent := &conn.Process{PID: 9, StartTicks: 1, Path: "/bin/sh"}
	for _, tt := range []struct {
		name  string
		kept  *conn.Process
		moved int
		want  *conn.Process
	}{
		{"keeps it", curl, 0, curl},
		{"keeps it, as another program", wget, 1, wget},
		{"has handed it on", nil, 1, parent},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			k := &keepers{kept: tt.kept}
			k.set(curl, nil)
			r := start(t, func(c *firewall.Config) {
				c.Processes = k
				c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome { return says(verdict.Accept) })}
			})
			i := out(packet.TCP, 1, faraway)
			r.want(i, verdict.ActionPermanentAccept)
			k.set(parent, nil)
			if moved, err := r.Reassign(t.Context(), firewall.Everything); moved != tt.moved || err != nil {
				t.Errorf("got %d, %v; want %d", moved, err, tt.moved)
			}
			synctest.Wait()
			if s := r.state(i.Tuple); s.Process != tt.want {
				t.Errorf("got %+v; want %+v", s.Process, tt.want)
			}
		})
	}
}

func TestReassignWithoutHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.Processes = isProcess(conn.Process{PID: 1}) })
		if _, err := r.Reassign(t.Context(), firewall.Everything); !errors.Is(err, firewall.ErrNoHolder) {
			t.Errorf("got %v; want ErrNoHolder", err)
		}
	})
}
