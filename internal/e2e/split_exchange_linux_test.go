package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

const (
	splitQUICPort = 7300
	splitSTUNPort = 7301
)

// What keeps state in both ends of UDP survives both engines: QUIC, and STUN, whose servers have to see eth0's address.
func TestIntegrationSplitExchanges(t *testing.T) {
	testutil.NoLeaks(t)
	r := newSplitRig(t, testutil.VariantNFT)
	// its own module: nothing else needs quic-go
	quic := r.lab.Program(t, "github.com/weirfw/weir/internal/e2e/testdata/prog/quic", "-C", filepath.Join("testdata", "prog", "quic"))
	talk := r.lab.Program(t, "./testdata/prog/talk")
	copyProgram(t, quic, r.app("chosen-quic"))
	copyProgram(t, quic, r.app("other-quic"))
	var quicAddrs, stunAddrs []string
	for _, g := range []group{forChosen, forOthers} {
		for _, a := range g.servers() {
			quicAddrs = append(quicAddrs, hostPort(a, splitQUICPort))
			stunAddrs = append(stunAddrs, hostPort(a, splitSTUNPort))
		}
	}
	r.server.Start(t, quic, append([]string{"serve"}, quicAddrs...)...).WaitOutput(t, "serving", startLimit)
	r.server.Start(t, talk, append([]string{"stunserve"}, stunAddrs...)...).WaitOutput(t, "serving", startLimit)
	seen := map[group][]string{
		forChosen: {testnet.ISPClientV4, testnet.ISPClientV6},
		forOthers: {testnet.VPNClientV4, testnet.VPNClientV6},
	}
	for _, engine := range []string{"kroute", "proxy"} {
		t.Run(engine, func(t *testing.T) {
			r.start(t, settings{rules: r.split(engine)})
			for g, app := range map[group]string{forChosen: "chosen", forOthers: "other"} {
				uplink := map[group]string{forChosen: "eth0", forOthers: "vpn0"}[g]
				servers := g.servers()
				for i, family := range []string{"v4", "v6"} {
					t.Run(app+" QUIC "+family, func(t *testing.T) {
						r.try(g, r.app(app+"-quic"), "talk", "500000", hostPort(servers[i], splitQUICPort)).by(t, uplink)
					})
					t.Run(app+" STUN "+family, func(t *testing.T) {
						got := r.try(g, r.app(app), "stun", hostPort(servers[i], splitSTUNPort), hostPort(servers[i+2], splitSTUNPort))
						got.by(t, uplink)
						if n := strings.Count(got.out, "mapped "+seen[g][i]+" by"); n != 2 {
							t.Errorf("%d of 2 servers saw %s:\n%s", n, seen[g][i], got.out)
						}
					})
				}
			}
			r.stop(t)
		})
	}
}
