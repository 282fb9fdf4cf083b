package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/weirfw/weir/internal/testutil"
)

// Host is one network namespace. Its methods may be called from several goroutines.
type Host struct {
	lab   *Lab
	name  string
	netns string

	mu       sync.Mutex        // guards standIns
	standIns map[string]string // file or directory of the machine -> what stands in for it
}

// Name is the name given to Lab.Host.
func (h *Host) Name() string { return h.name }

// Netns is the name of the namespace, for `ip netns exec` and `ip -n`.
func (h *Host) Netns() string { return h.netns }

// Path is the file that stands for the namespace; setns(2) and netlink libraries take it.
func (h *Host) Path() string { return filepath.Join(netnsDir, h.netns) }

// Do runs fn on a thread inside the namespace and returns its error. The thread is thrown away afterwards. fn must not end
// its goroutine (no t.Fatal), and goroutines that it starts run outside the namespace.
func (h *Host) Do(fn func() error) error { return inNamespace(h.Path(), fn) }

// Command prepares a command that runs in the namespace. Its process id is the program's own: what enters the namespace
// replaces itself. The command is killed when ctx or the lab ends; waiting for it is up to the caller. See Start for
// commands that run beside the test.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", h.enterArgs(name, args)...)
}

// enterArgs are the arguments for nsenter that end in the wanted command.
func (h *Host) enterArgs(name string, args []string) []string {
	enter := []string{"--net=" + h.Path(), "--"}
	if binds := h.binds(); len(binds) > 0 {
		enter = append(enter, "unshare", "--mount", "--", "sh", "-c", strings.Join(binds, " && ")+` && exec "$@"`, "sh")
	}
	return slices.Concat(enter, []string{name}, args)
}

// Run runs a command to its end and returns what it printed. It fails the test when the command does, or takes more than a
// minute.
func (h *Host) Run(t testutil.TB, name string, args ...string) string {
	t.Helper()
	out, err := h.Try(name, args...)
	if err != nil {
		t.Fatalf("on %s: %v\n%s", h.name, err, out)
	}
	return out
}

// Try runs a command to its end, at most a minute, and returns what it printed to stdout and stderr, and its error.
func (h *Host) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := h.Command(ctx, name, args...)
	cmd.WaitDelay = waitDelay
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), errors.Join(err, ctx.Err()))
	}
	return string(out), err
}

// Etc gives the commands of this host, started from now on, a file in /etc with this content: Etc(t, "resolv.conf", ...).
// The file must exist on the machine (an empty one will do), because it is mounted over in a mount namespace of the command.
func (h *Host) Etc(t testutil.TB, file, content string) {
	t.Helper()
	standIn := filepath.Join(h.lab.dir, h.name+"-"+strings.ReplaceAll(file, "/", "-"))
	if err := os.WriteFile(standIn, []byte(content), 0o644); err != nil { //nolint:gosec // files in /etc are for everybody
		t.Fatalf("testnet: %v", err)
	}
	h.bind(filepath.Join("/etc", file), standIn)
}

// OwnDir gives the commands of this host, started from now on, an empty directory of their own in place of one of the machine's, which is
// made if need be. Programs that keep sockets or states there do not meet those of other hosts.
func (h *Host) OwnDir(t testutil.TB, dir string) {
	t.Helper()
	standIn := filepath.Join(h.lab.dir, h.name+strings.ReplaceAll(dir, "/", "-"))
	for _, d := range []string{dir, standIn} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // as that of the machine
			t.Fatalf("testnet: %v", err)
		}
	}
	h.bind(dir, standIn)
}

func (h *Host) bind(target, standIn string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.standIns[target] = standIn
}

// binds are the shell commands that mount what stands in.
func (h *Host) binds() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var binds []string
	for target, standIn := range h.standIns {
		binds = append(binds, fmt.Sprintf("mount --bind '%s' '%s'", standIn, target))
	}
	slices.Sort(binds)
	return binds
}

// Listen announces on an address inside the namespace. Plain TCP: Go would otherwise listen with MPTCP.
func (h *Host) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	err = h.Do(func() error {
		var listenErr error
		l, listenErr = config.Listen(ctx, network, address)
		return listenErr
	})
	return l, err
}

// ListenPacket opens a packet socket inside the namespace.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (c net.PacketConn, err error) {
	var config net.ListenConfig
	err = h.Do(func() error {
		var listenErr error
		c, listenErr = config.ListenPacket(ctx, network, address)
		return listenErr
	})
	return c, err
}

// Dial connects from inside the namespace. The address is a literal one: names would be resolved outside.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, network, nil, address)
}

// DialFrom is Dial with a local address.
func (h *Host) DialFrom(ctx context.Context, network string, from net.Addr, address string) (c net.Conn, err error) {
	dialer := net.Dialer{LocalAddr: from, Resolver: noResolver()}
	err = h.Do(func() error {
		var dialErr error
		c, dialErr = dialer.DialContext(ctx, network, address)
		return dialErr
	})
	return c, err
}

// noResolver refuses names: the resolver works in goroutines, which are outside the namespace.
func noResolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("testnet: dial literal addresses, names would be resolved outside the namespace")
	}}
}

// Index is the number of one of the host's interfaces. It is also the zone of link-local and multicast addresses there that package
// net understands everywhere: what numbers names have, it remembers for a minute, of whatever namespace it asked last.
func (h *Host) Index(t testutil.TB, iface string) (n int) {
	t.Helper()
	err := h.Do(func() error {
		link, err := net.InterfaceByName(iface)
		if err == nil {
			n = link.Index
		}
		return err //nolint:wrapcheck // told below
	})
	if err != nil {
		t.Fatalf("on %s: find %s: %v", h.name, iface, err)
	}
	return n
}

// SetSysctl sets a kernel parameter of the namespace, such as net.ipv4.ip_forward. Keys with dots inside a name (eth0.1)
// are written with slashes.
func (h *Host) SetSysctl(t testutil.TB, key, value string) {
	t.Helper()
	err := h.Do(func() error { return os.WriteFile(sysctlPath(key), []byte(value), 0o644) }) //nolint:gosec // mode is not used
	if err != nil {
		t.Fatalf("on %s: set %s: %v", h.name, key, err)
	}
}

// Sysctl reads a kernel parameter of the namespace.
func (h *Host) Sysctl(t testutil.TB, key string) string {
	t.Helper()
	var value []byte
	err := h.Do(func() (err error) {
		value, err = os.ReadFile(sysctlPath(key))
		return err
	})
	if err != nil {
		t.Fatalf("on %s: read %s: %v", h.name, key, err)
	}
	return strings.TrimSpace(string(value))
}

func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return filepath.Join("/proc/sys", key)
}

// Forward makes the host a router, for IPv4 and IPv6.
func (h *Host) Forward(t testutil.TB) {
	t.Helper()
	h.SetSysctl(t, "net.ipv4.ip_forward", "1")
	h.SetSysctl(t, "net.ipv6.conf.all.forwarding", "1")
}
