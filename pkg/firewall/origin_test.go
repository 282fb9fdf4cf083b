package firewall_test

import (
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

// sockets is a finder that knows who opened some connections, and no process.
type sockets struct {
	finder
	opened map[packet.Tuple]packet.Direction
}

func (s sockets) FindOrigin(i *packet.Info) (packet.Direction, bool) {
	d, ok := s.opened[i.Tuple]
	return d, ok
}

func synAck(i packet.Info) packet.Info { return flags(i, packet.TCPSyn|packet.TCPAck) }

// Who opened a connection that the kernel's tracking does not know either: the
// sockets of this host tell, where packets do not.
func TestDirectionBySockets(t *testing.T) {
	ack := func(i packet.Info) packet.Info { return flags(i, packet.TCPAck) }
	opened := func(d packet.Direction) *packet.Direction { return &d }
	for _, tt := range []struct {
		name            string
		i               packet.Info
		tracked, opened *packet.Direction
		want            packet.Direction
	}{
		{"data from our server", ack(in(packet.TCP, 1, faraway)), nil, opened(packet.Outbound), packet.Outbound},
		{"data to our client", ack(out(packet.TCP, 1, faraway)), nil, opened(packet.Inbound), packet.Inbound},
		{"no socket, in", ack(in(packet.TCP, 1, faraway)), nil, nil, packet.Inbound},
		{"no socket, out", ack(out(packet.TCP, 1, faraway)), nil, nil, packet.Outbound},
		{"the kernel knows", ack(in(packet.TCP, 1, faraway)), opened(packet.Outbound), opened(packet.Inbound), packet.Outbound},
		{"beginning", in(packet.TCP, 1, faraway), nil, opened(packet.Outbound), packet.Inbound},
		{"answer to our beginning", synAck(in(packet.TCP, 1, faraway)), nil, opened(packet.Outbound), packet.Outbound},
		{"answer to our beginning, tracked", synAck(in(packet.TCP, 1, faraway)), opened(packet.Outbound), nil, packet.Outbound},
		{"answer, and nobody asked", synAck(in(packet.TCP, 1, faraway)), nil, nil, packet.Inbound},
		{"answer to a port that is listened on", synAck(in(packet.TCP, 1, faraway)), nil, opened(packet.Inbound), packet.Inbound},
		{"our answer", synAck(out(packet.TCP, 1, faraway)), nil, nil, packet.Inbound},
		{"our answer to a beginning at the same time", synAck(out(packet.TCP, 1, faraway)), opened(packet.Outbound), nil, packet.Outbound},
		{"no TCP", in(packet.UDP, 1, faraway), nil, opened(packet.Outbound), packet.Inbound},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			known := make(map[packet.Tuple]packet.Direction)
			if tt.opened != nil {
				known[tt.i.Tuple] = *tt.opened
			}
			r := start(t, func(c *firewall.Config) { c.Processes = sockets{isProcess(conn.Process{}), known} })
			if tt.tracked != nil {
				r.src.track(tt.i.Tuple, *tt.tracked)
			}
			r.fate(tt.i)
			synctest.Wait()
			if got := r.state(tt.i.Tuple).Direction; got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

// Who opened a connection whose beginning was not seen: what comes in proves
// nothing, so that nobody gets in by an answer that nobody asked for.
func TestDirectionOfOlder(t *testing.T) {
	isReply := func(i packet.Info) packet.Info {
		i.ICMPType = 0
		return i
	}
	tracked, untracked := true, false
	for _, tt := range []struct {
		name    string
		i       packet.Info
		tracked bool // from the other side
		want    packet.Direction
	}{
		{"data that comes in", flags(in(packet.TCP, 1, faraway), packet.TCPAck), tracked, packet.Outbound},
		{"data that comes in, unknown", flags(in(packet.TCP, 1, faraway), packet.TCPAck), untracked, packet.Inbound},
		{"data that goes out", flags(out(packet.TCP, 1, faraway), packet.TCPAck), tracked, packet.Inbound},
		{"data that goes out, unknown", flags(out(packet.TCP, 1, faraway), packet.TCPAck), untracked, packet.Outbound},
		{"udp that comes in", in(packet.UDP, 1, faraway), tracked, packet.Outbound},
		{"udp that comes in, unknown", in(packet.UDP, 1, faraway), untracked, packet.Inbound},
		{"udp that goes out", out(packet.UDP, 1, faraway), tracked, packet.Inbound},
		{"udp that goes out, unknown", out(packet.UDP, 1, faraway), untracked, packet.Outbound},
		{"syn+ack in", synAck(in(packet.TCP, 1, faraway)), tracked, packet.Outbound},
		{"syn+ack in, unknown", synAck(in(packet.TCP, 1, faraway)), untracked, packet.Inbound},
		{"syn+ack out", synAck(out(packet.TCP, 1, faraway)), tracked, packet.Inbound},
		{"syn+ack out, unknown", synAck(out(packet.TCP, 1, faraway)), untracked, packet.Inbound},
		{"syn in", in(packet.TCP, 1, faraway), tracked, packet.Inbound},
		{"syn out", out(packet.TCP, 1, faraway), tracked, packet.Outbound},
		{"echo reply in", isReply(back(ping(packet.Outbound, "198.51.100.7"))), tracked, packet.Outbound},
		{"echo reply in, unknown", isReply(back(ping(packet.Outbound, "198.51.100.7"))), untracked, packet.Inbound},
		{"echo reply out", isReply(back(ping(packet.Inbound, "198.51.100.7"))), untracked, packet.Inbound},
		{"echo request out", ping(packet.Outbound, "198.51.100.7"), tracked, packet.Outbound},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, nil)
			if tt.tracked {
				r.src.track(tt.i.Tuple, tt.i.Direction^1)
			}
			r.fate(tt.i)
			synctest.Wait()
			if got := r.state(tt.i.Tuple).Direction; got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

// Without anybody to ask, what comes in is inbound.
func TestDirectionWithoutSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.Source = nil })
		i := synAck(in(packet.TCP, 22, faraway))
		r.wantWhy(i, verdict.ActionPermanentDrop, verdict.Drop, firewall.CodeDefault)
		r.want(in(packet.TCP, 22, faraway), verdict.ActionPermanentDrop)
	})
}

