package firewall_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// ways is a Tunneler, and its splitWays a SplitTunneler. Its fields say what
// they answer.
type ways struct {
	mu       sync.Mutex // guards what follows
	tunnel   *conn.TunnelContext
	split    *conn.SplitTunContext
	err      error
	asked    []string
	stopped  []packet.Tuple
	unsplit  []packet.Tuple
	onTunnel func()
}

type splitWays struct{ w *ways }

func (s splitWays) Stop(t packet.Tuple) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.unsplit = append(s.w.unsplit, t)
}

func (splitWays) Active() bool { return true }

func (s splitWays) SplitTun(context.Context, *conn.Snapshot) (*conn.SplitTunContext, bool, error) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, "split")
	if w.split == nil {
		return nil, false, w.err
	}
	c := *w.split
	return &c, true, w.err
}

func (w *ways) set(tunnel *conn.TunnelContext, split *conn.SplitTunContext, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tunnel, w.split, w.err = tunnel, split, err
}

func (w *ways) Tunnel(context.Context, *conn.Snapshot) (*conn.TunnelContext, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, "tunnel")
	if w.onTunnel != nil {
		w.onTunnel()
	}
	if w.tunnel == nil {
		return nil, false, w.err
	}
	c := *w.tunnel
	return &c, true, w.err
}

func (w *ways) Stop(t packet.Tuple) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = append(w.stopped, t)
}

func (w *ways) use(c *firewall.Config) { c.Tunneler, c.SplitTunneler = w, splitWays{w} }

func (w *ways) stops() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.stopped)
}

// unsplits returns how many connections the SplitTunneler was told to end.
func (w *ways) unsplits() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.unsplit)
}

var (
	spn  = &conn.TunnelContext{Provider: "spn"}
	eth1 = &conn.SplitTunContext{Interface: "eth1", Route: 3}
	eth2 = &conn.SplitTunContext{Interface: "eth2", Route: 4}
)

// Which connections the tunnel stage asks about, and in which order.
func TestTunnelStage(t *testing.T) {
	both := []string{"tunnel", "split"}
	for _, tt := range []struct {
		name string
		i    packet.Info
		v    verdict.Verdict
		want []string
	}{
		{"tcp", out(packet.TCP, 1, faraway), verdict.Accept, both},
		{"udp", out(packet.UDP, 1, faraway), verdict.Accept, both},
		{"tcp6", out(packet.TCP, 1, "[2001:db8:1::1]:443"), verdict.Accept, both},
		{"private network", out(packet.TCP, 1, "10.9.9.9:443"), verdict.Accept, both},
		{"attached network", out(packet.TCP, 1, "203.0.113.7:443"), verdict.Accept, []string{"split"}},
		{"sctp", out(packet.SCTP, 1, faraway), verdict.Accept, nil},
		{"ping", ping(packet.Outbound, "198.51.100.7"), verdict.Accept, []string{"split"}},
		{"inbound", in(packet.TCP, 1, faraway), verdict.Accept, nil},
		{"blocked", out(packet.TCP, 1, faraway), verdict.Block, nil},
		{"dropped", out(packet.TCP, 1, faraway), verdict.Drop, nil},
		{"failed", out(packet.TCP, 1, faraway), verdict.Failed, nil},
		{"to the nameserver", out(packet.UDP, 1, "198.51.100.7:53"), verdict.RerouteToNameserver, nil},
		{"loopback", between(out(packet.TCP, 0, faraway), "127.0.0.1:1", "127.0.0.2:2"), verdict.Accept, nil},
		{"loopback6", between(out(packet.TCP, 0, faraway), "[::1]:1", "[::1]:2"), verdict.Accept, nil},
		{"own address", between(out(packet.TCP, 0, faraway), "203.0.113.9:1", "203.0.113.9:2"), verdict.Accept, nil},
		{"link-local", out(packet.UDP, 1, "169.254.1.1:2"), verdict.Accept, nil},
		{"link-local6", out(packet.UDP, 1, "[fe80::1]:2"), verdict.Accept, nil},
		{"multicast", out(packet.UDP, 1, "239.1.1.1:2"), verdict.Accept, nil},
		{"wide multicast", out(packet.UDP, 1, "[ff0e::1]:2"), verdict.Accept, nil},
		{"broadcast", out(packet.UDP, 1, "255.255.255.255:2"), verdict.Accept, nil},
		{"subnet broadcast", out(packet.UDP, 1, "203.0.113.255:2"), verdict.Accept, nil},
		{"nowhere", out(packet.UDP, 1, "0.0.0.0:2"), verdict.Accept, nil},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := &ways{}
			r := start(t, func(c *firewall.Config) {
				w.use(c)
				c.Host, c.Deciders = lan{}, always(tt.v)
			})
			r.fate(tt.i)
			if !slices.Equal(w.asked, tt.want) {
				t.Errorf("asked %q; want %q", w.asked, tt.want)
			}
		})
	}
}

