package refd

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/verdict"
)

// byName decides about names that say what is to be decided.
type byName map[string]verdict.Verdict

func (b byName) Decide(_ context.Context, q nameserver.Query, a *nameserver.Answer) verdict.Decision {
	if a != nil {
		return verdict.Decision{}
	}
	return verdict.Decision{Verdict: b[q.Name], Reason: verdict.Reason{Code: "by-name"}}
}

// upstreamOf is a server that answers when it is told to, and tells when it was asked.
func upstreamOf(t *testing.T) (at nameserver.Upstream, asked chan string, release chan struct{}) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	asked, release = make(chan string, 1), make(chan struct{})
	server := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked <- q.Question[0].Name
		<-release
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1),
		}}
		_ = w.WriteMsg(m) // the test sees what does not come
	})}
	done := make(chan struct{})
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(done)
		_ = server.ActivateAndServe() // it ends with its socket
	}()
	<-started
	t.Cleanup(func() {
		_ = server.Shutdown() // nobody asks any more
		<-done
	})
	return nameserver.Upstream{Protocol: nameserver.PlainUDP, Addr: netip.MustParseAddrPort(c.LocalAddr().String())}, asked, release
}

// Queries with verdict 3 to 8 are stored at once, accepted ones when they are answered; those that are rerouted are completed then.
func TestQueriesAreStored(t *testing.T) {
	testutil.NoLeaks(t)
	upstream, asked, release := upstreamOf(t)
	decider := byName{}
	for _, v := range verdict.All() {
		decider[v.String()+".test"] = v
	}
	lower := byName{}
	for name, v := range decider {
		lower[string(dns.CanonicalName(name)[:len(name)])] = v
	}
	store := connstore.NewLive(connstore.Config{})
	q := newQueriesRig(t)
	q.sockets.slow = true
	records := &queryRecords{store: store, askers: &q.askers, ownPID: -1, waiting: map[uint64]conn.ID{}}
	server, err := nameserver.New(nameserver.Config{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Decider: lower, Recorder: records,
		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{upstream}, Timeout: time.Minute, FailoverAfter: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- server.Run(ctx, func() { close(ready) }) }()
	<-ready
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	stored := func(name string) []conn.Snapshot {
		return store.Query(connstore.Query{Kind: connstore.OnlyQueries, Domain: name}).Connections
	}
	for name, v := range lower {
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			c := &dns.Client{Timeout: time.Minute}
			if v == verdict.Drop {
				c.Timeout = 200 * time.Millisecond
			}
			_, _, _ = c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), server.Addrs()[0].String()) // what it gets is nameserver's test
		}()
		if v.Allows() {
			<-asked
			list := stored(name)
			if v == verdict.Accept && len(list) != 0 {
				t.Errorf("%v: got %+v stored before the answer; want nothing", v, list)
			}
			if v != verdict.Accept && (len(list) != 1 || !list[0].Live() || list[0].Verdict() != v || list[0].Query.RCode != "") {
				t.Errorf("%v: got %+v stored before the answer; want it to wait", v, list)
			}
			release <- struct{}{}
		}
		<-answered
		list := stored(name)
		if len(list) != 1 || list[0].Verdict() != v || list[0].Live() || list[0].Domain != name || list[0].Query.Type != "A" {
			t.Fatalf("%v: got %+v; want one record, which is over", v, list)
		}
		if s := list[0]; s.Tuple.Remote != server.Addrs()[0] || s.Established() || v.Allows() != (s.Query.Source == "upstream" && s.Query.Addresses[0] == netip.MustParseAddr("192.0.2.1")) {
			t.Errorf("%v: got %+v %+v", v, s, s.Query)
		}
	}
	if n := len(records.waiting); n != 0 {
		t.Errorf("got %d that wait; want none", n)
	}
}