// What was decided about one side's packets does not hold when the other one
// opens a connection: an answer or a datagram of whoever comes in must not let
// in what follows, nor keep this host from speaking first.
func TestTurningRound(t *testing.T) {
	pong := back(ping(packet.Outbound, "198.51.100.7"))
	pong.ICMPType = 0
	self := between(out(packet.TCP, 0, faraway), "127.0.0.1:5", "127.0.0.1:5")
	for _, tt := range []struct {
		name        string
		first, then packet.Info
		want        packet.Direction
		anew        bool
	}{
		{"syn after a forged syn+ack", synAck(in(packet.TCP, 1, faraway)), in(packet.TCP, 1, faraway), packet.Inbound, false},
		{"their syn after ours", out(packet.TCP, 1, faraway), in(packet.TCP, 1, faraway), packet.Inbound, true},
		{"our syn after theirs", in(packet.TCP, 1, faraway), out(packet.TCP, 1, faraway), packet.Outbound, true},
		{"our syn after their forged syn+ack", synAck(in(packet.TCP, 1, faraway)), out(packet.TCP, 1, faraway), packet.Outbound, true},
		{"their answer to ours", out(packet.TCP, 1, faraway), synAck(in(packet.TCP, 1, faraway)), packet.Outbound, false},
		{"with itself", self, back(self), packet.Outbound, false},
		{"our ping after a forged reply", pong, ping(packet.Outbound, "198.51.100.7"), packet.Outbound, true},
		{"their reply to our ping", ping(packet.Outbound, "198.51.100.7"), pong, packet.Outbound, false},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := startOn(t, newSource(intercepttest.Config{Memory: intercepttest.Forgets}), nil)
			r.fate(tt.first)
			synctest.Wait()
			old := r.state(tt.first.Tuple).ID
			time.Sleep(time.Millisecond)
			got := r.fate(tt.then)
			synctest.Wait()
			s := r.state(tt.then.Tuple)
			if s.Direction != tt.want || (s.ID != old) != tt.anew {
				t.Errorf("got connection %d %v after %d; want %v, a new one: %t", s.ID, s.Direction, old, tt.want, tt.anew)
			}
			if allowed := got.Action.Verdict().Allows(); allowed != (tt.want == packet.Outbound) {
				t.Errorf("got %v; want it by the default of %vbound connections", got, tt.want)
			}
		})
	}
}

// Datagrams of this host may answer what came in before the firewall began, and
// after a time without interception.
func TestOlderInboundUDP(t *testing.T) {
	const quiet = 400 * time.Millisecond // no pause
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		port := uint16(0)
		// next sends a datagram of this host in a conversation that another began
		next := func(want packet.Direction) {
			t.Helper()
			port++
			i := out(packet.UDP, port, faraway)
			r.src.track(i.Tuple, packet.Inbound)
			r.fate(i)
			synctest.Wait()
			if s := r.state(i.Tuple); s.Direction != want {
				t.Errorf("port %d: got %v; want %v", port, s.Direction, want)
			}
		}
		next(packet.Inbound)
		for began := time.Now(); time.Since(began) < 3*time.Minute-quiet; {
			time.Sleep(quiet)
			next(packet.Inbound)
		}
		time.Sleep(quiet)
		next(packet.Outbound) // nothing older is left: the kernel is not asked
		time.Sleep(2 * time.Second)
		next(packet.Inbound)
		time.Sleep(quiet)
		next(packet.Inbound)
	})
}

// Where it would be redirected, an answer counts as one at any time, and takes
// neither way: it is judged as what it is.
func TestOlderInboundUDPIsNotRedirected(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(t *testing.T, w *ways, c *firewall.Config)
	}{
		{"split", func(_ *testing.T, w *ways, _ *firewall.Config) { w.split = eth1 }},
		{"tunnel", func(_ *testing.T, w *ways, _ *firewall.Config) { w.tunnel = spn }},
		{"split, judged on the spot", func(_ *testing.T, w *ways, c *firewall.Config) {
			w.split, c.Tunneler, c.Processes = eth1, nil, &quick{}
		}},
		{"split, after a handler was asked", func(t *testing.T, w *ways, c *firewall.Config) {
			t.Helper()
			w.split, c.External = eth1, slotOf(t, answering(extverdict.Result{}))
		}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := &ways{}
			r := start(t, func(c *firewall.Config) {
				w.use(c)
				tt.edit(t, w, c)
			})
			// long since, without a pause
			for n := range 400 {
				r.fate(out(packet.UDP, uint16(n+1000), faraway))
				time.Sleep(500 * time.Millisecond)
			}
			i := out(packet.UDP, 1, faraway)
			r.src.track(i.Tuple, packet.Inbound)
			r.wantWhy(i, verdict.ActionPermanentDrop, verdict.Drop, firewall.CodeDefault)
			if s := r.state(i.Tuple); s.Direction != packet.Inbound || s.SplitTun != nil || s.Tunnel != nil {
				t.Errorf("got %v, %+v, %+v; want inbound by neither way", s.Direction, s.SplitTun, s.Tunnel)
			}
			r.wantCalls(intercepttest.OpUpdate, 0)
		})
	}
}
