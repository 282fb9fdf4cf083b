package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

// The mark by which the rules of the lab know the proxy's own packets.
const ownMark = 1709

// limit bounds everything that a test waits for: other tests run beside it.
const limit = 20 * time.Second

// family is a row of most tables: IPv4 and IPv6 go through the same tests.
type family struct {
	name, iptables      string
	service             netip.Addr // what clients connect to; both the server and the VPN's end have it
	eth, vpn            netip.Addr // the client's addresses
	listen              netip.AddrPort
	net                 netip.Prefix // redirected
	tcp, udp            string
	headers, bigPayload int // bytes of IP and UDP headers; the largest datagram
}

var families = []family{
	{
		name: "IPv4", iptables: "iptables", service: netip.MustParseAddr("203.0.113.10"),
		eth: netip.MustParseAddr("10.1.0.1"), vpn: netip.MustParseAddr("10.2.0.1"),
		listen: netip.MustParseAddrPort("127.0.0.17:719"), net: netip.MustParsePrefix("203.0.113.0/24"),
		tcp: "tcp4", udp: "udp4", headers: 28, bigPayload: 65507,
	},
	{
		name: "IPv6", iptables: "ip6tables", service: netip.MustParseAddr("2001:db8:5::10"),
		eth: netip.MustParseAddr("fd01::1"), vpn: netip.MustParseAddr("fd02::1"),
		listen: netip.MustParseAddrPort("[::1]:719"), net: netip.MustParsePrefix("2001:db8:5::/64"),
		tcp: "tcp6", udp: "udp6", headers: 48, bigPayload: 65487,
	},
}

func (f family) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(f.service, port) }

// rig is a client, which is the namespace of the test itself, between two hosts: the server behind eth0, and a VPN's end behind
// vpn0, which has the default route.
type rig struct {
	t           testing.TB
	server, vpn *testnet.Host
	ethIndex    int
	director    *director
	proxy       *proxy.Server
}

func newRig(t testing.TB) *rig {
	t.Helper()
	testnet.RequireOwnNamespace(t)
	lab := testnet.New(t)
	r := &rig{t: t, server: lab.Host("server"), vpn: lab.Host("vpn"), director: &director{}}
	r.connect("eth0", "100", r.server, "10.1.0.1/24", "fd01::1/64", "10.1.0.2", "fd01::2")
	r.connect("vpn0", "10", r.vpn, "10.2.0.1/24", "fd02::1/64", "10.2.0.2", "fd02::2")
	i, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	r.ethIndex = i.Index
	r.director.answer = func(q proxy.Request) (proxy.Egress, error) { return r.egress(q.Destination.Addr()), nil }
	return r
}

// redirect has what is sent to the service addresses come to the proxy, as the firewall does it.
func (r *rig) redirect() {
	for _, f := range families {
		for _, proto := range []string{"tcp", "udp"} {
			r.run(f.iptables, "-w", "-t", "nat", "-A", "OUTPUT", "-p", proto, "-d", f.net.String(),
				"-m", "mark", "!", "--mark", strconv.Itoa(ownMark), "-j", "DNAT", "--to-destination", f.listen.String())
		}
	}
}

func (r *rig) connect(iface, metric string, h *testnet.Host, our4, our6, gw4, gw6 string) {
	r.t.Helper()
	r.run("ip", "link", "add", iface, "type", "veth", "peer", "name", "eth0", "netns", h.Netns())
	r.run("ip", "address", "add", our4, "dev", iface)
	r.run("ip", "address", "add", our6, "dev", iface, "nodad")
	h.Run(r.t, "ip", "address", "add", gw4+"/24", "dev", "eth0")
	h.Run(r.t, "ip", "address", "add", gw6+"/64", "dev", "eth0", "nodad")
	for _, f := range families {
		h.Run(r.t, "ip", "address", "add", netip.PrefixFrom(f.service, f.service.BitLen()).String(), "dev", "lo")
	}
	r.run("ip", "link", "set", iface, "up")
	h.Run(r.t, "ip", "link", "set", "eth0", "up")
	r.run("ip", "route", "add", "default", "via", gw4, "dev", iface, "metric", metric)
	r.run("ip", "-6", "route", "add", "default", "via", gw6, "dev", iface, "metric", metric)
	// Way back: the client's addresses of the other side are not used, but a packet that leaves wrongly shall get an answer.
	h.Run(r.t, "ip", "route", "add", "default", "via", netip.MustParsePrefix(our4).Addr().String())
	h.Run(r.t, "ip", "-6", "route", "add", "default", "via", netip.MustParsePrefix(our6).Addr().String())
	r.eventually("neighbours of "+iface, func() bool {
		_, err4 := r.try("ping", "-c1", "-W1", gw4)
		_, err6 := r.try("ping", "-c1", "-W1", gw6)
		return err4 == nil && err6 == nil
	})
}

