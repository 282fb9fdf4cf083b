package refd

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// IVPN's handler and one of whoever embeds refd live in one daemon: each decides about its own, IVPN's first.
func TestIVPNBesideAnotherHandler(t *testing.T) {
	testutil.NoLeaks(t)
	folder := filepath.Join(t.TempDir(), "ivpn") // its own mode counts, and that of all above
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	const mine, port = "mine", 7
	own := func(_ context.Context, s *conn.Snapshot) extverdict.Result {
		if s.Tuple.Remote.Port() != port {
			return extverdict.Result{}
		}
		return extverdict.Result{Verdict: verdict.Block, Reason: "not port 7"}
	}
	d := &Daemon{log: slog.New(slog.DiscardHandler), cfg: &config.Loaded{File: config.Default()}}
	d.cfg.IVPN.Folder = folder
	d.opt.Handlers = []extverdict.Link{{Name: mine, Handle: own}}
	var err error
	if d.firewall, err = firewall.New(firewall.Config{Store: connstore.NewLive(connstore.Config{})}); err != nil {
		t.Fatal(err)
	}
	if err := d.buildIVPN(); err != nil {
		t.Fatal(err)
	}
	d.opt.Config = d.cfg
	if _, err := d.vpnModules(); err != nil {
		t.Fatal(err)
	}
	call, ok := d.external.Load()
	if !ok {
		t.Fatal("the slot is empty")
	}
	decides := func(remote string, p packet.Protocol) (verdict.Verdict, string) {
		t.Helper()
		s := &conn.Snapshot{Direction: packet.Outbound}
		s.Tuple = packet.Tuple{Protocol: p, Local: netip.MustParseAddrPort("192.0.2.9:5000"), Remote: netip.MustParseAddrPort(remote)}
		r, err := call.Do(t.Context(), s)
		if err != nil {
			t.Errorf("%s: %v", remote, err)
		}
		return r.Verdict, r.By
	}
	type decision struct {
		v  verdict.Verdict
		by string
	}
	want := func(when string, want map[string]decision) {
		t.Helper()
		for remote, w := range want {
			if v, by := decides(remote, packet.UDP); v != w.v || by != w.by {
				t.Errorf("%s, %s: got %v by %q; want %v by %q", when, remote, v, by, w.v, w.by)
			}
		}
	}
	const endpoint, other, elsewhere = "198.51.100.1:7", "198.51.100.2:7", "198.51.100.2:9"
	blocked, undecided := decision{verdict.Block, mine}, decision{}
	want("without IVPN", map[string]decision{endpoint: blocked, other: blocked, elsewhere: undecided})

	service, err := ivpntest.Start(ivpntest.Config{Folder: folder})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.ivpn.Run(ctx, func() {}) }()
	eventually := func(what string, holds func(s ivpn.State) bool) {
		t.Helper()
		for begin := time.Now(); !holds(d.ivpn.State()); time.Sleep(5 * time.Millisecond) {
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("%s: not in time; %+v", what, d.ivpn.State())
			}
		}
	}
	eventually("connected", func(s ivpn.State) bool { return s.Phase == ivpn.PhaseConnected })
	service.Starting("198.51.100.1", port, uint8(packet.UDP))
	eventually("the endpoint is known", func(s ivpn.State) bool { return s.Endpoint.Address.IsValid() })
	want("with IVPN", map[string]decision{endpoint: {verdict.Accept, ivpn.HandlerName}, other: blocked, elsewhere: undecided})
	if err := service.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually("IVPN is gone", func(s ivpn.State) bool { return s.Phase == ivpn.PhaseAbsent })
	want("afterwards", map[string]decision{endpoint: blocked, other: blocked, elsewhere: undecided})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
