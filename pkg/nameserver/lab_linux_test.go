package nameserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/nameserver"
)

// tool runs a program in the namespace of the test and returns what it printed. Resolvers' tools fail when there is no answer, which is
// not always wrong.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	out, _ := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out)
}

func labRecords() []string {
	records := append(bigRecords(), "a.test. 300 IN A 192.0.2.1", "a.test. 300 IN AAAA 2001:db8::1", "alias.test. 300 IN CNAME a.test.")
	for i := range 100 {
		records = append(records, fmt.Sprintf("n%d.test. 300 IN A 10.0.0.%d", i, i))
	}
	return records
}

// TestIntegrationTools asks with other resolvers' tools, at the addresses and ports of a real host.
func TestIntegrationTools(t *testing.T) {
	testutil.RequireTool(t, "dig", "kdig", "drill", "dnsperf")
	if !testnet.Isolate(t) {
		return
	}
	f := plain(t, zoneReply(newZone(t, labRecords()...)))
	r := run(t, nameserver.Config{
		Listen: nameserver.DefaultListen(), Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}},
	})
	if len(r.Addrs()) != 2 {
		t.Fatalf("listens on %v; want 127.0.0.17 and ::1", r.Addrs())
	}
	for _, c := range []struct {
		name string
		args string
		want string // regular expression
	}{
		{"UDP", "dig @127.0.0.17 a.test A", `status: NOERROR[\s\S]*a\.test\.\s+300\s+IN\s+A\s+192\.0\.2\.1`},
		{"UDP over IPv6", "dig @::1 a.test AAAA", `a\.test\.\s+\d+\s+IN\s+AAAA\s+2001:db8::1`},
		{"TCP", "dig +tcp @127.0.0.17 A.TEST A", `A\.TEST\.\s+\d+\s+IN\s+A\s+192\.0\.2\.1[\s\S]*\(TCP\)`},
		{"TCP over IPv6", "dig +tcp @::1 alias.test A", `alias\.test\.\s+\d+\s+IN\s+CNAME\s+a\.test\.\s+a\.test\.\s+\d+\s+IN\s+A`},
		{"NXDOMAIN", "dig @127.0.0.17 nx.test A", `status: NXDOMAIN[\s\S]*SOA`},
		{"NODATA", "dig @127.0.0.17 a.test MX", `status: NOERROR[\s\S]*ANSWER: 0[\s\S]*SOA`},
		{"no EDNS", "dig +noedns @127.0.0.17 a.test", `ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 0`},
		{"EDNS", "dig +dnssec +bufsize=4096 @127.0.0.17 a.test", `EDNS: version: 0, flags: do; udp: 1232`},
		{"EDNS version", "dig +edns=1 +noednsnegotiation @127.0.0.17 a.test", `status: BADVERS`},
		{"unknown option", "dig +ednsopt=65001:0102 +subnet=10.0.0.0/8 +nsid +cookie @127.0.0.17 a.test", `status: NOERROR`},
		{"truncation", "dig +ignore @127.0.0.17 big.test TXT", `flags: qr tc rd ra`},
		{"truncation and TCP", "dig @127.0.0.17 big.test TXT", `ANSWER: 240,[\s\S]*\(TCP\)`},
		{"60 KB by UDP", "kdig +bufsize=65535 +ignore @127.0.0.17 big.test TXT", `ANSWER: 240;[\s\S]*UDP`},
		{"header only", "dig +header-only @127.0.0.17", `status: FORMERR`},
		{"NOTIFY", "dig +opcode=notify @127.0.0.17 a.test", `status: NOTIMP`},
		{"CHAOS", "dig @127.0.0.17 version.bind CH TXT", `status: REFUSED`},
		{"AXFR", "dig @127.0.0.17 test AXFR", `Transfer failed`},
		{"localhost", "dig +short @127.0.0.17 localhost", `^127\.0\.0\.1\n$`},
		{"reverse", "dig +short @127.0.0.17 -x 127.0.0.1", `^localhost\.\n$`},
		{"keep open", "dig +tcp +keepopen @127.0.0.17 a.test A a.test AAAA nx.test A", `192\.0\.2\.1[\s\S]*2001:db8::1[\s\S]*NXDOMAIN`},
		{"kdig UDP", "kdig @127.0.0.17 a.test A", `NOERROR[\s\S]*192\.0\.2\.1`},
		{"kdig TCP", "kdig +tcp @::1 alias.test A", `CNAME[\s\S]*192\.0\.2\.1[\s\S]*TCP`},
		{"kdig big", "kdig @127.0.0.17 big.test TXT", `ANSWER: 240;`},
		{"kdig padding", "kdig +padding=64 +dnssec @127.0.0.17 a.test", `NOERROR[\s\S]*192\.0\.2\.1`},
		{"drill UDP", "drill @127.0.0.17 a.test A", `rcode: NOERROR[\s\S]*192\.0\.2\.1`},
		{"drill TCP", "drill -t @127.0.0.17 big.test TXT", `ANSWER: 240,`},
		{"drill NXDOMAIN", "drill @::1 nx.test A", `rcode: NXDOMAIN`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := strings.Fields(c.args)
			if out := tool(t, args[0], args[1:]...); !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("%s: got\n%s\nwant %s", c.args, out[:min(len(out), 4000)], c.want)
			}
		})
	}
	t.Run("100 clients", func(t *testing.T) {
		var names strings.Builder
		for i := range 100 {
			fmt.Fprintf(&names, "n%d.test A\nnx%d.test A\n", i, i)
		}
		file := filepath.Join(t.TempDir(), "names")
		if err := os.WriteFile(file, []byte(names.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"udp", "tcp"} {
			out := tool(t, "dnsperf", "-s", "127.0.0.17", "-m", mode, "-d", file, "-c", "100", "-q", "200", "-n", "20", "-t", "20")
			if !strings.Contains(out, "Queries completed:    4000 (100.00%)") {
				t.Errorf("%s: got\n%s\nwant 4000 answers", mode, out)
			}
		}
	})
}

