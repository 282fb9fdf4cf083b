package nameserver

import (
	"context"
	"net"
	"net/netip"
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
