package refd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// sockets finds processes by the two ends of their sockets.
type sockets struct {
	slow  bool
	asked int
	of    map[[2]netip.AddrPort]*conn.Process
}

var errNoSocket = errors.New("no such socket")

func (s *sockets) Find(_ context.Context, i *packet.Info, _ packet.Direction) (*conn.Process, error) {
	s.asked++
	if p := s.of[[2]netip.AddrPort{i.Local, i.Remote}]; p != nil {
		return p, nil
	}
	return nil, errNoSocket
}

func (s *sockets) FindQuick(i *packet.Info, d packet.Direction) (*conn.Process, bool) {
	if s.slow {
		return nil, false
	}
	p, err := s.Find(context.Background(), i, d)
	return p, err == nil
}

// opinion is an external handler that says the same about everything, if it is there.
type opinion struct {
	is   bool
	says verdict.Decision
	saw  []*conn.Snapshot
}

func (o *opinion) HasHandler() bool { return o.is }

func (o *opinion) AskHandler(_ context.Context, s *conn.Snapshot) (verdict.Decision, bool) {
	if !o.is {
		return verdict.Decision{}, false
	}
	o.saw = append(o.saw, s)
	return o.says, o.says.Verdict != verdict.Undecided
}

var (
	clientSocket = netip.MustParseAddrPort("10.77.0.2:5000")
	elsewhere    = netip.MustParseAddrPort("10.77.0.1:53")
	ours         = netip.MustParseAddrPort("127.0.0.17:53")
	curl         = &conn.Process{PID: 7, StartTicks: 70, Path: "/usr/bin/curl"}
	strict       = &conn.Process{PID: 9, StartTicks: 90, Path: "/usr/bin/strict"}
	resolver     = &conn.Process{
		PID: 8, StartTicks: 80, Path: "/usr/lib/systemd/systemd-resolved",
		Cgroup: "/system.slice/systemd-resolved.service", Services: []string{"Dnscache"},
	}
)

type queriesRig struct {
	*queries
	sockets   *sockets
	opinion   *opinion
	ids       uint64
	prevented []dnsguard.Bypass
}