func (r *rig) egress(dst netip.Addr) proxy.Egress {
	e := proxy.Egress{Interface: "eth0", Index: r.ethIndex, Mark: ownMark, Source: families[0].eth}
	if dst.Is6() {
		e.Source = families[1].eth
	}
	return e
}

// start runs a proxy until the end of the test, or until the function returned is called.
func (r *rig) start(cfg proxy.Config) (stop func()) {
	r.t.Helper()
	cfg.Director = r.director
	if cfg.Drain == 0 {
		cfg.Drain = -1 // sessions that a test leaves are of no interest
	}
	s, err := proxy.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.proxy = s
	return r.running(s.Run)
}

func (r *rig) running(run func(context.Context, func()) error) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		r.t.Fatalf("Run: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(limit):
			r.t.Error("Run does not end")
		}
	})
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) run(name string, args ...string) {
	r.t.Helper()
	if out, err := r.try(name, args...); err != nil {
		r.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// try runs a command in the namespace of the test, which is not the machine's: newRig looked.
func (r *rig) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// eventually waits until ok; asking is all that can be done about what the kernel or a loop does on its own.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			stats := proxy.Stats{}
			if r.proxy != nil {
				stats = r.proxy.Stats()
			}
			r.t.Fatalf("not within %v: %s\n%+v", limit, what, stats)
		}
	}
}

// captures count what leaves by the right and by the wrong side.
type captures struct {
	right, wrong *testnet.Sniffer
}

func (r *rig) capture(f family, proto uint8) captures {
	filter := testnet.Filter{Proto: proto, Dst: f.net, Direction: testnet.Incoming}
	return captures{r.server.Sniff(r.t, "eth0", filter), r.vpn.Sniff(r.t, "eth0", filter)}
}

func (c captures) check(t testing.TB) {
	t.Helper()
	if n := c.wrong.Count(); n != 0 {
		t.Errorf("%d packets left by vpn0; want 0", n)
	}
	if c.right.Count() == 0 {
		t.Error("no packet left by eth0")
	}
}

// director answers as the test says, and remembers what it was told.
type director struct {
	mu      sync.Mutex // guards what follows
	answer  func(proxy.Request) (proxy.Egress, error)
	keep    func(proxy.Request, proxy.Egress) bool
	asked   []proxy.Request
	done    map[proxy.Request]proxy.Usage
	granted int
	ended   int
	quiet   bool // remember numbers only
}

func (d *director) Direct(q proxy.Request) (proxy.Egress, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.quiet {
		d.asked = append(d.asked, q)
	}
	e, err := d.answer(q)
	if err == nil {
		d.granted++
	}
	return e, err
}

func (d *director) Keep(q proxy.Request, e proxy.Egress) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keep == nil || d.keep(q, e)
}

func (d *director) Done(q proxy.Request, u proxy.Usage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended++
	if d.quiet {
		return
	}
	if d.done == nil {
		d.done = map[proxy.Request]proxy.Usage{}
	}
	d.done[q] = u
}

func (d *director) set(answer func(proxy.Request) (proxy.Egress, error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

func (d *director) usage(q proxy.Request) (proxy.Usage, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u, ok := d.done[q]
	return u, ok
}

// lastUsage waits for the end of the newest session.
func (r *rig) lastUsage() proxy.Usage {
	r.t.Helper()
	d := r.director
	d.mu.Lock()
	if len(d.asked) == 0 {
		d.mu.Unlock()
		r.t.Fatal("the director was not asked")
	}
	q := d.asked[len(d.asked)-1]
	d.mu.Unlock()
	var u proxy.Usage
	r.eventually(fmt.Sprintf("end of %v", q), func() (ok bool) { u, ok = d.usage(q); return ok })
	return u
}

// balanced checks that everything that began has ended.
func (r *rig) balanced() {
	r.t.Helper()
	r.eventually("all sessions have ended", func() bool {
		s := r.proxy.Stats()
		r.director.mu.Lock()
		defer r.director.mu.Unlock()
		return s.TCP.Open == 0 && s.UDP.Open == 0 && r.director.granted == r.director.ended
	})
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if want == nil && got == nil {
		return
	}
	if !errors.Is(got, want) {
		t.Errorf("got error %v; want %v", got, want)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
