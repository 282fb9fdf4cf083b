package nfq

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestIntegrationCrashNFT(t *testing.T)    { isolated(t, VariantNFT, testCrash) }
func TestIntegrationCrashLegacy(t *testing.T) { isolated(t, VariantLegacy, testCrash) }

func TestIntegrationCleanupNFT(t *testing.T)    { isolated(t, VariantNFT, testCleanup) }
func TestIntegrationCleanupLegacy(t *testing.T) { isolated(t, VariantLegacy, testCleanup) }

// childVar tells a test binary that it is the process to be killed, and its HostConfig.
const childVar = "WEIR_NFQ_CHILD"

// childCleansVar, if not empty, makes it clean up instead.
const childCleansVar = "WEIR_NFQ_CHILD_CLEANS"

const permanentPort = 8

// childPolicy is portPolicy, and allows permanentPort for good.
type childPolicy struct{ portPolicy }

func (p childPolicy) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if i.Remote.Port() == permanentPort {
		return verdict.ActionPermanentAccept, 0, true
	}
	return p.portPolicy.Lookup(i)
}

// TestIntegrationChild is the process to be killed, and nothing otherwise.
func TestIntegrationChild(t *testing.T) {
	text := os.Getenv(childVar)
	if text == "" {
		return
	}
	testnet.RequireOwnNamespace(t)
	var cfg HostConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Host: cfg})
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(childCleansVar) != "" {
		err = Cleanup(t.Context(), cfg)
	} else {
		err = s.Run(t.Context(), childPolicy{}, func() { fmt.Println("child: ready") })
	}
	for name, kind := range map[string]error{
		"ErrNotInterceptable": intercept.ErrNotInterceptable, "ErrNoRights": ErrNoRights, "ErrNoTool": ErrNoTool,
		"ErrNoKernelSupport": ErrNoKernelSupport, "ErrMixedVariants": ErrMixedVariants, "ErrInUse": ErrInUse,
	} {
		if errors.Is(err, kind) {
			fmt.Println("child is", name)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// childCommand is a process that filters, begun by a command line such as a shell, or none.
func (r *rig) childCommand(t *testing.T, prefix ...string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	line := slices.Concat(prefix, []string{os.Args[0], "-test.run=^TestIntegrationChild$", "-test.v"})
	cmd := exec.CommandContext(t.Context(), line[0], line[1:]...)
	cmd.Env = append(os.Environ(), childVar+"="+string(text))
	return cmd
}

// child starts a process that filters, as childCommand does. kill ends it as nothing but kill -9 does.
func (r *rig) child(t *testing.T, prefix ...string) (kill func()) {
	t.Helper()
	cmd := r.childCommand(t, prefix...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			t.Fatalf("the child ended: %v\n%s", cmd.Wait(), said.String())
		}
		if lines.Text() == "child: ready" {
			break
		}
		said.WriteString(lines.Text() + "\n")
	}
	killed := false
	kill = func() {
		if killed {
			return
		}
		killed = true
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // says that it was killed
	}
	t.Cleanup(kill)
	return kill
}

func testCrash(r *rig) {
	t := r.t
	r.echoServers()
	r.peer.TCPEcho(t, fmt.Sprintf("[::]:%d", permanentPort))
	t.Run("enforce", func(t *testing.T) { testKill(t, r) })
	t.Run("observe", func(t *testing.T) {
		r.cfg.Mode = Observe
		r.child(t)()
		eachFamily(t, func(t *testing.T, f family) {
			for _, kind := range []string{"tcp", "udp", "ping"} {
				for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
					if got, _, _ := r.probe(kind, dir, f, patience); got != answered {
						t.Errorf("%s %s: got %s; want everything to pass", kind, dir, got)
					}
				}
			}
		})
		if err := Cleanup(t.Context(), r.cfg); err != nil {
			t.Error(err)
		}
	})
}

// connect opens a TCP connection that lives through the crash.
func connect(t *testing.T, f family, port uint16) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", netip.AddrPortFrom(serverAddr(f), port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	mustExchange(t, c)
	return c
}

func testKill(t *testing.T, r *rig) {
	kill := r.child(t)
	stop := r.flood(t)
	defer stop()
	var permanent, watched [numFamilies]net.Conn
	for _, f := range []family{family4, family6} {
		permanent[f], watched[f] = connect(t, f, permanentPort), connect(t, f, allowedPort)
	}
	kill()
	eachFamily(t, func(t *testing.T, f family) {
		start := time.Now()
		mustExchange(t, permanent[f])
		t.Logf("permanently accepted TCP answers %v after kill -9", time.Since(start).Round(time.Microsecond))
		for _, kind := range []string{"tcp", "udp", "ping"} {
			for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
				if got, _, _ := r.probe(kind, dir, f, shortly); got == answered {
					t.Errorf("%s %s: got an answer; want nothing to pass", kind, dir)
				}
			}
		}
	})
	// The restart finds our rules, and takes them over while the flood goes on.
	kill = r.child(t)
	eachFamily(t, func(t *testing.T, f family) {
		mustExchange(t, watched[f])
		mustExchange(t, permanent[f])
		if got, _, _ := r.probe("udp", packet.Outbound, f, patience); got != answered {
			t.Errorf("got %s; want what is allowed to pass", got)
		}
	})
	kill()
	stop()
	if err := Cleanup(t.Context(), r.cfg); err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		mustExchange(t, watched[f])
		mustExchange(t, permanent[f])
	})
}