func TestOwnAddressIsNotTunneled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ways{}
		r := start(t, w.use) // without a Host
		r.want(between(out(packet.TCP, 0, faraway), "192.168.1.2:1", "192.168.1.2:2"), verdict.ActionAccept)
		if len(w.asked) != 0 {
			t.Errorf("asked %q; want nothing", w.asked)
		}
	})
}

func TestOwnConnectionsAreNotTunneled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ways{tunnel: spn, split: eth1}
		r := start(t, w.use)
		r.preAuthenticate(packet.TCP, 5)
		r.want(out(packet.TCP, 5, faraway), verdict.ActionPermanentAcceptFinal)
		if len(w.asked) != 0 {
			t.Errorf("asked %q; want nothing", w.asked)
		}
	})
}

func TestTunnelOutcomes(t *testing.T) {
	broken := errors.New("no such interface")
	for _, tt := range []struct {
		name      string
		w         *ways
		want      intercepttest.Outcome
		v         verdict.Verdict
		code      verdict.Code
		observing verdict.Action
	}{
		{"no", &ways{}, intercepttest.Outcome{Action: verdict.ActionPermanentAccept}, verdict.Accept, "test", verdict.ActionAccept},
		{
			"tunnel before split", &ways{tunnel: spn, split: eth1}, intercepttest.Outcome{Action: verdict.ActionRerouteToTunnel},
			verdict.RerouteToTunnel, firewall.CodeTunnel, verdict.ActionRerouteToTunnel,
		},
		{
			"split", &ways{split: eth1}, intercepttest.Outcome{Action: verdict.ActionRerouteToSplitTun, Route: 3},
			verdict.RerouteToSplitTun, firewall.CodeSplitTun, verdict.ActionRerouteToSplitTun,
		},
		{
			"tunnel is not ready", &ways{err: broken, split: eth1}, intercepttest.Outcome{Action: verdict.ActionDrop},
			verdict.Failed, firewall.CodeTunnelFailed, verdict.ActionDrop,
		},
	} {
		for _, mode := range []firewall.Mode{firewall.Enforce, firewall.Observe} {
			bubble(t, fmt.Sprint(tt.name, mode), func(t *testing.T) {
				r := start(t, func(c *firewall.Config) {
					tt.w.use(c)
					c.Mode, c.Deciders = mode, always(verdict.Accept)
				})
				i := out(packet.TCP, 1, faraway)
				want := tt.want
				if mode == firewall.Observe {
					want.Action = tt.observing
				}
				if got := r.fate(i); got.Action != want.Action || got.Route != want.Route {
					t.Errorf("got %v by route %d; want %v by route %d", got, got.Route, want, want.Route)
				}
				synctest.Wait()
				s := r.state(i.Tuple)
				if s.Verdict() != tt.v || s.Decision.Reason.Code != tt.code || s.Decision.Scope == verdict.ScopePermanent != (want.Action == verdict.ActionPermanentAccept) {
					t.Errorf("got %+v; want %v for %v", s.Decision, tt.v, tt.code)
				}
				if (s.Tunnel != nil) != (tt.v == verdict.RerouteToTunnel) || (s.SplitTun != nil) != (tt.v == verdict.RerouteToSplitTun) {
					t.Errorf("got contexts %v, %v; want that of %v", s.Tunnel, s.SplitTun, tt.v)
				}
			})
		}
	}
}

