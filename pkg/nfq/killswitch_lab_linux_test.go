package nfq

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// tunnelAddrs are those of the tunnel's interface: each has a kill switch, and so has its link-local one.
func tunnelAddrs() []string { return []string{"10.88.0.1", "10.88.1.1", "fd88::1"} }

// wgTunnel is a full tunnel of wireguard-go and wg-quick, from this host to nowhere: nothing that goes into it is answered.
type wgTunnel struct {
	r       *rig
	branch  string
	conf    string // a file named after the interface
	environ []string
}

func newWGTunnel(r *rig, branch string) *wgTunnel {
	t := r.t
	t.Helper()
	testutil.RequireTool(t, "wg", "wg-quick", "wireguard-go", "nft")
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testutil.Unavailable(t, "needs /dev/net/tun: %v", err)
	}
	dir := t.TempDir()
	// wireguard-go's sockets are in one directory for all network namespaces.
	w := &wgTunnel{r: r, branch: branch, conf: filepath.Join(dir, fmt.Sprintf("wk%d.conf", os.Getpid()))}
	content := fmt.Sprintf(`[Interface]
PrivateKey = %s
Address = 10.88.0.1/24, 10.88.1.1/24, fd88::1/64
[Peer]
PublicKey = %s
Endpoint = %s:51820
AllowedIPs = 0.0.0.0/0, ::/0
`, strings.TrimSpace(r.run("wg", "genkey")), strings.TrimSpace(r.run("sh", "-c", "wg genkey | wg pubkey")), testnet.ServerV4)
	if err := os.WriteFile(w.conf, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	w.environ = []string{"WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go"}
	if branch != "nft" {
		testutil.RequireIPTables(t, testutil.Variant(strings.TrimPrefix(branch, "iptables-")))
		w.withoutNFT(filepath.Join(dir, "bin"))
	}
	return w
}

