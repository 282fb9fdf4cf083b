package e2e_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// Addresses of the tunnel's ends, of its server, which is behind the client's default route, and of something behind it.
var tunnelAddresses = struct{ client, server, behind []netip.Addr }{
	client: []netip.Addr{netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("fd88::1")},
	server: []netip.Addr{netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd88::2")},
	behind: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
}

const (
	clientTunnel   = "wgivpn" // as IVPN calls its interface
	serverTunnel   = "wgserver"
	tunnelEndpoint = "192.0.2.1"
	tunnelRules    = `
default: {in: block, out: allow}
global:
  - {id: tunnel-in, direction: in, remote: [10.88.0.0/24, "fd88::/64"], action: allow}
`
)

// tunnel is a WireGuard tunnel between client and server.
type tunnel struct {
	r    *rig
	env  []string
	conf map[*testnet.Host]string // file for wg-quick; its name is that of the interface
}

// newTunnel prepares one: the client sends everything through it, with the marks and routing rules of wg-quick.
func newTunnel(t *testing.T, r *rig) *tunnel {
	t.Helper()
	testutil.RequireTool(t, "wg", "wg-quick", "wireguard-go")
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testutil.Unavailable(t, "needs /dev/net/tun: %v", err)
	}
	key := func() (private, public string) {
		private = strings.TrimSpace(r.client.Run(t, "wg", "genkey"))
		return private, strings.TrimSpace(r.client.Run(t, "sh", "-c", `echo "$1" | wg pubkey`, "sh", private))
	}
	clientKey, clientPublic := key()
	serverKey, serverPublic := key()
	w := &tunnel{r: r, conf: map[*testnet.Host]string{}}
	for _, h := range []*testnet.Host{r.client, r.server} {
		h.OwnDir(t, "/var/run/wireguard") // where wireguard-go has its sockets, by name of the interface
	}
	w.write(t, r.client, clientTunnel, fmt.Sprintf(`[Interface]
PrivateKey = %s
Address = 10.88.0.1/24, fd88::1/64
[Peer]
PublicKey = %s
Endpoint = %s:51820
AllowedIPs = 0.0.0.0/0, ::/0
`, clientKey, serverPublic, tunnelEndpoint))
	w.write(t, r.server, serverTunnel, fmt.Sprintf(`[Interface]
PrivateKey = %s
ListenPort = 51820
Address = 10.88.0.2/24, fd88::2/64
[Peer]
PublicKey = %s
AllowedIPs = 10.88.0.1/32, fd88::1/128
`, serverKey, clientPublic))
	for _, a := range append([]string{tunnelEndpoint + "/32"}, "192.0.2.2/32", "2001:db8::2/128") {
		addAddress(t, r.server, "lo", a)
	}
	return w
}

