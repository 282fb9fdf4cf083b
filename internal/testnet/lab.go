package testnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/internal/testutil"
)

// Addresses of Pair.
const (
	ClientV4 = "10.77.0.1"
	ServerV4 = "10.77.0.2"
	ClientV6 = "fd77::1"
	ServerV6 = "fd77::2"
)

// namespaces are named prefix, pid of the test binary, dash, number of the lab, dash, name of the host.
const prefix = "weirt"

// commandTimeout bounds a command that is expected to end by itself.
const commandTimeout = time.Minute

// linkTimeout is how long a cable may take to work.
const linkTimeout = 5 * time.Second

// labs counts the labs of this process, to tell their namespaces apart.
var labs atomic.Uint64 //nolint:gochecknoglobals // names must be unique in the process

// Lab is a set of hosts that live as long as one test.
type Lab struct {
	t   testutil.TB
	id  string
	dir string

	mu    sync.Mutex // guards hosts
	hosts map[string]*Host
}

// New makes an empty lab. It skips the test without root (and fails it in CI, see testutil).
func New(t testutil.TB) *Lab {
	t.Helper()
	testutil.RequireRoot(t)
	testutil.RequireTool(t, "ip", "nsenter", "unshare")
	if err := sweep(); err != nil {
		t.Logf("testnet: remove what killed tests left: %v", err)
	}
	l := &Lab{t: t, id: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), labs.Add(1)), hosts: map[string]*Host{}}
	l.dir = filepath.Join(os.TempDir(), l.id)
	if err := os.Mkdir(l.dir, 0o755); err != nil { // 0755: programs in it may be run as other users
		t.Fatalf("testnet: %v", err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Errorf("testnet: remove the lab: %v", err)
		}
	})
	return l
}

// Dir is a directory of the lab, removed with it.
func (l *Lab) Dir() string { return l.dir }

// Host makes a host with this name, or returns the one made before. Loopback is up; IPv6 addresses are usable at once (no
// duplicate address detection) and no router is looked for.
func (l *Lab) Host(name string) *Host {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if h, ok := l.hosts[name]; ok {
		return h
	}
	h := &Host{lab: l, name: name, netns: l.id + "-" + name, standIns: map[string]string{}}
	if out, err := run("ip", "netns", "add", h.netns); err != nil {
		testutil.Unavailable(l.t, "needs network namespaces: %v: %s", err, out)
	}
	l.hosts[name] = h
	for _, conf := range []string{"all", "default"} {
		for _, key := range []string{"accept_dad", "router_solicitations", "disable_ipv6"} {
			h.SetSysctl(l.t, "net.ipv6.conf."+conf+"."+key, "0")
		}
	}
	h.Run(l.t, "ip", "link", "set", "lo", "up")
	return h
}

// Link joins two hosts by a veth pair and gives the ends their addresses.
func (l *Lab) Link(a *Host, ifaceA string, addrsA []netip.Prefix, b *Host, ifaceB string, addrsB []netip.Prefix) {
	l.t.Helper()
	a.Run(l.t, "ip", "link", "add", ifaceA, "type", "veth", "peer", "name", ifaceB, "netns", b.netns)
	for _, end := range []struct {
		host  *Host
		iface string
		addrs []netip.Prefix
	}{{a, ifaceA, addrsA}, {b, ifaceB, addrsB}} {
		for _, addr := range end.addrs {
			args := []string{"address", "add", addr.String(), "dev", end.iface}
			if addr.Addr().Is6() {
				args = append(args, "nodad")
			}
			end.host.Run(l.t, "ip", args...)
		}
	}
	// Both ends up only now: no packet of one end finds the other without its address.
	a.Run(l.t, "ip", "link", "set", ifaceA, "up")
	b.Run(l.t, "ip", "link", "set", ifaceB, "up")
	a.waitUp(l.t, ifaceA)
	b.waitUp(l.t, ifaceB)
}

// waitUp waits until the interface carries packets of both families. The kernel looks at changed carriers only once a second,
// and IPv6 starts after that; but asking for the link makes newer kernels look at once.
func (h *Host) waitUp(t testutil.TB, iface string) {
	t.Helper()
	for deadline := time.Now().Add(linkTimeout); ; time.Sleep(2 * time.Millisecond) {
		link := h.Run(t, "ip", "link", "show", "dev", iface)
		if strings.Contains(link, "state UP") && h.Run(t, "ip", "-6", "address", "show", "dev", iface, "tentative") == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("on %s: %s is not up after %v: %s", h.name, iface, linkTimeout, link)
		}
	}
}

// Pair makes two hosts, "client" and "server", joined by eth0 with the addresses of the constants. The client's default
// routes lead to the server.
func (l *Lab) Pair() (client, server *Host) {
	l.t.Helper()
	client, server = l.Host("client"), l.Host("server")
	l.Link(client, "eth0", Prefixes(ClientV4+"/24", ClientV6+"/64"), server, "eth0", Prefixes(ServerV4+"/24", ServerV6+"/64"))
	client.Run(l.t, "ip", "route", "add", "default", "via", ServerV4)
	client.Run(l.t, "ip", "-6", "route", "add", "default", "via", ServerV6)
	return client, server
}

// Prefixes parses addresses with prefix lengths, such as 10.0.0.1/24. It panics on bad ones: they are constants of a test.
func Prefixes(addrs ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(addrs))
	for i, addr := range addrs {
		parsed[i] = netip.MustParsePrefix(addr)
	}
	return parsed
}

func (l *Lab) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, removeNamespace(h.netns))
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// sweep removes the namespaces, processes and directories of test binaries that no longer run: those that were killed, or
// ended by the timeout of go test, removed nothing themselves.
func sweep() error {
	var errs []error
	for _, name := range namespaces() {
		if deadOwner(name) {
			errs = append(errs, removeNamespace(name))
		}
	}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*-*"))
	errs = append(errs, err)
	for _, dir := range dirs {
		if deadOwner(filepath.Base(dir)) {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// deadOwner says whether the name is one of ours and the process in it is gone.
func deadOwner(name string) bool {
	rest, ours := strings.CutPrefix(name, prefix)
	pid, _, complete := strings.Cut(rest, "-")
	if !ours || !complete || pid == "" || strings.Trim(pid, "0123456789") != "" {
		return false
	}
	_, err := os.Stat("/proc/" + pid)
	return errors.Is(err, os.ErrNotExist)
}

// run runs a command of the harness itself, in the namespace of the test binary.
func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), err
}