// splitOnly fails where a tunnel would not.
type splitOnly struct{ err error }

func (s splitOnly) SplitTun(context.Context, *conn.Snapshot) (*conn.SplitTunContext, bool, error) {
	return nil, false, s.err
}

func (splitOnly) Stop(packet.Tuple) {}

func (splitOnly) Active() bool { return true }

// An interface that is gone fails the connection in every mode: it never leaves
// by another one.
func TestSplitTunnelNeverFallsBack(t *testing.T) {
	for _, mode := range []firewall.Mode{firewall.Enforce, firewall.Observe} {
		bubble(t, fmt.Sprint(mode), func(t *testing.T) {
			r := start(t, func(c *firewall.Config) {
				c.Mode, c.SplitTunneler = mode, splitOnly{errors.New("eth1 has no address")}
			})
			r.wantWhy(out(packet.TCP, 1, faraway), verdict.ActionDrop, verdict.Failed, firewall.CodeSplitTunFailed)
		})
	}
}

// What observe mode lets pass takes the way that it would take if it were
// accepted: blocking is not enforced, the tunnel is.
func TestObservedRefusalTakesItsWay(t *testing.T) {
	broken := errors.New("no address")
	for _, tt := range []struct {
		name string
		w    *ways
		v    verdict.Verdict
		skip bool
		ack  uint8
		want verdict.Action
		as   verdict.Verdict
	}{
		{"tunnel", &ways{tunnel: spn}, verdict.Block, false, packet.TCPSyn, verdict.ActionRerouteToTunnel, verdict.Block},
		{"split", &ways{split: eth1}, verdict.Drop, false, packet.TCPSyn, verdict.ActionRerouteToSplitTun, verdict.Drop},
		{"neither", &ways{}, verdict.Block, false, packet.TCPSyn, verdict.ActionAccept, verdict.Block},
		{"not ready", &ways{err: broken}, verdict.Block, false, packet.TCPSyn, verdict.ActionDrop, verdict.Failed},
		{"skipped", &ways{tunnel: spn}, verdict.Block, true, packet.TCPSyn, verdict.ActionAccept, verdict.Block},
		{"older", &ways{tunnel: spn}, verdict.Block, false, packet.TCPAck, verdict.ActionBlock, verdict.Block},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) {
				tt.w.use(c)
				c.Mode, c.Deciders = firewall.Observe, always(tt.v)
				if tt.skip {
					c.External = slotOf(t, answering(extverdict.Result{Verdict: tt.v, SkipTunnel: true}))
				}
			})
			i := flags(out(packet.TCP, 1, faraway), tt.ack)
			r.want(i, tt.want)
			if s := r.state(i.Tuple); s.Verdict() != tt.as || s.Enforced != (tt.name == "older" || tt.name == "not ready") {
				t.Errorf("got %v, enforced %t; want %v", s.Verdict(), s.Enforced, tt.as)
			}
			r.reevaluate(firewall.Everything, 0)
			r.store.End(i.Tuple, time.Now())
			if got, want := tt.w.stops() == 1, tt.want == verdict.ActionRerouteToTunnel || tt.name == "older"; got != want {
				t.Errorf("stopped %d times; want once: %t", tt.w.stops(), want)
			}
		})
	}
}

