package nameserver

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/packet"
)

// TestOwnQueriesAreRefused: a query of ours that comes back from our own socket makes a state, and no circle.
func TestOwnQueriesAreRefused(t *testing.T) {
	s := scriptedServer(t, Settings{}, &hanging{})
	o := &outgoing{name: "a.test.", qtype: dns.TypeA}
	q, err := o.pack(form{mixed: true, edns: true})
	if err != nil {
		t.Fatal(err)
	}
	forget := s.own.note(packet.UDP, 4000, q)
	m := new(dns.Msg)
	if err := m.Unpack(reply(s, q.wire, packet.UDP)); err != nil || m.Rcode != dns.RcodeRefused {
		t.Errorf("got %v, %v; want REFUSED", m, err)
	}
	states := s.cfg.States.All()
	if len(states) != 1 || states[0].ID != stateLoop || s.Stats().Loops != 1 {
		t.Errorf("got %v; want the state", states)
	}
	forget()
	s.setup.Load().pool.servers[0].exchanger = &scripted{answer: func(o *outgoing) (*dns.Msg, error) { return message(o, dns.RcodeNameError), nil }}
	if err := m.Unpack(reply(s, q.wire, packet.UDP)); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("afterwards: got %v, %v; want the answer", m, err)
	}
	if len(s.cfg.States.All()) != 0 {
		t.Errorf("got %v; want no state after a good answer", s.cfg.States.All())
	}
}

// TestServersThatAskUsAreRefused: a server's own program on this host, and another host that asks what it was asked, make a state, and no
// circle; others are answered.
func TestServersThatAskUsAreRefused(t *testing.T) {
	here, there := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
	var asked []Upstream
	s := scriptedServer(t, Settings{}, &scripted{answer: func(o *outgoing) (*dns.Msg, error) { return message(o, 0, o.name+" 0 IN A 192.0.2.1"), nil }})
	s.locals.ask = func(a netip.Addr) bool { return a == here }
	s.cfg.IsServer = func(_ context.Context, q Query, u Upstream) bool {
		asked = append(asked, u)
		return q.Client.Port() == 4000
	}
	server := s.setup.Load().pool.servers[0]
	b, err := query("a.test.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	asks := func(client netip.AddrPort) (rcode int) {
		t.Helper()
		a := &ask{}
		if _, done := s.begin(a, b, client, netip.AddrPort{}, packet.UDP, nil); done {
			t.Fatal("refused at once")
		}
		out := s.slow(t.Context(), a)
		s.wg.Wait()
		return int(out[3] & 15)
	}
	wantLoops := func(when string, want uint64) {
		t.Helper()
		if got := s.Stats().Loops; got != want || (len(s.cfg.States.All()) == 1) != (want > 0) {
			t.Errorf("%s: got %d loops, %v; want %d", when, got, s.cfg.States.All(), want)
		}
	}
	server.Addr = netip.AddrPortFrom(here, 53)
	if rcode := asks(netip.AddrPortFrom(here, 4001)); rcode != 0 || len(asked) != 1 || asked[0] != server.Upstream {
		t.Errorf("another program of this host: got rcode %d, asked %v", rcode, asked)
	}
	wantLoops("another program", 0)
	if rcode := asks(netip.AddrPortFrom(here, 4000)); rcode != dns.RcodeRefused {
		t.Errorf("the server's own program: got rcode %d; want REFUSED", rcode)
	}
	wantLoops("the server's own program", 1)
	if msg := s.cfg.States.All()[0].Message; !strings.Contains(msg, "192.0.2.7") || !strings.Contains(msg, "seamless") {
		t.Errorf("got %q; want the server and a remedy", msg)
	}

	server.Addr = netip.AddrPortFrom(there, 53)
	st := s.setup.Load()
	st.AnyClient = true
	if rcode := asks(netip.AddrPortFrom(there, 4000)); rcode != 0 {
		t.Errorf("a question of another host's own: got rcode %d", rcode)
	}
	a := &ask{}
	s.begin(a, b, netip.AddrPortFrom(there, 4000), netip.AddrPort{}, packet.UDP, nil)
	if _, first := st.join(string(a.key())); !first {
		t.Fatal("it is under way")
	}
	if rcode := asks(netip.AddrPortFrom(there, 4000)); rcode != dns.RcodeRefused {
		t.Errorf("what it was asked: got rcode %d; want REFUSED", rcode)
	}
	if got := s.Stats().Loops; got != 2 {
		t.Errorf("got %d loops; want 2", got)
	}
}

func TestOtherHosts(t *testing.T) {
	x := &scripted{answer: func(o *outgoing) (*dns.Msg, error) { return message(o, 0, o.name+" 60 IN A 192.0.2.1"), nil }}
	s := scriptedServer(t, Settings{}, x)
	b, err := query("a.test.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	begin := func(addr string) (rcode int) {
		out, done := s.begin(new(ask), b, netip.AddrPortFrom(netip.MustParseAddr(addr), 4000), netip.AddrPort{}, packet.UDP, nil)
		if !done {
			return 0
		}
		return int(out[3] & 15)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]int{"127.0.0.1": 0, "::1": 0, "203.0.113.1": dns.RcodeRefused, "2001:db8::77": dns.RcodeRefused}
	for _, a := range own {
		hosts[netip.MustParsePrefix(a.String()).Addr().String()] = 0
	}
	for addr, want := range hosts {
		if got := begin(addr); got != want {
			t.Errorf("%s: got rcode %d; want %d", addr, got, want)
		}
	}
	s.locals.ask = func(a netip.Addr) bool { return a.String() == "203.0.113.1" }
	if got := begin("203.0.113.1"); got != 0 {
		t.Errorf("an address that is ours: got rcode %d", got)
	}
	settings := s.Settings()
	settings.AnyClient = true
	s.setup.Store(s.newSetup(settings, s.setup.Load()))
	if got := begin("2001:db8::77"); got != 0 {
		t.Errorf("anybody: got rcode %d", got)
	}
}

// TestFailoverTime: a dead server costs FailoverAfter, and after two queries nothing.
func TestFailoverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &hanging{}
		s := scriptedServer(t, Settings{}, dead)
		good := &scripted{answer: func(o *outgoing) (*dns.Msg, error) {
			time.Sleep(20 * time.Millisecond)
			return message(o, 0, o.name+" 0 IN A 192.0.2.1"), nil
		}}
		p := s.setup.Load().pool
		p.servers = append(p.servers, &server{Upstream: Upstream{Addr: netip.MustParseAddrPort("9.9.9.10:53")}, exchanger: good})
		for i := range 20 {
			began := time.Now()
			if _, got := lookup(t, s, "a.test", dns.TypeA); got != "192.0.2.1" {
				t.Fatalf("got %s", got)
			}
			want := 20 * time.Millisecond
			if i < failLimit {
				want += DefaultFailoverAfter
			}
			if d := time.Since(began); d != want {
				t.Errorf("query %d took %v; want %v", i, d, want)
			}
			time.Sleep(time.Second)
		}
	})
}

// hanging never answers.
type hanging struct{}

func (*hanging) exchange(ctx context.Context, _ *outgoing) (*dns.Msg, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (*hanging) close() {}
