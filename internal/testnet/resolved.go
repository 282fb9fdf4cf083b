package testnet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/weirfw/weir/internal/testutil"
)

// ResolvedStub is where systemd-resolved listens for DNS.
const ResolvedStub = "127.0.0.53"

// resolvedProgram is where Debian and Fedora have it.
const resolvedProgram = "/usr/lib/systemd/systemd-resolved"

// resolvedTimeout is how long it may take to start.
const resolvedTimeout = 20 * time.Second

// Resolved is a systemd-resolved that runs on a host, without systemd and without a bus.
type Resolved struct {
	host    *Host
	dir     string
	script  string
	process *Process
}

// resolvedScript starts it with a /run of its own, of which one directory is that of the lab.
const resolvedScript = `set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
mount --bind '%[1]s' /run/systemd/resolve
cat > /run/systemd/resolved.conf.d/lab.conf <<X
[Resolve]
DNS=%[2]s
FallbackDNS=
Domains=~.
LLMNR=no
MulticastDNS=no
DNSSEC=no
DNSOverTLS=no
X
exec ` + resolvedProgram

// Resolved starts systemd-resolved on the host with this upstream. The host needs a routable address on some interface: without
// one, resolved refuses to ask anybody. Give the host's commands Etc(t, "resolv.conf", "nameserver "+ResolvedStub) to use it.
func (h *Host) Resolved(t testutil.TB, upstream netip.AddrPort) *Resolved {
	t.Helper()
	testutil.RequireTool(t, resolvedProgram)
	r := &Resolved{host: h, dir: filepath.Join(h.lab.dir, h.name+"-resolve")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatalf("testnet: %v", err)
	}
	if out, err := run("chown", "systemd-resolve:", r.dir); err != nil {
		testutil.Unavailable(t, "needs the user systemd-resolve: %v: %s", err, out)
	}
	r.script = fmt.Sprintf(resolvedScript, r.dir, upstream)
	r.Start(t)
	return r
}

// Monitor is the path of the socket at which it tells what it answers.
func (r *Resolved) Monitor() string { return filepath.Join(r.dir, "io.systemd.Resolve.Monitor") }

// Varlink is the path of the socket at which programs without DNS ask it.
func (r *Resolved) Varlink() string { return filepath.Join(r.dir, "io.systemd.Resolve") }

// Start starts it again after Kill, and waits until it answers.
func (r *Resolved) Start(t testutil.TB) {
	t.Helper()
	r.process = r.host.StartEnv(t, []string{"SYSTEMD_LOG_LEVEL=warning"},
		"unshare", "--mount", "--propagation", "private", "sh", "-c", r.script)
	for deadline := time.Now().Add(resolvedTimeout); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(r.Monitor()); err == nil {
			// An answer of any kind, also that there is no such name.
			if _, err := r.host.Try("dig", "+time=1", "+tries=1", "@"+ResolvedStub, "localhost"); err == nil {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("on %s: systemd-resolved does not answer within %v; it printed:\n%s", r.host.name, resolvedTimeout, r.process.Output())
		}
	}
}

// Kill ends it as a crash does, and removes its sockets.
func (r *Resolved) Kill(t testutil.TB) {
	t.Helper()
	r.process.Kill()
	for _, path := range []string{r.Monitor(), r.Varlink()} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatalf("testnet: %v", err)
		}
	}
}
