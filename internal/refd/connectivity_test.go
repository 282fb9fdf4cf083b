package refd

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// network is a server for probes that a portal may answer for.
type network struct {
	*connectivity
	answer atomic.Pointer[http.HandlerFunc]
	route  atomic.Bool
	told   chan *offline
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{told: make(chan *offline, 8)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*n.answer.Load())(w, r) }))
	t.Cleanup(server.Close)
	c, err := newConnectivity([]string{"http://127.0.0.1:1/nobody", server.URL + "/success.txt"}, []string{"hotel.test"})
	if err != nil {
		t.Fatal(err)
	}
	n.connectivity = c
	c.states = module.NewStates("connectivity")
	c.hasRoute = n.route.Load
	c.lookUp = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.80")}, nil
	}
	c.told = func(o *offline) { n.told <- o }
	n.route.Store(true)
	return n
}

func (n *network) says(f http.HandlerFunc) { n.answer.Store(&f) }

func to(remote, domain string) *conn.Snapshot {
	s := &conn.Snapshot{Direction: packet.Outbound, Domain: domain}
	s.Tuple = packet.Tuple{Protocol: packet.TCP, Local: clientSocket, Remote: netip.MustParseAddrPort(remote)}
	return s
}

func overUDP(s *conn.Snapshot) *conn.Snapshot {
	s.Tuple.Protocol = packet.UDP
	return s
}

func TestProbes(t *testing.T) {
	n := newNetwork(t)
	for name, tt := range map[string]struct {
		says   http.HandlerFunc
		online bool
		portal string
	}{
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, true, ""},
		"a word":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "success\n") }, true, ""},
		"apple": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<HTML><HEAD><TITLE>Success</TITLE></HEAD><BODY>Success</BODY></HTML>")
		}, true, ""},
		"redirected": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://login.hotel.test/?to=x", http.StatusFound)
		}, false, "http://login.hotel.test/?to=x"},
		"a page in its place": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<html><body>Welcome! Please log in.</body></html>")
		}, false, "http://127.0.0.1:"},
		"says so": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNetworkAuthenticationRequired)
		}, false, "http://127.0.0.1:"},
		"to nowhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "javascript:alert(1)", http.StatusFound)
		}, false, "http://127.0.0.1:"},
		"out of order": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, false, ""},
	} {
		n.says(tt.says)
		o := n.probe(t.Context())
		if (o == nil) != tt.online || o != nil && (!strings.HasPrefix(o.portal, tt.portal) || (tt.portal == "") != (o.portal == "")) {
			t.Errorf("%s: got %+v; want online %v, %q", name, o, tt.online, tt.portal)
		}
	}
	n.route.Store(false)
	if o := n.probe(t.Context()); o != nil {
		t.Errorf("without a route: got %+v; want nothing to find out", o)
	}
}

// While the network wants a login, what leads there passes, and people are told where; online, rules hold again.
func TestWhatPassesWhileNotOnline(t *testing.T) {
	testutil.NoLeaks(t)
	n := newNetwork(t)
	n.says(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://login.test:8880/", http.StatusFound)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.run(ctx, func() {}) }()
	next := func() *offline {
		t.Helper()
		select {
		case o := <-n.told:
			return o
		case <-time.After(30 * time.Second):
			t.Fatal("told of no change")
			return nil
		}
	}
	if o := next(); o == nil || o.host != "login.test" || !slices.Equal(o.addrs, []netip.Addr{netip.MustParseAddr("192.0.2.80")}) {
		t.Fatalf("got %+v; want the portal", o)
	}
	if list := n.states.All(); len(list) != 1 || !strings.Contains(list[0].Message, "http://login.test:8880/") {
		t.Errorf("got %+v; want a state with the address", list)
	}
	for s, want := range map[*conn.Snapshot]bool{
		to("198.51.100.1:80", "captive.apple.com"):   true,
		to("198.51.100.1:80", "hotel.test"):          true,
		to("198.51.100.1:80", "login.test"):          true,
		to("192.0.2.80:443", ""):                     true,
		to("192.0.2.80:8880", ""):                    true,
		to("192.0.2.80:22", ""):                      false,
		to("198.51.100.1:22", "login.test"):          false,
		overUDP(to("192.0.2.80:443", "")):            false,
		to("198.51.100.1:80", "www.example.test"):    false,
		to("198.51.100.1:80", ""):                    false,
		to("198.51.100.1:80", "x.captive.apple.com"): false,
	} {
		o := n.Decide(ctx, s)
		if o.Decided != want || want && o.Decision.Verdict != verdict.Accept {
			t.Errorf("%s %v: got %+v; want %v", s.Domain, s.Tuple.Remote, o, want)
		}
		if s.Domain != "" && s.Tuple.Remote.Port() == 80 && n.passesName(s.Domain) != want {
			t.Errorf("%s: may be looked up: %v; want %v", s.Domain, !want, want)
		}
	}
	n.says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	n.networkChanged()
	if o := next(); o != nil {
		t.Errorf("got %+v; want online", o)
	}
	if o := n.Decide(ctx, to("198.51.100.1:80", "captive.apple.com")); o.Decided || n.passesName("captive.apple.com") || len(n.states.All()) != 0 {
		t.Errorf("online: got %+v, and %+v", o, n.states.All())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