func TestHandlerSkipsTunnel(t *testing.T) {
	for _, skip := range []bool{false, true} {
		bubble(t, fmt.Sprint(skip), func(t *testing.T) {
			w := &ways{tunnel: spn}
			r := start(t, func(c *firewall.Config) {
				w.use(c)
				c.External = slotOf(t, answering(extverdict.Result{Verdict: verdict.Accept, SkipTunnel: skip}))
			})
			want := verdict.ActionRerouteToTunnel
			if skip {
				want = verdict.ActionPermanentAccept
			}
			r.want(out(packet.TCP, 1, faraway), want)
		})
	}
}

// The tunnel or split tunnel of a connection ends with the verdict, with the
// connection, and when the connection was reset.
func TestTunnelStops(t *testing.T) {
	t.Run("tunnel", func(t *testing.T) {
		testStops(t, func() *ways { return &ways{tunnel: spn} }, verdict.ActionRerouteToTunnel, (*ways).stops, (*ways).unsplits)
	})
	t.Run("split tunnel", func(t *testing.T) {
		testStops(t, func() *ways { return &ways{split: eth1} }, verdict.ActionRerouteToSplitTun, (*ways).unsplits, (*ways).stops)
	})
}

func testStops(t *testing.T, newWays func() *ways, action verdict.Action, stops, others func(*ways) int) {
	for name, end := range map[string]func(r *rig, w *ways, i packet.Info){
		"verdict": func(r *rig, w *ways, _ packet.Info) {
			w.set(nil, nil, nil)
			r.reevaluate(firewall.Everything, 1)
		},
		"failure": func(r *rig, w *ways, _ packet.Info) {
			w.set(nil, nil, errors.New("down"))
			r.reevaluate(firewall.Everything, 1)
		},
		"end":   func(r *rig, _ *ways, i packet.Info) { r.store.End(i.Tuple, time.Now()) },
		"older": func(*rig, *ways, packet.Info) {},
	} {
		bubble(t, name, func(t *testing.T) {
			w := newWays()
			r := start(t, w.use)
			i := out(packet.TCP, 1, faraway)
			if name == "older" {
				r.want(flags(i, packet.TCPAck), verdict.ActionPermanentBlock)
			} else {
				r.want(i, action)
			}
			end(r, w, i)
			if got := stops(w); got != 1 || others(w) != 0 {
				t.Errorf("stopped %d times, and %d times what was not used; want once, and 0", got, others(w))
			}
		})
	}
}

// A connection that ends while it is being decided leaves nothing behind: no
// tunnel, nothing in the kernel.
func TestEndsWhileBeingDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := out(packet.TCP, 1, faraway)
		w := &ways{tunnel: spn}
		r := start(t, w.use)
		w.onTunnel = func() { r.store.End(i.Tuple, time.Now()) }
		r.want(i, verdict.ActionRerouteToTunnel)
		if got := w.stops(); got != 1 {
			t.Errorf("stopped %d times; want once", got)
		}
		r.wantCalls(intercepttest.OpForget, 1)
	})
}

// The tunnel that a successor with the same tuple has by then goes on.
func TestEndsWhileBeingDecidedAndHasSuccessor(t *testing.T) {
	for v, stops := range map[verdict.Verdict]int{verdict.RerouteToTunnel: 0, verdict.Undecided: 0, verdict.Accept: 1} {
		bubble(t, v.String(), func(t *testing.T) {
			i := out(packet.TCP, 1, faraway)
			w := &ways{tunnel: spn}
			r := start(t, w.use)
			w.onTunnel = func() {
				r.store.End(i.Tuple, time.Now())
				r.store.GetOrAdd(i.Tuple, func() *conn.Snapshot {
					return &conn.Snapshot{Started: time.Now(), Enforced: true, Decision: verdict.Decision{Verdict: v}}
				})
			}
			r.want(i, verdict.ActionRerouteToTunnel)
			if got := w.stops(); got != stops {
				t.Errorf("stopped %d times; want %d", got, stops)
			}
		})
	}
}

