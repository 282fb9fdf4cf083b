package nameserver_test

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
)

// TestDeadConnections has connections that were good fall silent, as they do when a network changes: the next query gets a new one.
func TestDeadConnections(t *testing.T) {
	noLeaks(t)
	cert, roots := certificate(t)
	truth := zoneReply(newZone(t, "a.test. 0 IN A 192.0.2.1"))
	for _, c := range []struct {
		format string
		f      *fake
	}{
		{"tcp://ADDR", plain(t, truth)},
		{"tls://ADDR", dot(t, cert, truth)},
		{"https://ADDR", doh(t, cert, 0, truth)},
	} {
		u := c.f.upstream(t, c.format)
		relay := newRelay(t, u.Addr.String())
		u.Addr = netip.MustParseAddrPort(relay.listener.Addr().String())
		r := run(t, nameserver.Config{RootCAs: roots, Settings: nameserver.Settings{
			Upstreams: []nameserver.Upstream{u}, FailoverAfter: limit, Timeout: limit,
		}})
		for range 3 {
			// A machine that is busy enough makes good connections look dead, too.
			eventually(t, "an answer", func() bool { return first(r.ask("a.test", dns.TypeA)) == "192.0.2.1" })
			relay.hush()
		}
		if n := relay.connections(); n < 3 {
			t.Errorf("%s: got %d connections; want a new one for each answer", c.format, n)
		}
	}
}

// relay passes connections on until it is told to swallow what they carry.
type relay struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []*relayed
}

type relayed struct {
	ends  [2]net.Conn
	quiet atomic.Bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, to: to}
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			c.ends[0].Close()
			c.ends[1].Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (r *relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp4", r.to)
		if err != nil {
			in.Close()
			continue
		}
		c := &relayed{ends: [2]net.Conn{in, out}}
		r.mu.Lock()
		r.conns = append(r.conns, c)
		r.mu.Unlock()
		for i := range c.ends {
			r.wg.Go(func() { c.copy(c.ends[i], c.ends[1-i]) })
		}
	}
}

func (c *relayed) copy(from, to net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if !c.quiet.Load() {
			_, _ = to.Write(buf[:n])
		}
	}
}

// hush has all connections so far carry nothing more.
func (r *relay) hush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.quiet.Store(true)
	}
}

func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}
