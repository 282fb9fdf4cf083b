package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

func TestIntegrationSplitOneApp(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "curl", "nc")
	lab := testnet.New(t)
	up := lab.Uplinks()
	up.Server.HTTP(t, "[::]:8080", http.NotFoundHandler())
	before := up.Client.Snapshot(t)
	curl := strings.TrimSpace(up.Client.Run(t, "sh", "-c", "command -v curl"))

	p := up.Client.Start(t, lab.Program(t, "github.com/weirfw/weir/examples/split-one-app"), curl, "eth0")
	p.WaitOutput(t, "splitting", 20*time.Second)
	for _, addr := range []string{testnet.UplinkServerV4, testnet.UplinkServerV6} {
		a := netip.MustParseAddr(addr)
		f := testnet.Filter{Dst: netip.PrefixFrom(a, a.BitLen()), Direction: testnet.Outgoing}
		vpn, eth := up.Client.Sniff(t, "vpn0", f), up.Client.Sniff(t, "eth0", f)
		url := "http://" + netip.AddrPortFrom(a, 8080).String()
		if out := up.Client.Run(t, "curl", "-gsS", "--noproxy", "*", "-m8", url); !strings.Contains(out, "404") {
			t.Errorf("curl: got %q; want an answer", out)
		}
		if v, e := vpn.Count(), eth.Count(); v != 0 || e == 0 {
			t.Errorf("curl to %s: got %d packets by vpn0, %d by eth0; want 0, some", addr, v, e)
		}
		up.Client.Run(t, "nc", "-z", "-w8", addr, "8080")
		if v := vpn.Count(); v == 0 {
			t.Errorf("nc to %s: got no packets by vpn0; want some", addr)
		}
	}
	up.Client.Run(t, "ip", "link", "set", "eth0", "down")
	start := time.Now()
	out, err := up.Client.Try("curl", "-sS", "--noproxy", "*", "-m8", "http://"+testnet.UplinkServerV4+":8080")
	if took := time.Since(start); err == nil || took > 3*time.Second {
		t.Errorf("without eth0: got %q, %v after %v; want a failure at once", out, err, took)
	}
	up.Client.Run(t, "ip", "link", "set", "eth0", "up")
	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, p.Output())
	}
	// what eth0 had beyond its IPv4 address went with it
	up.Client.Run(t, "ip", "-6", "address", "replace", testnet.ISPClientV6+"/64", "dev", "eth0", "nodad")
	for family, via := range map[string]string{"-4": testnet.ISPGatewayV4, "-6": testnet.ISPGatewayV6} {
		up.Client.Run(t, "ip", family, "route", "replace", "default", "via", via, "dev", "eth0", "metric", fmt.Sprint(testnet.ISPMetric))
	}
	if diff := testnet.Diff(before, up.Client.Snapshot(t)); diff != "" {
		t.Errorf("it left behind:\n%s", diff)
	}
}