// write makes a configuration.
func (w *tunnel) write(t *testing.T, h *testnet.Host, name, content string) {
	t.Helper()
	w.conf[h] = filepath.Join(w.r.dir, name+".conf")
	if err := os.WriteFile(w.conf[h], []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// withoutNFT makes wg-quick use iptables of the rig's variant: it prefers nft where there is one.
func (w *tunnel) withoutNFT(t *testing.T) {
	t.Helper()
	bin := filepath.Join(w.r.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	link := func(name, target string) {
		path := strings.TrimSpace(w.r.client.Run(t, "sh", "-c", `command -v "$1"`, "sh", target))
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, suffix := range []string{"", "-save", "-restore"} {
		link("iptables"+suffix, w.r.tool(both()[0], suffix))
		link("ip6tables"+suffix, w.r.tool(both()[1], suffix))
	}
	link("sysctl", "sysctl")
	link("ip", "ip")
	w.env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
}

// quick runs wg-quick up or down.
func (w *tunnel) quick(t *testing.T, h *testnet.Host, verb string) string {
	t.Helper()
	args := append(slices.Clone(w.env), "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go", "wg-quick", verb, w.conf[h])
	return h.Run(t, "env", args...)
}

// up starts the tunnel at one end, and the end of the test stops it.
func (w *tunnel) up(t *testing.T, h *testnet.Host) string {
	t.Helper()
	out := w.quick(t, h, "up")
	t.Cleanup(func() { w.quick(t, h, "down") })
	return out
}

// nothingBeside wants no packet to something behind the tunnel to go beside it, from now until the end of the test takes the
// tunnel down. What the kernel sends afterwards, the last packets of connections that the test killed, may go by eth0.
func (w *tunnel) nothingBeside(t *testing.T) {
	t.Helper()
	beside := w.r.server.Sniff(t, "eth0", testnet.Filter{Dst: netip.MustParsePrefix("192.0.2.2/32"), Direction: testnet.Incoming})
	t.Cleanup(func() {
		if n := beside.Count(); n != 0 {
			t.Errorf("%d packets went beside the tunnel; want 0:\n%x", n, beside.Packets())
		}
	})
}

// check wants everything to work through the tunnel, in both directions and families.
func (w *tunnel) check(t *testing.T) {
	t.Helper()
	var cases []verdictCase
	for i := range tunnelAddresses.client {
		client, server, behind := tunnelAddresses.client[i], tunnelAddresses.server[i], tunnelAddresses.behind[i]
		for _, protocol := range []string{"echo", "tcp", "udp"} {
			cases = append(cases,
				verdictCase{name: "out", probe: probe{host: w.r.client, protocol: protocol, from: client, to: server}},
				verdictCase{name: "behind", probe: probe{host: w.r.client, protocol: protocol, from: client, to: behind}},
				verdictCase{name: "in", probe: probe{host: w.r.server, protocol: protocol, from: server, to: client}})
		}
	}
	for i := range cases {
		cases[i].name += fmt.Sprintf(" %s %s", cases[i].probe.protocol, cases[i].probe.to)
	}
	wantAll(t, cases, answered)
}

// serve starts what is asked through the tunnel; its addresses have to be there.
func (w *tunnel) serve(t *testing.T) {
	t.Helper()
	serve(t, w.r.client, tunnelAddresses.client...)
	serve(t, w.r.server, slices.Concat(tunnelAddresses.server, tunnelAddresses.behind)...)
}

// handshake says whether the client's end has had a handshake.
func (w *tunnel) handshake(t *testing.T) bool {
	t.Helper()
	fields := strings.Fields(w.r.client.Run(t, "wg", "show", clientTunnel, "latest-handshakes"))
	return len(fields) == 2 && fields[1] != "0"
}

// A WireGuard tunnel with wg-quick's routing by marks works whether the firewall is started before or after it, whichever of
// its two rule sets wg-quick uses, and nothing goes beside it.
func TestIntegrationWireGuard(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		w := newTunnel(t, r)
		w.up(t, r.server)
		for _, c := range []struct{ rules, permanent string }{{"nft", "true"}, {"nft", "false"}, {"iptables", "true"}} {
			if c.rules == "iptables" {
				w.withoutNFT(t)
			}
			s := settings{rules: tunnelRules, verdicts: c.permanent}
			t.Run(fmt.Sprintf("%s permanent %s refd first", c.rules, c.permanent), func(t *testing.T) {
				r.start(t, s)
				w.checkUp(t, w.up(t, r.client), c.rules)
				w.nothingBeside(t)
				w.serve(t)
				w.check(t)
			})
			t.Run(fmt.Sprintf("%s permanent %s refd second", c.rules, c.permanent), func(t *testing.T) {
				w.checkUp(t, w.up(t, r.client), c.rules)
				w.nothingBeside(t)
				w.serve(t)
				running := []*download{r.download(t, r.client, "curl", "192.0.2.2"), r.download(t, r.server, "curl", "fd88::1")}
				waitGrow(t, r, running)
				r.start(t, s)
				waitGrow(t, r, running)
				w.check(t)
				for _, d := range running {
					d.Kill()
				}
			})
		}
	})
}

// checkUp wants wg-quick to have used these rules and marks, and the tunnel to begin with its very first packet.
func (w *tunnel) checkUp(t *testing.T, up, rules string) {
	t.Helper()
	if want := map[string]string{"nft": "nft -f", "iptables": "iptables-restore -n"}[rules]; !strings.Contains(up, want) {
		t.Fatalf("wg-quick did not use %s:\n%s", rules, up)
	}
	if marked := w.r.client.Run(t, "ip", "rule", "show"); !strings.Contains(marked, "not from all fwmark 0x") {
		t.Fatalf("wg-quick does not route by marks:\n%s", marked)
	}
	start := time.Now()
	out, err := w.r.client.Try("ping", "-n", "-c1", "-W4", tunnelAddresses.server[0].String())
	if err != nil || !w.handshake(t) {
		t.Errorf("first ping: %v after %v, handshake %v\n%s", err, time.Since(start), w.handshake(t), out)
	}
}
