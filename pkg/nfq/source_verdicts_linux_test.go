package nfq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testnet/testflow"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// judge decides about all packets in one way, by a verdict method, and counts
// those of one kind.
type judge struct {
	mu     sync.Mutex // guards what follows
	action verdict.Action
	counts func(*packet.Info) bool
	seen   int
}

func (j *judge) Lookup(*packet.Info) (verdict.Action, uint8, bool) { return 0, 0, false }

func (j *judge) Handle(p packet.Packet) {
	j.mu.Lock()
	action := j.action
	if j.counts(p.Info()) {
		j.seen++
	}
	j.mu.Unlock()
	_ = packet.Apply(p, action, 0) // the sender sees whether that worked
}

func (j *judge) set(a verdict.Action, counts func(*packet.Info) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.action, j.counts, j.seen = a, counts, 0
}

func (j *judge) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.seen
}

// run runs s until the test ends.
func run(t *testing.T, s *nfq.Source, h intercept.Handler) (stop func()) {
	t.Helper()
	testutil.NoLeaks(t)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, h, func() { close(ready) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatalf("Run did not end within %v", patience)
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatalf("not ready within %v", patience)
	}
	return stop
}

// patience is for what has to happen, on a busy machine; dropTime for what must
// not.
const (
	patience = 20 * time.Second
	dropTime = 150 * time.Millisecond
)

// side is one end of a connection: this namespace or the peer.
type side struct {
	dial func(local, remote netip.AddrPort, wait time.Duration) (net.Conn, error)
	ping func(to netip.Addr, a verdict.Action) string
	addr func(version uint8) netip.Addr
	echo netip.AddrPort // an echo server, on all addresses
}

// sides returns this namespace and the peer.
func sides(t *testing.T, n *testflow.Net) (own, peer *side) {
	t.Helper()
	dial := func(do func(func() error) error) func(netip.AddrPort, netip.AddrPort, time.Duration) (net.Conn, error) {
		return func(local, remote netip.AddrPort, wait time.Duration) (c net.Conn, err error) {
			d := net.Dialer{Timeout: wait, LocalAddr: net.TCPAddrFromAddrPort(local), Control: reusable}
			err = do(func() (dialErr error) {
				c, dialErr = d.Dial("tcp", remote.String())
				return dialErr
			})
			return c, err
		}
	}
	args := func(to netip.Addr, a verdict.Action) []string {
		wait, pause := dropTime, 10*time.Millisecond
		if a.Verdict() == verdict.Accept {
			wait = patience // it ends with the second answer
		}
		if a.Permanent() {
			pause = 500 * time.Millisecond // the first has to be decided before there is a second
		}
		return []string{"-n", "-c", "2", "-i", fmt.Sprint(pause.Seconds()), "-W", fmt.Sprint(wait.Seconds()), to.String()}
	}
	addr := func(v4, v6 string) func(uint8) netip.Addr {
		return func(version uint8) netip.Addr {
			if version == 6 {
				return netip.MustParseAddr(v6)
			}
			return netip.MustParseAddr(v4)
		}
	}
	here := func(f func() error) error { return f() }
	listener, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	go echo(listener)
	t.Cleanup(func() { _ = listener.Close() }) // it ends with the process anyway
	return &side{
			dial: dial(here),
			ping: func(to netip.Addr, a verdict.Action) string { return try(t, args(to, a)) },
			addr: addr(testnet.ClientV4, testnet.ClientV6),
			echo: netip.MustParseAddrPort(listener.Addr().String()),
		}, &side{
			dial: dial(n.Peer.Do),
			ping: func(to netip.Addr, a verdict.Action) string {
				out, _ := n.Peer.Try("ping", args(to, a)...) // no answer is an error
				return out
			},
			addr: addr(testnet.ServerV4, testnet.ServerV6),
			echo: n.Peer.TCPEcho(t, "[::]:0").Addr(),
		}
}

// reusable lets a connection use the local port of one that just ended.
func reusable(_, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) {
		// Closing sends RST: no TIME_WAIT keeps the port.
		err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
			syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}))
	}), err)
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c) // the client sees what is missing
			_ = c.Close()        // nothing was buffered
		}()
	}
}

// fateOf reads what a dial's error says.
func fateOf(err error) intercepttest.Fate {
	var timeout net.Error
	switch {
	case err == nil:
		return intercepttest.Passed
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES):
		return intercepttest.Refused
	case errors.As(err, &timeout) && timeout.Timeout():
		return intercepttest.Lost
	}
	return intercepttest.Fate(99)
}

