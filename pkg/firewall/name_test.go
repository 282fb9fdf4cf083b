package firewall_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// A name that comes after the first packet is put on the connection, and rules see it.
func TestNamesThatComeLate(t *testing.T) {
	for name, tt := range map[string]struct {
		after, look time.Duration
		want        string
	}{
		"in time for the first look":  {90 * time.Millisecond, 130 * time.Millisecond, "ads.example"},
		"in time for the second look": {time.Second, 2200 * time.Millisecond, "ads.example"},
		"never":                       {time.Hour, 10 * time.Second, ""},
	} {
		bubble(t, name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) {
				c.Names = names{tt.after, time.Now()}
				c.Deciders = []firewall.Decider{decider(func(s *conn.Snapshot) firewall.Outcome {
					if s.Domain == "ads.example" {
						return says(verdict.Block)
					}
					return says(verdict.Accept)
				})}
			})
			i := out(packet.TCP, 1000, faraway)
			r.want(i, verdict.ActionPermanentAccept)
			time.Sleep(tt.look)
			synctest.Wait()
			s := r.state(i.Tuple)
			if s.Domain != tt.want {
				t.Errorf("got name %q; want %q", s.Domain, tt.want)
			}
			if blocked := s.Verdict() == verdict.Block; blocked != (tt.want != "") {
				t.Errorf("got %v for name %q", s.Verdict(), s.Domain)
			}
		})
	}
}

// renamed is an address that has another name after a time.
type renamed struct {
	at    time.Time
	known bool // who looked it up
}

func (n renamed) FindName(context.Context, *conn.Snapshot, time.Duration) (firewall.Name, bool) {
	name := firewall.Name{Domain: "fine.example", LookedUp: epoch}
	if !time.Now().Before(n.at) {
		name = firewall.Name{Domain: "ads.example", LookedUp: n.at}
	}
	if n.known {
		name.LookedUp = time.Time{}
	}
	return name, true
}

// epoch is when the clock of a synctest bubble starts.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Where nobody knows who looked up what, a lookup that is reported a moment after the first packet is what led to it.
func TestNamesThatRace(t *testing.T) {
	for name, tt := range map[string]struct {
		after time.Duration
		known bool
		want  string
	}{
		"a moment later":              {20 * time.Millisecond, false, "ads.example"},
		"too late for that":           {30 * time.Millisecond, false, "fine.example"},
		"what the process looked up":  {20 * time.Millisecond, true, "fine.example"},
		"after the connection is old": {time.Second, false, "fine.example"},
	} {
		bubble(t, name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) { c.Names = renamed{time.Now().Add(tt.after), tt.known} })
			i := out(packet.TCP, 1000, faraway)
			r.want(i, verdict.ActionPermanentAccept)
			time.Sleep(3 * time.Second)
			if got := r.state(i.Tuple).Domain; got != tt.want {
				t.Errorf("got %q; want %q", got, tt.want)
			}
		})
	}
}

// Many nameless connections are bounded, and those that come to this host or stay on it are not looked at.
func TestNamelessFlood(t *testing.T) {
	bubble(t, "flood", func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.Names = names{50 * time.Millisecond, time.Now()} })
		for i := range 6000 {
			r.send(out(packet.UDP, uint16(1000+i), faraway))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		named := 0
		r.store.Range(func(c *conn.Conn) bool {
			if c.State().Domain != "" {
				named++
			}
			return true
		})
		if named != 4096 {
			t.Errorf("got %d named; want the bound", named)
		}
	})
}

// needer is a SplitTunneler to which names matter.
type needer struct {
	mu    sync.Mutex // guards asked
	asked []string
}

func (n *needer) SplitTun(_ context.Context, s *conn.Snapshot) (*conn.SplitTunContext, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, s.Domain)
	return &conn.SplitTunContext{Interface: "eth9"}, s.Domain == "ads.example", nil
}
func (n *needer) Stop(packet.Tuple)               {}
func (n *needer) Active() bool                    { return true }
func (n *needer) NeedsName(s *conn.Snapshot) bool { return s.Domain == "" && s.Tuple.Local.Port() != 9 }