// idleSplit has nothing to do just now.
type idleSplit struct{ splitOnly }

func (idleSplit) Active() bool { return false }

type goneError struct{ error }

func (goneError) Gone() bool { return true }

// What a program has sent that is gone may have to be split: it goes nowhere
// while anything is split, in no mode.
func TestSenderGone(t *testing.T) {
	unknown := finder(func(i *packet.Info, _ packet.Direction) (*conn.Process, error) {
		if i.Local.Port() == 7 {
			return nil, goneError{errors.New("no socket")}
		}
		return nil, errors.New("not permitted")
	})
	split := splitWays{&ways{}}
	for _, tt := range []struct {
		name  string
		split firewall.SplitTunneler
		i     packet.Info
		want  verdict.Verdict
	}{
		{"rest", split, flags(out(packet.TCP, 1, faraway), packet.TCPFin|packet.TCPAck), verdict.Drop},
		{"new, of a program that is gone", split, out(packet.TCP, 7, faraway), verdict.Drop},
		{"datagram of a program that is gone", split, out(packet.UDP, 7, faraway), verdict.Drop},
		{"gone, but nothing is split", idleSplit{}, out(packet.TCP, 7, faraway), verdict.Accept},
		{"gone, to this host", split, between(out(packet.TCP, 0, faraway), "127.0.0.1:7", "127.0.0.2:2"), verdict.Accept},
		{"gone, inbound", split, in(packet.TCP, 7, faraway), verdict.Drop}, // the default
		{"new", split, out(packet.TCP, 1, faraway), verdict.Accept},
		{"to this host", split, flags(between(out(packet.TCP, 0, faraway), "127.0.0.1:1", "127.0.0.2:2"), packet.TCPFin|packet.TCPAck), verdict.Accept},
		{"nothing is split", idleSplit{}, flags(out(packet.TCP, 1, faraway), packet.TCPFin|packet.TCPAck), verdict.Accept},
		{"no split tunnel", nil, flags(out(packet.TCP, 1, faraway), packet.TCPFin|packet.TCPAck), verdict.Accept},
	} {
		for _, mode := range []firewall.Mode{firewall.Enforce, firewall.Observe} {
			bubble(t, fmt.Sprint(tt.name, " ", mode), func(t *testing.T) {
				r := start(t, func(c *firewall.Config) { c.Mode, c.Processes, c.SplitTunneler = mode, unknown, tt.split })
				r.fate(tt.i)
				s := r.state(tt.i.Tuple)
				if s.Decision.Verdict != tt.want || !s.Enforced && s.Direction == packet.Outbound {
					t.Errorf("got %v, enforced %v; want %v, carried out", s.Decision, s.Enforced, tt.want)
				}
				r.reevaluate(firewall.Everything, 0)
			})
		}
	}
}

// mayIdle is splitWays that can be switched off.
type mayIdle struct {
	splitWays
	idle atomic.Bool
}

func (m *mayIdle) Active() bool { return !m.idle.Load() }

// A change of policy does not let pass what nobody can attribute, whether it comes before, after or while that is judged.
func TestSenderGoneStaysStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fin := flags(out(packet.TCP, 1, faraway), packet.TCPFin|packet.TCPAck)
		split := &mayIdle{splitWays: splitWays{&ways{}}}
		var r *rig
		r = start(t, func(c *firewall.Config) {
			c.SplitTunneler = split
			c.Processes = finder(func(*packet.Info, packet.Direction) (*conn.Process, error) {
				if _, err := r.Reevaluate(t.Context(), firewall.Everything); err != nil {
					t.Error(err)
				}
				return nil, goneError{errors.New("no socket")}
			})
		})
		r.want(fin, verdict.ActionPermanentDrop)
		r.want(fin, verdict.ActionPermanentDrop)
		split.idle.Store(true)
		r.reevaluate(firewall.Everything, 1)
		r.want(fin, verdict.ActionPermanentAccept)
	})
}
