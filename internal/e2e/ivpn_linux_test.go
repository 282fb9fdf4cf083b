package e2e_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/ivpn"
)

// vpnService is a double of IVPN's daemon on the client, and a program that counts as its executable: a copy of curl.
type vpnService struct {
	*ivpntest.Daemon
	cfg  ivpntest.Config
	curl string
}

func newVPNService(t *testing.T, r *rig) *vpnService {
	t.Helper()
	v := &vpnService{curl: filepath.Join(r.dir, "ivpn-service")}
	v.cfg = ivpntest.Config{Folder: filepath.Join(r.dir, "ivpn"), ServiceBinary: v.curl}
	if err := os.Mkdir(v.cfg.Folder, 0o700); err != nil {
		t.Fatal(err)
	}
	r.client.Run(t, "sh", "-c", `cp "$(readlink -f "$(command -v curl)")" "$1"`, "sh", v.curl)
	return v
}

// begin starts the daemon and waits until refd listens to it.
func (v *vpnService) begin(t *testing.T, r *rig) {
	t.Helper()
	err := r.client.Do(func() (err error) {
		v.Daemon, err = ivpntest.Start(v.cfg)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	started := v.Daemon
	t.Cleanup(func() { v.end(t, started) })
	r.eventually(t, startLimit, "refd knows IVPN", func() bool {
		s, ok := r.tryStatus()
		return ok && s.IVPN.Phase == ivpn.PhaseConnected && s.IVPN.ServiceBinary == v.curl
	})
}

func (v *vpnService) end(t *testing.T, d *ivpntest.Daemon) {
	t.Helper()
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// What IVPN needs passes a refd that blocks by default, as soon as its daemon is there and for as long, and nothing else does.
func TestIntegrationIVPN(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		v := newVPNService(t, r)
		r.start(t, settings{rules: fmt.Sprintf("default: {in: block, out: block, local: block}\nivpn: {folder: %s}\n", v.cfg.Folder)})
		service := func(want outcome) {
			t.Helper()
			for _, a := range both() {
				r.wantCurl(t, v.curl, a, want)
				r.wantCurl(t, "curl", a, refused)
			}
		}
		service(refused)
		v.begin(t, r)
		service(answered)
		server, client := netip.MustParseAddr(testnet.ServerV4), netip.MustParseAddr(testnet.ClientV4)
		vpn := []verdictCase{{name: "endpoint", probe: probe{host: r.client, protocol: "udp", from: client, to: server}}}
		v.Starting(testnet.ServerV4, echoPort, 17)
		r.eventually(t, startLimit, "refd knows the endpoint", func() bool {
			s, ok := r.tryStatus()
			return ok && s.IVPN.Endpoint.Address.Addr() == server
		})
		wantAll(t, vpn, answered)
		r.wantCurl(t, "curl", server, refused) // same address, another protocol and port
		if by := r.conn(t, server, echoPort).Decision.Reason.By; by != ivpn.HandlerName {
			t.Errorf("the VPN's connection was decided by %q; want %q", by, ivpn.HandlerName)
		}
		r.cli(t, "reload")
		service(answered)
		wantAll(t, vpn, answered)

		v.end(t, v.Daemon)
		r.eventually(t, startLimit, "refd forgets IVPN", func() bool {
			s, ok := r.tryStatus()
			return ok && s.IVPN.Phase == ivpn.PhaseAbsent
		})
		service(refused)
		v.begin(t, r)
		service(answered)
		out := r.client.Run(t, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:817/api/v1/interop/ping?message=hello")
		if strings.TrimSpace(out) != "204" {
			t.Errorf("ping: got %q; want 204", out)
		}
	})
}