func TestIntegrationFlushedCrashNFT(t *testing.T)    { isolated(t, VariantNFT, testFlushedCrash) }
func TestIntegrationFlushedCrashLegacy(t *testing.T) { isolated(t, VariantLegacy, testFlushedCrash) }

// testFlushedCrash checks that verdicts do not outlive the process that gave them even if nothing of its rules is left: not those
// that are marks, and not those that are labels.
func testFlushedCrash(r *rig) {
	t := r.t
	r.echoServers()
	track, err := openTracker(DefaultMarks())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = track.close() }) // ends with the process
	file := r.cfg.StateFile
	for _, test := range []struct {
		name  string
		file  string // of the second start
		flush string
	}{
		{"all rules flushed", file, "nft flush ruleset"},
		{"only the backstop left", filepath.Join(t.TempDir(), "another.json"), ""},
		{"no state file", "", "nft flush ruleset"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.cfg.StateFile = file
			kill := r.child(t)
			entries := map[string]packet.Tuple{}
			for _, f := range []family{family4, family6} {
				for _, kind := range []string{"label", "mark"} {
					c := r.udp(t, packet.Outbound, f)
					mustExchange(t, c)
					entries[f.String()+" "+kind] = udpTuple(c)
					set := track.setLabel
					if kind == "mark" {
						set = func(x packet.Tuple) error { return track.update(x, DefaultMarks().AcceptFinal) }
					}
					if err := set(udpTuple(c)); err != nil {
						t.Fatal(err)
					}
				}
			}
			kill()
			r.run("sh", "-ec", test.flush)
			r.run("sh", "-ec", flushVariant, "sh", r.cfg.Variant.String())
			r.cfg.StateFile = test.file
			kill = r.child(t)
			for what, x := range entries {
				f, err := track.find(x)
				if err != nil || f.labelled() || f.mark != 0 {
					t.Errorf("%s: got %+v, %v; want an entry without a verdict", what, f, err)
				}
			}
			kill()
			if err := Cleanup(t.Context(), r.cfg); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// flushVariant is what an administrator does who wants all rules gone.
const flushVariant = `for i in iptables ip6tables; do for t in mangle filter nat; do
	$i-$1 -t $t -F; $i-$1 -t $t -X
done; done`

// testCleanup kills and cleans up, and wants the host as it was, to the byte.
func testCleanup(r *rig) {
	t := r.t
	foreign := func() {
		for _, f := range []family{family4, family6} {
			r.rules(f, foreignRules(f))
		}
	}
	// The tables of the legacy variant stay listed once somebody has used them.
	if r.cfg.Variant == VariantLegacy {
		foreign()
	}
	before := testnet.MachineSnapshot(t)
	for cycle := range 10 { // and as many of the other variant
		if cycle == 5 && r.cfg.Variant == VariantNFT {
			foreign()
			before = testnet.MachineSnapshot(t)
		}
		r.cfg.Redirects = Redirects{}
		if cycle%2 == 0 {
			r.cfg.Redirects = DefaultRedirects() // the nat table too
		}
		kill := r.child(t)
		if cycle%4 == 0 {
			kill()
			r.cfg.Redirects = Redirects{} // another configuration takes over what this one left
			kill = r.child(t)             // a second crash knows what was there before the first
		}
		kill()
		if testnet.Diff(before, testnet.MachineSnapshot(t)) == "" {
			t.Fatal("got nothing left by the crash; want rules")
		}
		if err := Cleanup(t.Context(), r.cfg); err != nil {
			t.Fatal(err)
		}
		if diff := testnet.Diff(before, testnet.MachineSnapshot(t)); diff != "" {
			t.Fatalf("cycle %d: left behind:\n%s", cycle, diff)
		}
		if _, err := os.Stat(r.cfg.StateFile); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v; want the state file gone", err)
		}
	}
	if err := Cleanup(context.Background(), r.cfg); err != nil {
		t.Errorf("got %v when there is nothing to do; want nil", err)
	}
	if diff := testnet.Diff(before, testnet.MachineSnapshot(t)); diff != "" {
		t.Errorf("clean-up of a clean host changed it:\n%s", diff)
	}
}