// withoutNFT makes wg-quick use iptables of one variant: it prefers nft where there is one.
func (w *wgTunnel) withoutNFT(bin string) {
	t := w.r.t
	t.Helper()
	links := map[string]string{"ip": "ip", "sysctl": "sysctl"}
	variant := strings.TrimPrefix(w.branch, "iptables")
	for _, suffix := range []string{"", "-save", "-restore"} {
		links["iptables"+suffix], links["ip6tables"+suffix] = "iptables"+variant+suffix, "ip6tables"+variant+suffix
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range links {
		path := strings.TrimSpace(w.r.run("sh", "-c", `command -v "$1"`, "sh", target))
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.environ = append(w.environ, "PATH="+bin+":/usr/bin:/bin")
}

// up starts the tunnel and returns what stops it, which the end of the test does too.
func (w *wgTunnel) up(t *testing.T) (down func()) {
	t.Helper()
	w.r.run("env", slices.Concat(w.environ, []string{"wg-quick", "up", w.conf})...)
	down = sync.OnceFunc(func() { w.r.run("env", slices.Concat(w.environ, []string{"wg-quick", "down", w.conf})...) })
	t.Cleanup(down)
	// The kernel finishes IPv6 addresses behind wg-quick's back, and snapshots show it.
	w.want(t, "tunnel up", func() string {
		if out := w.r.run("ip", "-6", "address", "show", "tentative"); out != "" {
			return "got addresses that are not usable yet:\n" + out
		}
		return ""
	})
	return down
}

func (w *wgTunnel) iface() string { return strings.TrimSuffix(filepath.Base(w.conf), ".conf") }

// preLine is a line about one address.
type preLine struct{ addr, text string }

var preAddress = regexp.MustCompile(`(?:ip6? daddr|-d) ([0-9a-f:.]+)`)

// chains is what the programs print about addresses that have a kill switch, in its order: wg-quick's rules, and ours.
func (w *wgTunnel) chains(t *testing.T) (theirs, ours []preLine, inFront bool) {
	t.Helper()
	script := `for f in ip ip6; do nft list table $f wg-quick-$0 2>/dev/null || :; done`
	if w.branch != "nft" {
		script = strings.ReplaceAll(`ipX-save -t raw; ip6X-save -t raw`, "X", strings.TrimPrefix(w.branch, "ip"))
	}
	inFront = true
	for line := range strings.Lines(w.r.run("sh", "-ec", script, w.iface())) {
		m := preAddress.FindStringSubmatch(line)
		switch lower := strings.ToLower(line); {
		case m == nil:
		case strings.Contains(line, "WEIR-redirect-replies"):
			ours = append(ours, preLine{m[1], strings.TrimSpace(line)})
		case strings.Contains(line, w.iface()) && strings.Contains(lower, "drop"):
			theirs = append(theirs, preLine{m[1], strings.TrimSpace(line)})
			inFront = inFront && slices.ContainsFunc(ours, func(l preLine) bool { return l.addr == m[1] })
		}
	}
	return theirs, ours, inFront
}

// problem says in words why there is not exactly one exception for each address, in front of its kill switch.
func (w *wgTunnel) problem(t *testing.T) string {
	t.Helper()
	addrs := func(lines []preLine) (list []string) {
		for _, l := range lines {
			list = append(list, l.addr)
		}
		slices.Sort(list)
		return list
	}
	theirs, ours, inFront := w.chains(t)
	switch {
	case !slices.Equal(addrs(theirs), addrs(ours)) || !inFront:
		return fmt.Sprintf("got the kill switches %q and the exceptions %q; want one for each, in front of it", theirs, ours)
	case slices.ContainsFunc(tunnelAddrs(), func(a string) bool { return !slices.Contains(addrs(ours), a) }):
		return fmt.Sprintf("got exceptions for %q; want them for %q", addrs(ours), tunnelAddrs())
	}
	for _, l := range ours {
		want := fmt.Sprintf("-A PREROUTING -d %s/%d -i lo -m addrtype ! --src-type LOCAL -m comment --comment WEIR-redirect-replies -j ACCEPT",
			l.addr, netip.MustParseAddr(l.addr).BitLen())
		if w.branch == "nft" {
			proto := map[int]string{32: "ip", 128: "ip6"}[netip.MustParseAddr(l.addr).BitLen()]
			want = fmt.Sprintf(`iifname "lo" %s daddr %s fib saddr type != local accept comment "WEIR-redirect-replies"`, proto, l.addr)
		}
		if l.text != want {
			return fmt.Sprintf("got %s; want %s", l.text, want)
		}
	}
	return ""
}

// want waits until everything is as it should be.
func (w *wgTunnel) want(t *testing.T, what string, problem func() string) time.Duration {
	t.Helper()
	start := time.Now()
	for p := problem(); p != ""; p = problem() {
		if time.Since(start) > patience {
			t.Fatalf("%s: %s", what, p)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(start)
}

// none says in words what is left of ours.
func (w *wgTunnel) none(t *testing.T) string {
	t.Helper()
	if _, ours, _ := w.chains(t); len(ours) > 0 {
		return fmt.Sprintf("got the exceptions %q; want none", ours)
	}
	return ""
}

// listed makes tables of legacy iptables, which stay listed once somebody has used them.
func (r *rig) listed() {
	r.t.Helper()
	if r.cfg.Variant == VariantLegacy {
		for _, f := range []family{family4, family6} {
			r.rules(f, foreignRules(f))
		}
	}
}

// serveSplit is the proxy of the split tunnel, which echoes.
func serveSplit(t *testing.T) {
	t.Helper()
	for _, to := range []netip.AddrPort{DefaultRedirects().SplitTun.To4, DefaultRedirects().SplitTun.To6} {
		l, err := net.Listen("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					_, _ = io.Copy(c, c) // the one who asks notices
					c.Close()
				})
			}
		})
		wg.Go(func() {
			b := make([]byte, 64)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(b[:n], from) // as above
			}
		})
		t.Cleanup(func() {
			l.Close()
			p.Close()
			wg.Wait()
		})
	}
}

// askSplit wants connections into the tunnel that are sent to the proxy to have an answer, or none.
func askSplit(t *testing.T, want outcome) {
	t.Helper()
	for _, host := range []string{"192.0.2.2", "2001:db8::2"} {
		for _, network := range []string{"tcp", "udp"} {
			to := netip.AddrPortFrom(netip.MustParseAddr(host), splitPort)
			if got, _ := talk((&net.Dialer{}).DialContext, network, to, waitFor(want)); got != want {
				t.Errorf("%s to %v: got %s; want %s", network, to, got, want)
			}
		}
	}
}
