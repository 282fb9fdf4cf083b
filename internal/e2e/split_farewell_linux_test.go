package e2e_test

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// A connection of the proxy that is closed still acknowledges what the server repeats. If its interface has lost its route by then,
// those packets go nowhere: the kernel would send them by the VPN.
func TestIntegrationSplitFarewell(t *testing.T) {
	testutil.NoLeaks(t)
	r := newSplitRig(t, testutil.VariantNFT)
	r.start(t, settings{rules: r.split("proxy")})
	for i, family := range []string{"-4", "-6"} {
		t.Run(family, func(t *testing.T) { testFarewell(t, r, family, forChosen.servers()[i]) })
	}
}

func testFarewell(t *testing.T, r *splitRig, family string, server netip.Addr) {
	t.Helper()
	const port = 7009
	ended, mayClose := make(chan struct{}), make(chan struct{})
	closeLate(t, r.server, hostPort(server, port), ended, mayClose)
	if got, err := r.client.Try(r.app("chosen"), "tcp", hostPort(server, port)); err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	<-ended
	// From here on nothing comes to the server, so it repeats its FIN.
	r.up.ISP.Run(t, "nft", `table inet silence { chain forward { type filter hook forward priority 1; iifname "cl" drop; }; }`)
	defer r.up.ISP.Run(t, "nft", "delete table inet silence")
	to := netip.PrefixFrom(server, server.BitLen())
	repeated := r.client.Sniff(t, "eth0", testnet.Filter{Proto: unix.IPPROTO_TCP, Src: to, SrcPort: port, Direction: testnet.Incoming})
	lost := r.client.Sniff(t, "vpn0", testnet.Filter{Dst: to, Direction: testnet.Outgoing})
	close(mayClose)
	repeats := func(more uint64) {
		t.Helper()
		before := repeated.Count()
		r.eventually(t, startLimit, "the server repeats its FIN", func() bool { return repeated.Count() >= before+more })
	}
	repeats(1) // the proxy's socket is closed now, and was not cut with its route
	via := map[string]string{"-4": testnet.ISPGatewayV4, "-6": testnet.ISPGatewayV6}[family]
	r.client.Run(t, "ip", family, "route", "del", "default", "via", via, "dev", "eth0")
	defer r.gateway(t, family, via)
	repeats(2)
	if n := lost.Count(); n != 0 {
		t.Errorf("%d packets left by vpn0; want 0, the first of them:\n%x", n, lost.Packets()[:1])
	}
}

// closeLate serves one connection: it answers a line, and when the client has ended its half it waits to end the other.
func closeLate(t *testing.T, h *testnet.Host, addr string, ended chan<- struct{}, mayClose <-chan struct{}) {
	t.Helper()
	l, err := h.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close() //nolint:errcheck // nothing to lose
		answerLine(c)
		close(ended)
		select {
		case <-mayClose:
		case <-t.Context().Done():
		}
	}()
}

func answerLine(c net.Conn) {
	from := bufio.NewReader(c)
	line, _ := from.ReadBytes('\n')
	_, _ = c.Write(line)
	_, _ = io.Copy(io.Discard, from)
}