// TestIntegrationRedirect sends all queries that leave the host to the nameserver, as the packet backend does, and its own with them:
// clients are answered as if by the server they asked, and the nameserver notices that it would ask itself.
func TestIntegrationRedirect(t *testing.T) {
	testutil.RequireTool(t, "dig", "ip", "iptables-nft")
	testutil.RequireIPTables(t, testutil.VariantNFT)
	if !testnet.Isolate(t) {
		return
	}
	testnet.RequireOwnNamespace(t)
	for _, command := range []string{
		"ip link add out type veth peer name behind", "ip link set behind up", "ip link set out up", "ip address add 192.0.2.10/24 dev out",
		"iptables-nft -t nat -A OUTPUT -p udp --dport 53 ! -d 127.0.0.0/8 -j DNAT --to-destination 127.0.0.17:53",
		"iptables-nft -t nat -A OUTPUT -p tcp --dport 53 ! -d 127.0.0.0/8 -j DNAT --to-destination 127.0.0.17:53",
	} {
		args := strings.Fields(command)
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	f := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.1")))
	j := &judge{}
	r := run(t, nameserver.Config{
		Listen: nameserver.DefaultListen(), Decider: j,
		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}},
	})
	for _, network := range []string{"+notcp", "+tcp"} {
		if out := tool(t, "dig", "+short", network, "@192.0.2.53", "a.test"); out != "192.0.2.1\n" {
			t.Errorf("redirected query %s: got %q", network, out)
		}
	}
	j.mu.Lock()
	for _, q := range j.queries {
		if q.Client.Addr() != netip.MustParseAddr("192.0.2.10") || q.Server.Addr() != netip.MustParseAddr("127.0.0.17") {
			t.Errorf("got %+v; want the client's own address", q)
		}
	}
	j.mu.Unlock()

	for _, upstream := range []string{"192.0.2.53", "tcp://192.0.2.53"} {
		if err := r.Configure(nameserver.Settings{Upstreams: []nameserver.Upstream{parse(t, upstream)}}); err != nil {
			t.Fatal(err)
		}
		before := r.Stats()
		if out := tool(t, "dig", "@127.0.0.17", "a.test"); !strings.Contains(out, "status: SERVFAIL") {
			t.Errorf("%s, redirected to us: got %s", upstream, out)
		}
		st := r.Stats()
		if loops, queries := st.Loops-before.Loops, st.Queries-before.Queries; loops == 0 || queries > 3 {
			t.Errorf("%s: got %d loops noticed and %d queries; want one and few", upstream, loops, queries)
		}
		if msg := r.state("loop"); !strings.Contains(msg, "a.test") {
			t.Errorf("got state %q; want one that tells of the loop", msg)
		}
	}
	if err := r.Configure(nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}}); err != nil {
		t.Fatal(err)
	}
	r.want("b.test", dns.TypeA, "NXDOMAIN")
	if msg := r.state("loop"); msg != "" {
		t.Errorf("after good answers: got state %q", msg)
	}
}