// TestIntegrationVerdicts: what TCP clients and pings see of each verdict, and how
// often the handler is asked. UDP is in the conformance suite.
func TestIntegrationVerdicts(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	own, peer := sides(t, n)
	j := &judge{counts: func(*packet.Info) bool { return false }}
	source := newSource(t, withRules(t))
	run(t, source, j)
	for _, kind := range intercepttest.AllKinds() {
		client, server := own, peer
		if kind.Direction == packet.Inbound {
			client, server = peer, own
		}
		for a := range verdict.Action(verdict.NumActions) {
			if a.Verdict().Redirects() || a == verdict.ActionPermanentAcceptFinal && kind.Direction == packet.Inbound {
				continue // the conformance suite has them; the other is for outbound connections only
			}
			name := kind.String() + " " + a.String()
			t.Run("TCP "+name, func(t *testing.T) {
				testTCP(t, j, a, client, kind.Version, netip.AddrPortFrom(server.addr(kind.Version), server.echo.Port()))
			})
			t.Run("ping "+name, func(t *testing.T) {
				j.set(a, func(i *packet.Info) bool { return i.Protocol.IsICMP() && i.IsEcho() })
				testPing(t, j, a, client.ping(server.addr(kind.Version), a))
			})
		}
	}
	if st := source.Stats(); st.UnknownIDs+st.NetlinkErrors+st.HostErrors+st.BadMessages+st.ENOBUFS != 0 || st.Verdicts != st.Packets {
		t.Errorf("got %+v; want as many verdicts as packets and no errors", st)
	}
}

func testTCP(t *testing.T, j *judge, a verdict.Action, client *side, version uint8, to netip.AddrPort) {
	t.Helper()
	want, wait := intercepttest.Complete(a, intercepttest.FlowKind{}), patience
	if want == intercepttest.Lost {
		wait = dropTime
	}
	nextPort++
	port := nextPort
	j.set(a, func(i *packet.Info) bool { return i.Local.Port() == port || i.Remote.Port() == port })
	local := netip.AddrPortFrom(client.addr(version), port)
	asked := [2]int{}
	for n := range asked {
		c, err := client.dial(local, to, wait)
		if got := fateOf(err); got != want {
			t.Fatalf("connection %d: got %v (%v); want %v", n, got, err, want)
		}
		if err == nil {
			exchange(t, c)
		}
		asked[n] = j.count()
	}
	switch {
	case a == verdict.ActionPermanentAccept, a == verdict.ActionPermanentAcceptFinal:
		// The second connection is a new one, and so may be asked about.
		if asked[0] != 1 || asked[1] > 2 {
			t.Errorf("got %d packets, then %d; want 1 a connection", asked[0], asked[1])
		}
	case a.Permanent():
		if asked != [2]int{1, 1} {
			t.Errorf("got %d packets, then %d; want the first only", asked[0], asked[1])
		}
	case a == verdict.ActionAccept:
		if asked[0] < 5 {
			t.Errorf("got %d packets; want all of a connection", asked[0])
		}
	case asked[0] < 1 || asked[1] <= asked[0]:
		t.Errorf("got %d packets, then %d; want all", asked[0], asked[1])
	}
}

// nextPort is a port below those that the system chooses from, so that both
// connections of a test can have it.
var nextPort uint16 = 20000

// exchange sends something and reads it back a few times.
func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	b := []byte("hello")
	for range 3 {
		err := c.SetDeadline(time.Now().Add(patience))
		if _, writeErr := c.Write(b); err == nil {
			err = writeErr
		}
		if _, readErr := io.ReadFull(c, b); err == nil {
			err = readErr
		}
		if err != nil {
			t.Errorf("got %v on the connection; want its echo", err)
			break
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// testPing looks at two echo requests of one program: one connection.
func testPing(t *testing.T, j *judge, a verdict.Action, out string) {
	t.Helper()
	passes, asked := a.Verdict() == verdict.Accept, j.count()
	if want := map[bool]string{true: " 2 received", false: " 0 received"}[passes]; !strings.Contains(out, want) {
		t.Errorf("got %s\nwant%s", out, want)
	}
	for _, word := range []string{"nreachable", "rohibited", "iltered"} {
		if strings.Contains(out, word) {
			t.Errorf("got %s\nwant silence", out)
		}
	}
	want := map[bool]int{true: 4, false: 2}[passes] // with the replies
	if a.Permanent() {
		want = 1
	}
	if asked != want {
		t.Errorf("got %d packets; want %d", asked, want)
	}
}

// try runs ping here. No answer is an error, which the output tells as well.
func try(t *testing.T, args []string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ping", args...).CombinedOutput()
	if len(out) == 0 {
		t.Fatal(err)
	}
	return string(out)
}