func newQueriesRig(t *testing.T) *queriesRig {
	t.Helper()
	set, err := rules.Compile(rules.Config{
		Apps: []rules.AppProfile{{ID: "curl", Match: []rules.AppMatch{{Path: curl.Path}}, Rules: []rules.Rule{
			{ID: "curl-no", Action: rules.Block, Remote: []string{".curl.test"}, Comment: "not for curl"},
		}}},
		Global: []rules.Rule{{ID: "nobody", Action: rules.Drop, Remote: []string{".example.test"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	table, err := names.New(names.Config{})
	if err != nil {
		t.Fatal(err)
	}
	live := &rules.Live{}
	live.Swap(set)
	r := &queriesRig{sockets: &sockets{of: map[[2]netip.AddrPort]*conn.Process{}}, opinion: &opinion{}}
	r.queries = newQueries(r.sockets, live, table, false)
	r.handler = r.opinion
	known, err := dnsguard.KnownEndpoints()
	if err != nil {
		t.Fatal(err)
	}
	r.guard, err = dnsguard.New(dnsguard.Config{
		Disabled: func() bool { return false }, Endpoints: known,
		Prevents:  func(p *conn.Process) bool { return p == strict },
		Prevented: func(b dnsguard.Bypass) { r.prevented = append(r.prevented, b) },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.passes = func(name string) bool { return name == "portal.example.test" }
	return r
}

func (r *queriesRig) query(name string, t nameserver.Type) nameserver.Query {
	r.ids++
	return nameserver.Query{ID: r.ids, Client: clientSocket, Server: ours, Protocol: packet.UDP, Name: name, Type: t}
}

// decide asks as the nameserver does, and wants the quick way to say nothing else.
func (r *queriesRig) decide(t *testing.T, q nameserver.Query, a *nameserver.Answer) verdict.Decision {
	t.Helper()
	d := r.Decide(t.Context(), q, nil)
	if d.Verdict.Allows() && a != nil {
		if second := r.Decide(t.Context(), q, a); second.Verdict != verdict.Undecided {
			d = second
		}
	}
	quick, ok := r.DecideQuick(q, nil)
	if ok && a != nil {
		var second verdict.Decision
		if second, ok = r.DecideQuick(q, a); second.Verdict != verdict.Undecided {
			quick = second
		}
	}
	if ok && quick != d {
		t.Errorf("%s: got %+v at once; want %+v", q.Name, quick, d)
	}
	return d
}

func TestQueriesAreDecidedByTheRulesOfWhoAsks(t *testing.T) {
	r := newQueriesRig(t)
	for _, tt := range []struct {
		who    *conn.Process
		name   string
		kind   nameserver.Type
		answer nameserver.Answer
		want   verdict.Verdict
		rule   string
	}{
		{curl, "open.test", 1, nameserver.Answer{}, verdict.Accept, ""},
		{curl, "www.curl.test", 1, nameserver.Answer{}, verdict.Block, "curl-no"},
		{resolver, "www.curl.test", 1, nameserver.Answer{}, verdict.Accept, ""},
		{nil, "www.curl.test", 1, nameserver.Answer{}, verdict.Accept, ""},
		{nil, "example.test", 28, nameserver.Answer{}, verdict.Drop, "nobody"},
		{curl, "open.test", 1, nameserver.Answer{CNAMEs: []string{"a.test", "x.curl.test"}}, verdict.Block, "curl-no"},
		{resolver, "open.test", 1, nameserver.Answer{CNAMEs: []string{"a.test", "x.curl.test"}}, verdict.Accept, ""},
		{curl, "open.test", 65, nameserver.Answer{Targets: []string{"x.curl.test"}}, verdict.Block, "curl-no"},
		{curl, "open.test", 15, nameserver.Answer{Targets: []string{"x.curl.test"}}, verdict.Accept, ""},
		{curl, "dns.google", 1, nameserver.Answer{}, verdict.Accept, ""},
		{curl, "portal.example.test", 1, nameserver.Answer{CNAMEs: []string{"x.curl.test"}}, verdict.Accept, ""},
		{&conn.Process{PID: r.ownPID}, "example.test", 1, nameserver.Answer{}, verdict.Accept, ""},
	} {
		r.sockets.of[[2]netip.AddrPort{clientSocket, ours}] = tt.who
		d := r.decide(t, r.query(tt.name, tt.kind), &tt.answer)
		if d.Verdict != tt.want || d.Reason.Rule != tt.rule || d.Reason.Code == "" {
			t.Errorf("%+v: got %+v", tt, d)
		}
	}
	hits := map[string]uint64{}
	for _, info := range r.rules.Load().Rules() {
		hits[info.ID] = info.Hits()
	}
	if hits["curl-no"] != 3 || hits["nobody"] != 1 {
		t.Errorf("got hits %v; want 3 and 1", hits)
	}
	r.observe = true
	r.sockets.of[[2]netip.AddrPort{clientSocket, ours}] = curl
	if d := r.Decide(t.Context(), r.query("example.test", 1), nil); d.Verdict != verdict.Accept || d.Reason.Rule != "nobody" {
		t.Errorf("got %+v; want what would be refused to pass", d)
	}
}

func TestQueriesAreShownToTheExternalHandler(t *testing.T) {
	r := newQueriesRig(t)
	r.sockets.of[[2]netip.AddrPort{clientSocket, elsewhere}] = curl
	r.askers.redirected.note(packet.Tuple{Protocol: packet.UDP, Local: clientSocket, Remote: elsewhere})
	r.opinion.is = true
	if d := r.decide(t, r.query("www.curl.test", 1), nil); d.Reason.Rule != "curl-no" {
		t.Errorf("got %+v; want the rule's decision", d)
	}
	s := r.opinion.saw[0]
	if s.Process != curl || s.Domain != "www.curl.test" || s.Tuple.Remote != elsewhere || s.Direction != packet.Outbound || !s.Internal {
		t.Errorf("got %+v", s)
	}
	r.opinion.says = verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Code: "handler"}}
	if d := r.decide(t, r.query("www.curl.test", 1), &nameserver.Answer{CNAMEs: []string{"x.example.test"}}); d != r.opinion.says {
		t.Errorf("got %+v; want the handler's decision", d)
	}
	if _, ok := r.DecideQuick(r.query("open.test", 1), nil); ok {
		t.Error("decided at once, beside the handler")
	}
}

// Of programs that may not go round us, the names of servers of DNS over HTTPS are refused, and people are told.
func TestNamesForGoingRoundAreRefused(t *testing.T) {
	r := newQueriesRig(t)
	r.sockets.of[[2]netip.AddrPort{clientSocket, ours}] = strict
	for name, a := range map[string]nameserver.Answer{"dns.google": {}, "other.test": {CNAMEs: []string{"mozilla.cloudflare-dns.com"}}} {
		r.prevented = nil
		d := r.decide(t, r.query(name, 1), &a)
		if d.Verdict != verdict.Block || d.Reason.Code != dnsguard.CodeBypass || len(r.prevented) != 1 || r.prevented[0].Domain != name {
			t.Errorf("%s: got %+v, told %+v; want it blocked", name, d, r.prevented)
		}
		if d := r.preview(nameserver.Query{Name: name}, strict.Path, &a); d.Verdict != verdict.Accept {
			t.Errorf("%s: got %+v; want what holds for another process", name, d)
		}
	}
	if d := r.preview(nameserver.Query{Name: "a.test"}, curl.Path, &nameserver.Answer{CNAMEs: []string{"x.curl.test"}}); d.Reason.Rule != "curl-no" {
		t.Errorf("got %+v; want curl's rule", d)
	}
	r.known = func(path string) *conn.Process {
		return &conn.Process{PID: 7, Path: "/opt/other", App: conn.App{ID: "container:" + path}}
	}
	if d := r.preview(nameserver.Query{Name: "a.test"}, curl.Path, &nameserver.Answer{CNAMEs: []string{"x.curl.test"}}); d.Reason.Rule == "curl-no" {
		t.Errorf("got %+v; want what holds for the process that is known", d)
	}
	if p := (&queries{}).processAt("/usr/bin/tool"); p.App.ID != "path:/usr/bin/tool" {
		t.Errorf("got %+v; want its identity", p)
	}
	if hits := r.rules.Load().Hits(); hits["curl-no"] != 0 {
		t.Errorf("got %v; want a preview to count nothing", hits)
	}
}

func TestAskersAreFoundByTheirSockets(t *testing.T) {
	r := newQueriesRig(t)
	find := func(q nameserver.Query, want *conn.Process) {
		t.Helper()
		if got := r.askers.find(t.Context(), &q).process; got != want {
			t.Errorf("got %+v; want %+v", got, want)
		}
	}
	r.sockets.of[[2]netip.AddrPort{clientSocket, elsewhere}] = curl
	find(r.query("a.test", 1), nil)
	r.askers.redirected.note(packet.Tuple{Protocol: packet.UDP, Local: clientSocket, Remote: elsewhere})
	q := r.query("a.test", 1)
	find(q, curl)
	r.sockets.asked = 0
	find(q, curl)
	if r.sockets.asked != 0 {
		t.Error("looked for the process of one query twice")
	}
	tcp := r.query("a.test", 1)
	tcp.Protocol = packet.TCP
	find(tcp, nil)
	// another socket with the same port, which asks us of itself
	delete(r.sockets.of, [2]netip.AddrPort{clientSocket, elsewhere})
	r.sockets.of[[2]netip.AddrPort{clientSocket, ours}] = resolver
	find(r.query("a.test", 1), resolver)
	r.sockets.slow = true
	q = r.query("a.test", 1)
	if _, ok := r.askers.quick(&q); ok {
		t.Error("found at once what has to be searched")
	}
}

// As many queries as may wait have their processes known to the end.
func TestAskersOfAllWaitingQueriesAreKept(t *testing.T) {
	r := newQueriesRig(t)
	r.sockets.of[[2]netip.AddrPort{clientSocket, ours}] = curl
	waiting := make([]nameserver.Query, nameserver.DefaultMaxQueries)
	for i := range waiting {
		waiting[i] = r.query("a.test", 1)
		r.askers.find(t.Context(), &waiting[i])
	}
	clear(r.sockets.of) // they have closed their sockets
	for _, q := range waiting {
		if got := r.askers.find(t.Context(), &q).process; got != curl {
			t.Fatalf("query %d of %d: got %+v; want its process", q.ID, len(waiting), got)
		}
	}
}

// A server on this host that asks what it would be asked is known by its socket.
func TestServersAreKnownByTheirSockets(t *testing.T) {
	r := newQueriesRig(t)
	for _, u := range []nameserver.Upstream{
		{Addr: netip.MustParseAddrPort("127.0.0.1:53")}, {Addr: netip.MustParseAddrPort("[::1]:5353")},
		{Addr: netip.MustParseAddrPort("127.0.0.1:53"), Protocol: nameserver.PlainTCP},
	} {
		clear(r.sockets.of)
		r.sockets.of[[2]netip.AddrPort{clientSocket, ours}] = resolver
		is := func() bool { return r.isServer(t.Context(), r.query("a.test", 1), u) }
		if is() {
			t.Errorf("%v: a server that nobody knows asks", u)
		}
		listener := [2]netip.AddrPort{u.Addr, netip.AddrPortFrom(u.Addr.Addr(), clientSocket.Port())}
		r.sockets.of[listener] = resolver
		if !is() {
			t.Errorf("%v: the server is not known", u)
		}
		r.sockets.of[listener] = &conn.Process{PID: resolver.PID + 1, StartTicks: resolver.StartTicks, Path: resolver.Path}
		if is() {
			t.Errorf("%v: another process of the same program is taken for the server", u)
		}
		delete(r.sockets.of, [2]netip.AddrPort{clientSocket, ours})
		if is() {
			t.Errorf("%v: nobody is taken for the server", u)
		}
	}
}

func TestRedirectedSocketsAreBounded(t *testing.T) {
	var r redirected
	local := func(n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 5000)
	}
	const more = maxRedirected + 100
	for n := range more {
		r.note(packet.Tuple{Protocol: packet.UDP, Local: local(n), Remote: elsewhere})
		r.note(packet.Tuple{Protocol: packet.UDP, Local: local(n), Remote: ours})
	}
	if len(r.to) != maxRedirected || len(r.order) != maxRedirected {
		t.Errorf("got %d, %d; want %d", len(r.to), len(r.order), maxRedirected)
	}
	for n, want := range map[int]bool{99: false, 100: true, more - 1: true} {
		if to, ok := r.meant(packet.UDP, local(n)); ok != want || ok && to != ours {
			t.Errorf("%d: got %v, %v; want %v", n, to, ok, want)
		}
	}
}

func TestNamesAreLearntFromAnswers(t *testing.T) {
	r := newQueriesRig(t)
	addr := netip.MustParseAddr("192.0.2.1")
	reply := nameserver.Reply{Answer: &nameserver.Answer{CNAMEs: []string{"b.test", "c.test"}, Addrs: []netip.Addr{addr}}}
	learn := func(p *conn.Process, name string) names.Entry {
		r.sockets.of[[2]netip.AddrPort{clientSocket, ours}] = p
		r.answered(r.query(name, 1), reply)
		for _, e := range r.table.All(addr) {
			if e.Domain == name {
				return e
			}
		}
		t.Fatalf("%s is not known: %+v", name, r.table.All(addr))
		return names.Entry{}
	}
	e := learn(curl, "a.test")
	if e.Source != names.Nameserver || e.Asker != (names.Asker{PID: 7, Start: 70}) || !slices.Equal(e.CNAMEs, []string{"b.test", "c.test"}) {
		t.Errorf("got %+v", e)
	}
	// addresses of a service binding are hints about its target
	reply.Answer.Targets = []string{"svc.test"}
	r.answered(r.query("bound.test", typeHTTPS), reply)
	if list := r.table.All(addr); list[0].Domain != "bound.test" || !slices.Equal(list[0].CNAMEs, []string{"b.test", "c.test", "svc.test"}) {
		t.Errorf("got %+v; want the target as the last alias", list[0])
	}
	reply.Answer.Targets = nil
	if e := learn(resolver, "other.test"); e.Asker != (names.Asker{}) {
		t.Errorf("got %+v; want nobody in particular", e)
	}
	// a path is anybody's: no names for everybody because of it
	if e := learn(&conn.Process{PID: 1 << 30, StartTicks: 90, Path: resolver.Path}, "poison.test"); e.Asker != (names.Asker{PID: 1 << 30, Start: 90}) {
		t.Errorf("got %+v; want a name of who has the resolver's path", e)
	}
	if e := learn(nil, "third.test"); e.Asker != (names.Asker{}) {
		t.Errorf("got %+v; want nobody in particular", e)
	}
}
