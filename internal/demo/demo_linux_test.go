package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// marker is a variable that everything the demo starts inherits, so that what it leaves behind is found.
const marker = "WEIR_DEMO_TEST"

// performance is a demo that runs as a program of its own, as `make demo` runs it.
type performance struct {
	cmd    *exec.Cmd
	mark   string
	before string
	mu     sync.Mutex // guards out
	out    strings.Builder
}

func (p *performance) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *performance) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func perform(t *testing.T) *performance {
	t.Helper()
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "curl", "nc", "dig", "ping", "iperf3", "dnsmasq")
	lab := testnet.New(t)
	// The longest it may take on a machine that has other things to do.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	p := &performance{cmd: exec.CommandContext(ctx, lab.Program(t, "github.com/weirfw/weir/internal/demo"))}
	p.mark = fmt.Sprintf("%s=%s", marker, filepath.Base(lab.Dir()))
	p.cmd.Env = append(os.Environ(), p.mark)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.before = machine(t)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// machine is the network of this machine but for kernel parameters: those of modules that are loaded for the first time are new.
func machine(t *testing.T) string {
	t.Helper()
	s, _, _ := strings.Cut(testnet.MachineSnapshot(t), "== sysctl\n")
	return s
}

// checkNothingLeft looks for namespaces, files and processes of the demo.
func (p *performance) checkNothingLeft(t *testing.T) {
	t.Helper()
	pattern := fmt.Sprintf("weirt%d-*", p.cmd.Process.Pid)
	for _, dir := range []string{"/run/netns", os.TempDir()} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(left) > 0 {
			t.Errorf("got %v, %v in %s; want nothing left", left, err, dir)
		}
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range environs {
		// Processes come and go; those that are gone are no concern.
		env, _ := os.ReadFile(e)
		if slices.Contains(strings.Split(string(env), "\x00"), p.mark) {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
			t.Errorf("%s runs on: %q", filepath.Dir(e), name)
		}
	}
	if diff := testnet.Diff(p.before, machine(t)); diff != "" {
		t.Errorf("the network of this machine has changed:\n%s", diff)
	}
}

func TestIntegrationDemo(t *testing.T) {
	testutil.NoLeaks(t)
	p := perform(t)
	err := p.cmd.Wait()
	out := p.output()
	t.Logf("it printed:\n%s", out)
	if err != nil {
		t.Errorf("got %v; want success", err)
	}
	const who = `\[\d+\]`
	for _, want := range []string{
		`✓  curl http://web\.demo/ +HTTP 200 .* accepted +default for out is allow; curl` + who,
		`✓  curl -6 http://web\.demo/ +HTTP 200 .* accepted `,
		`✓  curl http://web\.demo:8080/ +exit 7: .* blocked +web-only: curl may only browse; curl` + who,
		`✓  nc -z web\.demo 8080 +connected .* accepted `,
		`✓  curl http://ads\.demo/ +exit 7: .* blocked +ads: no advertisements; curl` + who,
		`✓  curl -6 http://ads\.demo/ +exit 7: .* blocked +ads: `,
		`✓  curl http://tracker\.demo/ +exit 28: timed out .* dropped +trackers: `,
		`✓  nc -z web\.demo 2222 +exit 1: .* blocked +ssh: the rule asks`,
		`✓  dig web\.demo @10\.77\.0\.2 +answer: 10\.77\.0\.2 .* accepted .*; dig` + who,
		`✓  dig web\.demo @10\.77\.0\.3 +exit \d+: unreachable .* blocked +ads: `,
		`✓  ping -c3 web\.demo +3 of 3 answered .* accepted .*; ping` + who,
		`✓  ping -c3 ads\.demo +exit 1: 0 of 3 answered .* blocked +ads: `,
		`✓  curl http://client:80/ +HTTP 200 .* accepted +our-web: `,
		`✓  curl http://client:8080/ +exit 28: timed out .* dropped +default for in is drop`,
		`✓  nc -z localhost 5432 +exit 1: .* blocked +db: `,
		`✓  curl: exit 56: connection aborted, .* after the change`,
		`✓  refd: blocked by no-web: `,
		`✓  iperf3 noticed nothing`,
		`✓  nc -z web\.demo 8080: exit 1: timed out`,
		`✓  curl http://ads\.demo/ +HTTP 200 .* would be +ads: `,
		`✓  curl -6 http://web\.demo/ +HTTP 200 .* split tunneled +[1-9]\d* packets by eth0, 0 by vpn0; `,
		`✓  nc -z other\.demo 80 +connected .* accepted +0 packets by eth0, [1-9]\d* by vpn0; `,
		`✓  curl http://web\.demo/ +exit 7: .* failed +0 packets by eth0, 0 by vpn0; select`,
		`✓  refd has stopped; .* to the byte`,
		`as expected, in `,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("got no line that matches %q", want)
		}
	}
	few, many := packetsSeen(t, out, "permanent verdicts"), packetsSeen(t, out, "asked about every packet")
	if few > 100 || many < 10*few {
		t.Errorf("refd saw %d packets with permanent verdicts, %d without; want a few, and many", few, many)
	}
	if strings.Contains(out, "\x1b") {
		t.Error("got escape sequences; want none in a file")
	}
	p.checkNothingLeft(t)
}

// packetsSeen reads a line of the throughput table.
func packetsSeen(t *testing.T, out, line string) int {
	t.Helper()
	m := regexp.MustCompile(line + ` +[\d.]+ Gbit/s +\d+ % +refd saw (\d+) packets`).FindStringSubmatch(out)
	if m == nil {
		t.Errorf("got no throughput with %s", line)
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Error(err)
	}
	return n
}

// Ctrl-C reaches all programs of a terminal, kill only the demo.
func TestIntegrationInterrupted(t *testing.T) {
	testutil.NoLeaks(t)
	for _, tt := range []struct {
		name   string
		after  string
		signal func(pid int) error
	}{
		{"Ctrl-C while programs run", "HTTP 200", func(pid int) error { return syscall.Kill(-pid, syscall.SIGINT) }},
		{"kill while it builds", "on a network of its own", func(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := perform(t)
			done := make(chan error, 1)
			go func() { done <- p.cmd.Wait() }()
			for !strings.Contains(p.output(), tt.after) {
				select {
				case err := <-done:
					t.Fatalf("it ended before it was interrupted: %v\n%s", err, p.output())
				case <-time.After(10 * time.Millisecond):
				}
			}
			if err := tt.signal(p.cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			var status *exec.ExitError
			if err := <-done; !errors.As(err, &status) || status.ExitCode() != interrupted {
				t.Errorf("got %v; want exit status %d\n%s", err, interrupted, p.output())
			}
			p.checkNothingLeft(t)
		})
	}
}
