package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
)

// dnsmasq runs Debian's dnsmasq on the client until the end of the test, which asks a server on behalf of programs.
func (r *rig) dnsmasq(t *testing.T, port int, server string, flags ...string) {
	t.Helper()
	r.resolver(t, "", "started", "dnsmasq", dnsmasqFlags(port, server, flags...)...)
}

func dnsmasqFlags(port int, server string, flags ...string) []string {
	return append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-poll", "--pid-file=", "--log-facility=-", "--cache-size=0",
		"--listen-address=127.0.0.1", "--bind-interfaces", fmt.Sprintf("--port=%d", port), "--server=" + server,
	}, flags...)
}

// unbound runs Debian's unbound like dnsmasq, as that account.
func (r *rig) unbound(t *testing.T, port int, server, account string) {
	t.Helper()
	config := filepath.Join(r.dir, fmt.Sprintf("unbound-%d.conf", port))
	text := fmt.Sprintf(`server:
  interface: 127.0.0.1@%d
  username: %q
  chroot: ""
  directory: ""
  pidfile: ""
  use-syslog: no
  verbosity: 1
  module-config: "iterator"
  local-zone: "test." nodefault
forward-zone:
  name: "."
  forward-addr: %s
`, port, account, server)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r.resolver(t, "", "start of service", "unbound", "-d", "-p", "-c", config)
}

// resolver runs a program until the end of the test, in the systemd unit of that name if there is one, and waits until it says that it runs.
func (r *rig) resolver(t *testing.T, unit, says, program string, args ...string) {
	t.Helper()
	testutil.RequireTool(t, program)
	if unit != "" {
		args = append([]string{"-c", `echo $$ > "$0" && exec "$@"`, inUnit(t, unit), program}, args...)
		program = "sh"
	}
	p := r.client.Start(t, program, args...)
	t.Cleanup(p.Kill)
	p.WaitOutput(t, says, startLimit)
}

// inUnit makes the control group that systemd makes for a system service, and returns the file that takes a process into it. Control
// groups are the machine's: only one test at a time has one.
func inUnit(t *testing.T, unit string) string {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "weir-e2e-unit.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() }) // gives it to the next one
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	slice := filepath.Join(unified(t), "system.slice")
	dir := filepath.Join(slice, unit+".service")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		testutil.Unavailable(t, "no control group can be made: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
		_ = os.Remove(slice) // where systemd runs, it is full
	})
	return filepath.Join(dir, "cgroup.procs")
}

// unified is where the unified hierarchy of control groups is mounted.
func unified(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	testutil.Unavailable(t, "there is no unified hierarchy of control groups")
	return ""
}

// knowsResolvers wants real resolvers to pass for the system's if the administrator has made them so, and no others.
func (r *rig) knowsResolvers(t *testing.T) {
	port := 5300
	for _, tt := range []struct {
		program, account, unit string
		want                   bool
	}{
		{"dnsmasq", "dnsmasq", "", true},
		{"dnsmasq", "www-data", "", false},
		{"dnsmasq", "www-data", "nscd", true}, // whoever it is: only the administrator makes units
		{"unbound", "unbound", "", true},
		{"unbound", "www-data", "", false},
	} {
		port++
		t.Run(fmt.Sprintf("%s as %s in unit %q", tt.program, tt.account, tt.unit), func(t *testing.T) {
			if tt.program == "unbound" {
				r.unbound(t, port, testnet.ServerV4, tt.account)
			} else {
				r.resolver(t, tt.unit, "started", "dnsmasq", dnsmasqFlags(port, testnet.ServerV4, "--user="+tt.account)...)
			}
			if !r.digs("open.test", "@127.0.0.1", "-p", fmt.Sprint(port)) {
				t.Errorf("no answer\n%s", r.cli(t, "conns"))
			}
			c := r.newest(t, testnet.ServerV4, 53, "--app", tt.program)
			if (c.Decision.Reason.Code == dnsguard.CodeSystemDNS) != tt.want {
				t.Errorf("got %+v of %+v; want the system's: %v", c.Decision, c.Process, tt.want)
			}
		})
	}
}
