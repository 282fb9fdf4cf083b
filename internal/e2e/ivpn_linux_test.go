package e2e_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/verdict"
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
		r.wantEndpointIn(t, v)
		v.Starting(testnet.ServerV4, echoPort, 17)
		r.eventually(t, startLimit, "refd knows the endpoint", func() bool {
			s, ok := r.tryStatus()
			return ok && s.IVPN.Endpoint.Address == netip.AddrPortFrom(server, echoPort)
		})
		wantAll(t, vpn, answered)
		r.wantCurl(t, "curl", server, refused) // same address, another protocol and port
		if by := r.conn(t, server, echoPort).Decision.Reason.By; by != ivpn.HandlerName {
			t.Errorf("the VPN's connection was decided by %q; want %q", by, ivpn.HandlerName)
		}
		r.wantServicePort(t, v)
		held := r.holdService(t, v)
		r.configure(t, settings{rules: fmt.Sprintf(`default: {in: block, out: block, local: block}
ivpn: {folder: %s}
global: [{id: no-web, action: block, remote: [%s]}]
`, v.cfg.Folder, testnet.ServerV4)})
		r.cli(t, "reload")
		service(answered)
		wantAll(t, vpn, answered)
		held(true)

		v.end(t, v.Daemon)
		r.eventually(t, startLimit, "refd forgets IVPN", func() bool {
			s, ok := r.tryStatus()
			return ok && s.IVPN.Phase == ivpn.PhaseAbsent
		})
		held(false)
		service(refused)
		v.begin(t, r)
		service(answered)
		out := r.client.Run(t, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:817/api/v1/interop/ping?message=hello")
		if strings.TrimSpace(out) != "204" {
			t.Errorf("ping: got %q; want 204", out)
		}
	})
}

// wantServicePort wants a program to reach the daemon's port, and no other, on this host, both of its ends accepted because of IVPN.
func (r *rig) wantServicePort(t *testing.T, v *vpnService) {
	t.Helper()
	other := r.client.TCPEcho(t, "127.0.0.1:0")
	for port, want := range map[uint16]bool{v.Port(): true, other.Port(): false} {
		out, err := r.client.Try("sh", "-c", fmt.Sprintf("socat -u OPEN:/dev/null TCP:127.0.0.1:%d", port))
		if (err == nil) != want {
			t.Errorf("port %d of this host: got %q, %v; want it reached: %v", port, out, err, want)
		}
	}
	for _, way := range []string{"out", "in"} {
		found := false
		for _, c := range r.conns(t, "--remote", "127.0.0.1", "--direction", way) {
			found = found || (c.Tuple.Local.Port() == v.Port() || c.Tuple.Remote.Port() == v.Port()) && c.Decision.Reason.By == ivpn.HandlerName
		}
		if !found {
			t.Errorf("no connection %s of the daemon's port is IVPN's\n%s", way, r.cli(t, "conns"))
		}
	}
}

// wantEndpointIn wants packets by UDP from the endpoint to be let in, and from its other ports not to be.
func (r *rig) wantEndpointIn(t *testing.T, v *vpnService) {
	t.Helper()
	const endpoint, listens = 5555, 6666
	r.client.UDPEcho(t, fmt.Sprintf("%s:%d", testnet.ClientV4, listens))
	v.Starting(testnet.ServerV4, endpoint, 17)
	r.eventually(t, startLimit, "refd knows the other endpoint", func() bool {
		s, ok := r.tryStatus()
		return ok && s.IVPN.Endpoint.Address.Port() == endpoint
	})
	for port, want := range map[int]bool{endpoint: true, endpoint + 1: false} {
		out, _ := r.server.Try("sh", "-c", fmt.Sprintf("echo hello | socat -t1 - UDP:%s:%d,sourceport=%d", testnet.ClientV4, listens, port))
		if strings.Contains(out, "hello") != want {
			t.Errorf("from port %d: got %q; want an answer: %v\n%s", port, out, want, r.cli(t, "conns"))
		}
	}
}

