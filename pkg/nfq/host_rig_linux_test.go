package nfq

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

// rig is the host under test, which is the namespace of this process, and a peer that is joined to it by eth0 with the
// addresses of testnet.
type rig struct {
	t    *testing.T
	lab  *testnet.Lab
	peer *testnet.Host
	cfg  HostConfig
	// traffic is told about ended connections; optional.
	traffic intercept.Traffic
}

// isolated runs body in a process and namespace of its own, beside other tests.
func isolated(t *testing.T, v Variant, body func(r *rig)) {
	t.Helper()
	t.Parallel()
	isolatedAlone(t, v, body)
}

// isolatedAlone is isolated for what needs the machine.
func isolatedAlone(t *testing.T, v Variant, body func(r *rig)) {
	t.Helper()
	testutil.RequireIPTables(t, testutil.Variant(v.String()))
	testutil.RequireNFQUEUE(t)
	if !testnet.Isolate(t) {
		return
	}
	testnet.RequireOwnNamespace(t)
	r := &rig{t: t, lab: testnet.New(t)}
	r.peer = r.lab.Host("peer")
	for _, key := range []string{"accept_dad", "router_solicitations"} {
		path := "/proc/sys/net/ipv6/conf/default/" + key
		if err := os.WriteFile(path, []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", r.peer.Netns())
	r.run("ip", "address", "add", testnet.ClientV4+"/24", "dev", "eth0")
	r.run("ip", "address", "add", testnet.ClientV6+"/64", "dev", "eth0", "nodad")
	r.peer.Run(t, "ip", "address", "add", testnet.ServerV4+"/24", "dev", "eth0")
	r.peer.Run(t, "ip", "address", "add", testnet.ServerV6+"/64", "dev", "eth0", "nodad")
	r.run("ip", "link", "set", "eth0", "up")
	r.peer.Run(t, "ip", "link", "set", "eth0", "up")
	r.run("ip", "route", "add", "default", "via", testnet.ServerV4)
	r.run("ip", "-6", "route", "add", "default", "via", testnet.ServerV6)
	r.waitPeer()
	r.cfg = HostConfig{Variant: v, OnExit: ExitOpen, StateFile: filepath.Join(t.TempDir(), "state.json")}
	body(r)
}

func (r *rig) waitPeer() {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err4 := r.try("ping", "-c1", "-W1", testnet.ServerV4)
		_, err6 := r.try("ping", "-c1", "-W1", testnet.ServerV6)
		if err4 == nil && err6 == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("peer does not answer: %v, %v", err4, err6)
		}
	}
}

func (r *rig) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