func TestSplitTunnelWaitsForNames(t *testing.T) {
	for name, tt := range map[string]struct {
		after time.Duration
		port  uint16
		want  verdict.Action
		wait  time.Duration
	}{
		"it comes":         {20 * time.Millisecond, 1000, verdict.ActionRerouteToSplitTun, 20 * time.Millisecond},
		"too late":         {time.Hour, 1000, verdict.ActionPermanentAccept, firewall.DefaultNameWait},
		"does not matter":  {20 * time.Millisecond, 9, verdict.ActionPermanentAccept, 0},
		"known beforehand": {0, 1000, verdict.ActionRerouteToSplitTun, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			n := &needer{}
			r := start(t, func(c *firewall.Config) {
				c.SplitTunneler, c.Names = n, names{tt.after, time.Now()}
			})
			began := time.Now()
			r.want(out(packet.TCP, tt.port, faraway), tt.want)
			if took := time.Since(began); took != tt.wait {
				t.Errorf("waited %v; want %v", took, tt.wait)
			}
		})
	}
}

// observer wants packets of port 53, and notes what it sees.
type observer struct {
	mu   sync.Mutex // guards seen
	seen []packet.Direction
}

func (*observer) Observes(s *conn.Snapshot) bool { return s.Tuple.Remote.Port() == 53 }

func (o *observer) Observe(_ *conn.Snapshot, p packet.Packet) {
	if _, err := p.Payload(); err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, p.Info().Direction)
}

func (o *observer) directions() []packet.Direction {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.seen)
}

// Observed connections are never left to the kernel, and each of their packets is shown before it passes.
func TestObserver(t *testing.T) {
	const resolver = "198.51.100.53:53"
	for _, mode := range []firewall.Mode{firewall.Enforce, firewall.Observe} {
		bubble(t, "seen", func(t *testing.T) {
			o := &observer{}
			r := start(t, func(c *firewall.Config) { c.Observer, c.Mode = o, mode })
			query := out(packet.UDP, 1000, resolver)
			shown := func(i packet.Info) {
				t.Helper()
				if got := r.result(r.src.Send(intercepttest.Packet{Info: i, Payload: []byte{1}})); got.Action != verdict.ActionAccept || got.By != intercepttest.ByHandler {
					t.Errorf("got %v; want Accept by the handler", got)
				}
				synctest.Wait()
			}
			for _, i := range []packet.Info{query, back(query), query} {
				shown(i)
			}
			if got, want := o.directions(), []packet.Direction{packet.Outbound, packet.Inbound, packet.Outbound}; !slices.Equal(got, want) {
				t.Errorf("got %v; want %v", got, want)
			}
			if s := r.state(query.Tuple); s.Verdict() != verdict.Accept {
				t.Errorf("got %v", s.Verdict())
			}
			other := out(packet.UDP, 1000, faraway)
			r.want(other, map[firewall.Mode]verdict.Action{firewall.Enforce: verdict.ActionPermanentAccept, firewall.Observe: verdict.ActionAccept}[mode])
			if n := len(o.directions()); n != 3 {
				t.Errorf("got %d packets; want no more than 3", n)
			}
		})
	}
	bubble(t, "refused", func(t *testing.T) {
		o := &observer{}
		r := start(t, func(c *firewall.Config) { c.Observer, c.Deciders = o, always(verdict.Block) })
		r.want(out(packet.UDP, 1000, resolver), verdict.ActionPermanentBlock)
		if n := len(o.directions()); n != 0 {
			t.Errorf("got %d packets; want none: it did not pass", n)
		}
	})
	bubble(t, "refused later", func(t *testing.T) {
		o, p := &observer{}, newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) { c.Observer, c.Deciders = o, []firewall.Decider{p} })
		i := out(packet.UDP, 1000, resolver)
		r.want(i, verdict.ActionAccept)
		p.set(says(verdict.Drop))
		r.reevaluate(firewall.Everything, 1)
		if got := r.src.Send(intercepttest.Packet{Info: back(i), Payload: []byte{1}}); r.result(got).Action.Verdict() != verdict.Drop {
			t.Errorf("got %v; want a drop", r.result(got))
		}
		if n := len(o.directions()); n != 0 {
			t.Errorf("got %d packets; want none", n)
		}
	})
}