// holdService has the daemon's executable hold a connection. What it returns wants that to be the daemon's still, or to have been decided
// anew as anybody's, and cut.
func (r *rig) holdService(t *testing.T, v *vpnService) (held func(want bool)) {
	t.Helper()
	p := r.client.Start(t, v.curl, "-sS", "-N", fmt.Sprintf("http://%s:%d/stream", testnet.ServerV4, webPort), "-o", "/dev/null")
	live := func() []conn.Snapshot { return r.conns(t, "--app", v.curl, "--live", "--port", fmt.Sprint(webPort)) }
	r.eventually(t, startLimit, "the service is connected", func() bool { return len(live()) > 0 })
	return func(want bool) {
		t.Helper()
		if !want {
			r.eventually(t, startLimit, "what IVPN's service held is cut", func() bool {
				return !slices.ContainsFunc(live(), func(c conn.Snapshot) bool { return c.Verdict() == verdict.Accept })
			})
			p.Kill()
			return
		}
		list := live()
		if len(list) == 0 || list[len(list)-1].Verdict() != verdict.Accept || list[len(list)-1].Decision.Reason.By != ivpn.HandlerName {
			t.Errorf("got %+v; want the running connection to be IVPN's still", list)
		}
		select {
		case <-p.Done():
			t.Error("the running connection was cut")
		default:
		}
	}
}

// The notice that IVPN was detected is shown until somebody does not want to see it again: then never, also when IVPN comes back.
func TestIntegrationIVPNNotice(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	v := newVPNService(t, r)
	r.start(t, settings{rules: fmt.Sprintf("ivpn: {folder: %s}\n", v.cfg.Folder)})
	api := func(path string, flags ...string) string {
		t.Helper()
		args := []string{"-sS", "--fail-with-body", "--unix-socket", filepath.Join(r.dir, "refd.sock"), "http://refd/api/v1/notifications" + path}
		return r.client.Run(t, "curl", append(args, flags...)...)
	}
	shown := func() bool { return strings.Contains(api(""), ivpn.ConditionDetected) }
	v.begin(t, r)
	r.eventually(t, startLimit, "the notice is shown", shown)
	api("/act", "--json", fmt.Sprintf(`{"module": "ivpn", "id": %q, "action": "never"}`, ivpn.ConditionDetected))
	if shown() {
		t.Errorf("shown again: %s", api(""))
	}
	if b, err := os.ReadFile(r.configPath()); err != nil || !strings.Contains(string(b), "notice: false") {
		t.Errorf("got the configuration %s, %v; want the wish in it", b, err)
	}
	v.end(t, v.Daemon)
	v.begin(t, r)
	r.stop(t)
	r.launch(t)
	r.eventually(t, startLimit, "refd knows IVPN", func() bool {
		s, ok := r.tryStatus()
		return ok && s.IVPN.Phase == ivpn.PhaseConnected
	})
	if shown() {
		t.Errorf("shown again: %s", api(""))
	}
}

// IVPN has the host ask refd's nameserver while that listens and packets are intercepted, and not otherwise.
func TestIntegrationIVPNNameserver(t *testing.T) {
	testutil.NoLeaks(t)
	r := newNamesRig(t)
	v := newVPNService(t, r)
	vpn := fmt.Sprintf("ivpn: {folder: %s}\n", v.cfg.Folder)
	with, without := settings{rules: ownNameserver("") + vpn + namesRules}, settings{rules: vpn + namesRules}
	// tells wants the daemon to have been told something new, and what.
	times := 0
	tells := func(when, want string) {
		t.Helper()
		times++
		r.eventually(t, startLimit, "IVPN is told of "+when, func() bool { _, n := v.DNS(); return n == times })
		got := ""
		if servers, _ := v.DNS(); len(servers) > 0 {
			got = servers[0].Address
		}
		if got != want {
			t.Fatalf("%s: IVPN was told %q; want %q", when, got, want)
		}
	}
	const ours = "127.0.0.17"
	r.start(t, with)
	v.begin(t, r)
	tells("our nameserver", ours)
	if out := r.client.Run(t, "dig", "@"+ours, "example.test"); !strings.Contains(out, "not this site") {
		t.Errorf("dig: got %s; want the refusal of our nameserver", out)
	}
	r.cli(t, "pause", "10m")
	tells("a pause", "")
	r.cli(t, "resume")
	tells("the end of the pause", ours)
	r.configure(t, without)
	r.cli(t, "reload")
	tells("a configuration without nameserver", "")
	r.configure(t, with)
	r.cli(t, "reload")
	tells("a nameserver again", ours)
	r.stop(t)
	tells("the end", "")
}