func (r *rig) run(name string, args ...string) string {
	r.t.Helper()
	out, err := r.try(name, args...)
	if err != nil {
		r.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// tool is the name of a program of the variant under test.
func (r *rig) tool(f family, suffix string) string {
	return families[f].program + "-" + r.cfg.Variant.String() + suffix
}

// rules loads foreign rules.
func (r *rig) rules(f family, script string) {
	r.t.Helper()
	cmd := exec.Command(r.tool(f, "-restore"), "--noflush")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// start opens and loads; the end of the test takes it down.
func (r *rig) start() *host {
	r.t.Helper()
	h, err := openHost(r.cfg, r.traffic)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := h.prepare(); err != nil {
		r.t.Fatal(err)
	}
	if err := h.up(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := h.down(context.Background()); err != nil {
			r.t.Error(err)
		}
	})
	return h
}

// watch runs h.watch until stop or the end of the test, and counts repairs.
func (r *rig) watch(h *host) (repairs *atomic.Int64, stop func()) {
	repairs = &atomic.Int64{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.watch(ctx, func() { repairs.Add(1) }); err != nil {
			r.t.Errorf("watch: %v", err)
		}
	})
	stop = func() {
		cancel()
		wg.Wait()
	}
	r.t.Cleanup(stop)
	return repairs, stop
}

// decision is what the test's reader does with a packet.
type decision struct {
	nf   int
	mark uint32
}

// reader is a small, slow reader of all queues that has nothing to do with the one of this package.
type reader struct {
	mu     sync.Mutex // guards what follows
	decide func(queue uint16, info packet.Info) decision
	infos  []packet.Info
}

// repeat answers with a mark of ours.
func repeat(mark uint32) decision { return decision{nf: nfqueue.NfRepeat, mark: mark} }

// read answers the packets of all queues until the test ends. decide is called by one goroutine at a time.
func (r *rig) read(decide func(queue uint16, info packet.Info) decision) *reader {
	r.t.Helper()
	rd := &reader{decide: decide}
	q := DefaultQueues()
	for _, number := range []uint16{q.Out4, q.In4, q.Out6, q.In6} {
		dir := packet.Outbound
		if number == q.In4 || number == q.In6 {
			dir = packet.Inbound
		}
		nf, err := nfqueue.Open(&nfqueue.Config{
			NfQueue: number, MaxPacketLen: 256, MaxQueueLen: 4096, Copymode: nfqueue.NfQnlCopyPacket, WriteTimeout: time.Second,
		})
		if err != nil {
			r.t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		err = nf.RegisterWithErrorFunc(ctx, func(a nfqueue.Attribute) int {
			rd.answer(nf, number, dir, a)
			return 0
		}, func(error) int { return 0 })
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() {
			cancel()
			_ = nf.Close() // its socket ends with the process anyway
		})
	}
	return rd
}

func (rd *reader) answer(nf *nfqueue.Nfqueue, number uint16, dir packet.Direction, a nfqueue.Attribute) {
	var info packet.Info
	if a.Payload == nil || packet.Decode(*a.Payload, dir, &info) != nil {
		_ = nf.SetVerdict(*a.PacketID, nfqueue.NfDrop)
		return
	}
	if a.Mark != nil {
		info.Mark = *a.Mark
	}
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.infos = append(rd.infos, info)
	d := rd.decide(number, info)
	if d.mark == 0 {
		_ = nf.SetVerdict(*a.PacketID, d.nf)
		return
	}
	_ = nf.SetVerdictWithOption(*a.PacketID, d.nf, nfqueue.WithMark(d.mark))
}

// set changes the policy.
func (rd *reader) set(decide func(queue uint16, info packet.Info) decision) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.decide = decide
}

// count returns the packets of protocol p that were read since the last call and have this port, if it is not 0. Others may be
// what conversations before left behind.
func (rd *reader) count(p packet.Protocol, port uint16) (infos []packet.Info) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	for _, i := range rd.infos {
		if i.Protocol == p && (port == 0 || i.Local.Port() == port || i.Remote.Port() == port) {
			infos = append(infos, i)
		}
	}
	rd.infos = nil
	return infos
}

// all answers every packet in the same way.
func all(d decision) func(uint16, packet.Info) decision {
	return func(uint16, packet.Info) decision { return d }
}

// server and client are the addresses of a family.
func serverAddr(f family) netip.Addr {
	if f == family6 {
		return netip.MustParseAddr(testnet.ServerV6)
	}
	return netip.MustParseAddr(testnet.ServerV4)
}

func clientAddr(f family) netip.Addr {
	if f == family6 {
		return netip.MustParseAddr(testnet.ClientV6)
	}
	return netip.MustParseAddr(testnet.ClientV4)
}

func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range []family{family4, family6} {
		t.Run(f.String(), func(t *testing.T) { test(t, f) })
	}
}

// foreignRules is what docker, ufw and people put into the tables.
func foreignRules(f family) string {
	n := families[f]
	net := "10.9.0.0/16"
	if f == family6 {
		net = "fd09::/64"
	}
	return fmt.Sprintf(`*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:ufw-before-output - [0:0]
:ufw-user-output - [0:0]
:WEIR-FOREIGN - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A OUTPUT -j ufw-before-output
-A OUTPUT -d %[1]s -m comment --comment "a \"quoted\" -j WEIR-V comment" -j ACCEPT
-A DOCKER-USER -j RETURN
-A ufw-before-output -o lo -j ACCEPT
-A ufw-before-output -j ufw-user-output
-A WEIR-FOREIGN -p tcp -m tcp --dport 9 -j %[2]s
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s %[1]s ! -o docker0 -j MASQUERADE
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m comment --comment "wg-quick(8) rule for wg0" -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A POSTROUTING -p udp -m mark --mark 0xca6c -m comment --comment "wg-quick(8) rule for wg0" -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
`, net, "REJECT --reject-with "+n.adminReject)
}
