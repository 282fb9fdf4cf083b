package kextv2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

var (
	current  = [4]byte{2, 1, 1, 0}
	version  = kextv2.Version{Major: 2, Minor: 1, Revision: 1}
	outbound = intercepttest.FlowKind{Version: 4, Direction: packet.Outbound}
)

func openDriver(d *kexttest.Stream) func() (kextv2.Device, error) {
	return func() (kextv2.Device, error) {
		dev, err := d.Open()
		if err != nil {
			return nil, err
		}
		return dev, nil
	}
}

func noFaults(t *testing.T, d interface{ Faults() []string }) {
	t.Helper()
	t.Cleanup(func() {
		if f := d.Faults(); len(f) > 0 {
			t.Errorf("got %d faults, the first: %s; want none", len(f), f[0])
		}
	})
}

func TestConformance(t *testing.T) {
	for name, chop := range map[string]int{"whole reads": 0, "reads of 7 bytes": 7} {
		t.Run(name, func(t *testing.T) {
			var driver *kexttest.Stream
			var flows kexttest.Flows
			intercepttest.Conformance(t, intercepttest.Harness{
				New: func(t *testing.T, timeout time.Duration) intercept.Source {
					driver = kexttest.NewStream(current, chop)
					noFaults(t, driver)
					s, err := kextv2.New(kextv2.Config{Open: openDriver(driver), Version: version, Timeout: timeout})
					if err != nil {
						t.Fatal(err)
					}
					return s
				},
				Flow: func(_ *testing.T, kind intercepttest.FlowKind) intercepttest.Flow {
					return flows.New(driver, kind)
				},
				Shows:    intercepttest.Complete,
				Kinds:    intercepttest.AllKinds(),
				Memory:   intercepttest.Remembers,
				DropTime: 10 * time.Second, // this driver tells of what is lost
			})
		})
	}
}

// handler is a Handler that hands packets to the test, and an intercept.Traffic.
type handler struct {
	lookup func(*packet.Info) (verdict.Action, uint8, bool)
	handle func(packet.Packet)

	mu    sync.Mutex // guards what follows
	usage []intercept.Usage
	ends  []packet.Tuple
}

func (h *handler) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if h.lookup == nil {
		return 0, 0, false
	}
	return h.lookup(i)
}

func (h *handler) Handle(p packet.Packet) {
	if h.handle != nil {
		h.handle(p)
	}
}

func (h *handler) ReportUsage(u []intercept.Usage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.usage = append(h.usage, u...)
}

func (h *handler) ReportEnd(e intercept.End) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends = append(h.ends, e.Tuple)
}

// start runs a source over the driver until the test ends. It may be used in a bubble.
func start(t *testing.T, d *kexttest.Stream, cfg kextv2.Config, h intercept.Handler) (s *kextv2.Source, stop func() error) {
	t.Helper()
	cfg.Open = openDriver(d)
	s, err := kextv2.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, h, func() { close(ready) }) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("got %v; want a running source", err)
	}
	return s, stop
}

// told are the bytes of the commands with this id.
func told(d *kexttest.Stream, id byte) (all [][]byte) {
	for _, c := range d.Commands() {
		if c.Data[0] == id {
			all = append(all, c.Data)
		}
	}
	return all
}

// verdicts are the bytes that each action has to become, by the protocol's table.
var verdicts = map[verdict.Action]struct{ number, update byte }{
	verdict.ActionAccept:               {number: 0x02},
	verdict.ActionPermanentAccept:      {number: 0x03, update: 0x03},
	verdict.ActionPermanentAcceptFinal: {number: 0x03, update: 0x03},
	verdict.ActionBlock:                {number: 0x04},
	verdict.ActionPermanentBlock:       {number: 0x05, update: 0x05},
	verdict.ActionDrop:                 {number: 0x06},
	verdict.ActionPermanentDrop:        {number: 0x07, update: 0x07},
	verdict.ActionRerouteToNameserver:  {number: 0x08, update: 0x08},
	verdict.ActionRerouteToTunnel:      {number: 0x09, update: 0x09},
	verdict.ActionRerouteToSplitTun:    {number: 0x0b, update: 0x0b},
}

// decide applies an action, which is nobody's fault if it fails.
func decide(t *testing.T, action verdict.Action) func(packet.Packet) {
	return func(p packet.Packet) {
		if err := packet.Apply(p, action, 0); err != nil {
			t.Errorf("%v: %v", action, err)
		}
	}
}

func TestVerdictBytes(t *testing.T) {
	if len(verdicts) != verdict.NumActions {
		t.Fatalf("the table has %d actions; want all %d", len(verdicts), verdict.NumActions)
	}
	for action, want := range verdicts {
		t.Run(action.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			d := kexttest.NewStream(current, 0)
			noFaults(t, d)
			start(t, d, kextv2.Config{Version: version}, &handler{handle: decide(t, action)})
			var flows kexttest.Flows
			f := flows.New(d, outbound)
			if err := f.Send(); err != nil {
				t.Fatal(err)
			}
			f.Fate(10 * time.Second)
			bytes := append([]byte{0x01, 0x01, 0, 0, 0, 0, 0, 0, 0}, want.number) // verdict on packet 1
			if got := told(d, 1); len(got) != 1 || !slices.Equal(got[0], bytes) {
				t.Errorf("got % x; want one % x", got, bytes)
			}
		})
	}
}

// Updates for both versions of IP, byte for byte. What is not permanent makes the driver ask again about everything.
func TestUpdateBytes(t *testing.T) {
	testutil.NoLeaks(t)
	d := kexttest.NewStream(current, 0)
	noFaults(t, d)
	s, _ := start(t, d, kextv2.Config{Version: version}, &handler{})
	v4 := packet.Tuple{
		Protocol: packet.TCP, Local: netip.MustParseAddrPort("192.168.1.100:50000"), Remote: netip.MustParseAddrPort("93.184.216.34:443"),
	}
	v6 := packet.Tuple{
		Protocol: packet.UDP, Local: netip.MustParseAddrPort("[2001:db8::1]:443"), Remote: netip.MustParseAddrPort("[fe80::1234:5678:9abc:def0]:1"),
	}
	head4 := testutil.Hex(t, `02 06 c0a80164 50c3 5db8d822 bb01`)
	head6 := testutil.Hex(t, `03 11 20010db8000000000000000000000001 bb01 fe80000000000000123456789abcdef0 0100`)
	clears := len(told(d, 4))
	for action, want := range verdicts {
		for _, tu := range []packet.Tuple{v4, v6} {
			before := len(told(d, 2)) + len(told(d, 3))
			if err := s.Update(tu, action, 0); err != nil {
				t.Errorf("%v %v: %v", action, tu, err)
			}
			all := append(told(d, 2), told(d, 3)...)
			if want.update == 0 {
				clears++
				if got := len(told(d, 4)); got != clears || len(all) != before {
					t.Errorf("%v: got %d clears, %d updates; want %d, %d", action, got, len(all), clears, before)
				}
				continue
			}
			head, id := head4, byte(2)
			if tu == v6 {
				head, id = head6, 3
			}
			of := told(d, id)
			if got, bytes := of[len(of)-1], append(slices.Clone(head), want.update); !slices.Equal(got, bytes) {
				t.Errorf("%v: got % x; want % x", action, got, bytes)
			}
		}
	}
	// An address that is missing cannot be told.
	if err := s.Update(packet.Tuple{}, verdict.ActionPermanentDrop, 0); err == nil {
		t.Error("got no error for an update of nothing; want one")
	}
	// The driver's key of ICMP is not ours.
	ping := packet.Tuple{Protocol: packet.ICMP, Local: netip.MustParseAddrPort("10.0.0.1:7"), Remote: netip.MustParseAddrPort("10.0.0.2:0")}
	if err := s.Update(ping, verdict.ActionPermanentDrop, 0); err != nil || len(told(d, 4)) != clears+1 {
		t.Errorf("got %v and %d clears; want %d", err, len(told(d, 4)), clears+1)
	}
}

func TestOldDriverDoesNotSplit(t *testing.T) {
	testutil.NoLeaks(t)
	d := kexttest.NewStream([4]byte{2, 0, 11, 5}, 0)
	noFaults(t, d)
	decided := make(chan error, 1)
	s, _ := start(t, d, kextv2.Config{Version: kextv2.Version{Major: 2, Revision: 11, Build: 5}},
		&handler{handle: func(p packet.Packet) { decided <- p.RerouteToSplitTun() }})
	var flows kexttest.Flows
	f := flows.New(d, outbound)
	_ = f.Send() // never fails
	if err := <-decided; !errors.Is(err, kextv2.ErrNoSplitTunnel) {
		t.Errorf("got %v; want ErrNoSplitTunnel", err)
	}
	if got := told(d, 1); len(got) != 1 || got[0][9] != 6 {
		t.Errorf("got % x; want one drop", got)
	}
	if err := s.Update(f.Tuple(), verdict.ActionRerouteToSplitTun, 0); !errors.Is(err, kextv2.ErrNoSplitTunnel) {
		t.Errorf("got %v; want ErrNoSplitTunnel", err)
	}
	if got := told(d, 2); len(got) != 1 || got[0][14] != 7 {
		t.Errorf("got % x; want one permanent drop", got)
	}
}

// 2.1.0 asks about what it has redirected to the proxy; 2.1.1 does not, and before 2.1 nothing is.
func TestProxiedConnections(t *testing.T) {
	local := netip.MustParseAddrPort("10.0.0.1:719")
	p := kexttest.UDP(local, netip.AddrPortFrom(local.Addr(), 50000), packet.Inbound)
	for _, tt := range []struct {
		version kextv2.Version
		asked   bool
	}{
		{kextv2.Version{Major: 2}, true}, {kextv2.Version{Major: 2, Minor: 1}, false}, {kextv2.Version{Major: 2, Minor: 1, Revision: 1}, true},
	} {
		d := kexttest.NewStream(current, 0)
		noFaults(t, d)
		start(t, d, kextv2.Config{Version: tt.version}, &handler{handle: decide(t, verdict.ActionBlock)})
		want := intercepttest.Passed
		if tt.asked {
			want = intercepttest.Refused
		}
		if got := d.Send(p).Fate(10 * time.Second); got != want {
			t.Errorf("%v: got %v; want %v", tt.version, got, want)
		}
	}
}

// Payloads of both layers; of a segment the IP header is made up.
func TestPayload(t *testing.T) {
	for _, kind := range intercepttest.AllKinds() {
		for _, layer := range []uint8{0, 3, 4, 9} {
			d := kexttest.NewStream(current, 11)
			noFaults(t, d)
			held := make(chan packet.Packet, 1)
			start(t, d, kextv2.Config{Version: version}, &handler{handle: func(p packet.Packet) { held <- p }})
			local, remote := netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6")
			if kind.Version == 6 {
				local, remote = netip.MustParseAddrPort("[fd00::1]:5"), netip.MustParseAddrPort("[fd00::2]:6")
			}
			sent := kexttest.UDP(local, remote, kind.Direction)
			sent.Layer = layer
			d.Send(sent)
			p := <-held
			got, err := p.Payload()
			again, _ := p.Payload()
			if layer != 3 && layer != 4 {
				if !errors.Is(err, packet.ErrNoPayload) {
					t.Errorf("%v, layer %d: got % x, %v; want ErrNoPayload", kind, layer, got, err)
				}
				continue
			}
			want := bytes.Clone(sent.Bytes)
			if kind.Version == 4 && layer == 4 {
				binary.BigEndian.PutUint16(want[10:], 0x66ce) // the checksum of that header, added up by hand: the sent one has none
			}
			if err != nil || !bytes.Equal(got, want) || !bytes.Equal(again, want) {
				t.Errorf("%v, layer %d:\n got % x, %v\nwant % x", kind, layer, got, err, want)
			}
			if i, w := p.Info(), sent.Info; i.Tuple != w.Tuple || i.Length != w.Length || i.HeaderLength != w.HeaderLength || i.Version != w.Version {
				t.Errorf("%v, layer %d: got %+v; want %+v", kind, layer, i, w)
			}
		}
	}
}

// The info of a packet has what its headers tell, if they are those of the connection.
func TestInfoFromPayload(t *testing.T) {
	syn := testutil.Hex(t, `4500 0028 0000 0000 3f06 0000 0a000001 0a000002 # TCP, hop limit 63
		0005 0006 00000000 00000000 5002 0000 0000 0000`)
	ping := testutil.Hex(t, `4500 001c 0000 0000 4001 0000 0a000001 0a000002
		0800 0000 1234 0001`)
	local, remote := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	conn := func(p packet.Protocol, lport, rport uint16, layer stream.Layer, payload []byte) stream.Connection {
		return stream.Connection{
			ID: 1, PID: 42, Layer: layer, Payload: payload,
			Tuple: packet.Tuple{Protocol: p, Local: netip.AddrPortFrom(local, lport), Remote: netip.AddrPortFrom(remote, rport)},
		}
	}
	for _, tt := range []struct {
		name string
		conn stream.Connection
		want packet.Info
	}{
		{"TCP SYN", conn(packet.TCP, 5, 6, 3, syn), packet.Info{TCPFlags: packet.TCPSyn, Length: 40, HeaderLength: 40, HopLimit: 63}},
		{"TCP SYN without IP header", conn(packet.TCP, 5, 6, 4, syn[20:]), packet.Info{TCPFlags: packet.TCPSyn, Length: 40, HeaderLength: 40}},
		{"of another connection", conn(packet.TCP, 5, 7, 3, syn), packet.Info{}},
		{"of another protocol", conn(packet.UDP, 5, 6, 3, syn), packet.Info{}},
		{"cut", conn(packet.TCP, 5, 6, 3, syn[:30]), packet.Info{}},
		{"nothing", conn(packet.TCP, 5, 6, 0, nil), packet.Info{}},
		{
			"ping", conn(packet.ICMP, 0, 0, 3, ping),
			packet.Info{ICMPType: 8, Length: 28, HeaderLength: 28, HopLimit: 64},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := kexttest.NewStream(current, 0)
			held := make(chan packet.Packet, 1)
			start(t, d, kextv2.Config{Version: version}, &handler{handle: func(p packet.Packet) { held <- p }})
			d.Inject(stream.AppendConnection(nil, stream.KindConnection4, &tt.conn))
			p := <-held
			got, want := *p.Info(), tt.want
			want.Tuple, want.Version, want.PID, want.Seen = tt.conn.Tuple, 4, 42, got.Seen
			if tt.name == "ping" {
				want.Tuple.Local = netip.AddrPortFrom(local, 0x1234) // the echo identifier
			}
			if got != want {
				t.Errorf("got %+v; want %+v", got, want)
			}
		})
	}
}

// A verdict on one echo says nothing about the next.
func TestPingsAreDecidedOneByOne(t *testing.T) {
	d := kexttest.NewStream(current, 0)
	noFaults(t, d)
	start(t, d, kextv2.Config{Version: version}, &handler{handle: decide(t, verdict.ActionPermanentAccept)})
	ping := kexttest.Packet{Layer: 3, Bytes: testutil.Hex(t, `4500 001c 0000 0000 4001 0000 0a000001 0a000002 0800 0000 1234 0001`)}
	if err := packet.Decode(ping.Bytes, packet.Outbound, &ping.Info); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		sent := d.Send(ping)
		if got := sent.Fate(10 * time.Second); got != intercepttest.Passed || !slices.Equal(sent.Numbers(), []int{2}) {
			t.Errorf("got %v by %v; want passed by [2]", got, sent.Numbers())
		}
	}
}

func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 13)
		noFaults(t, d)
		h := &handler{}
		start(t, d, kextv2.Config{Version: version}, h)
		t4 := packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("10.0.0.2:6")}
		t6 := packet.Tuple{Protocol: packet.TCP, Local: netip.MustParseAddrPort("[fd00::1]:5"), Remote: netip.MustParseAddrPort("[fd00::2]:6")}
		d.Used(stream.Usage{Tuple: t4, Transmitted: 7, Received: 11})
		// A report about connections over IPv6, by hand: transmitted comes before received.
		d.Inject(testutil.Hex(t, `06 39000000 06 01000000
			fd000000000000000000000000000001 0500 fd000000000000000000000000000002 0600
			0100000000000000 0200000000000000`))
		d.End(stream.End{Tuple: t6})
		d.End(stream.End{Tuple: t4})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if want := []intercept.Usage{{Tuple: t6, SentBytes: 1, ReceivedBytes: 2}, {Tuple: t4, SentBytes: 7, ReceivedBytes: 11}}; !slices.Equal(h.usage, want) {
			t.Errorf("got %v; want %v", h.usage, want)
		}
		if want := []packet.Tuple{t6, t4}; !slices.Equal(h.ends, want) {
			t.Errorf("got %v; want %v", h.ends, want)
		}
	})
}

// A report about many connections comes in parts, and is passed on in parts.
func TestLongReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		noFaults(t, d)
		h := &handler{}
		start(t, d, kextv2.Config{Version: version}, h)
		const many = 5000
		for n := range uint64(many) {
			d.Used(stream.Usage{
				Tuple: packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("10.0.0.2:6")}, Received: n,
			})
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.usage) != many || h.usage[many-1].ReceivedBytes != many-1 {
			t.Errorf("got %d connections; want %d", len(h.usage), many)
		}
	})
}

// Every second, every 30 seconds, and at both ends.
func TestHousekeeping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		noFaults(t, d)
		_, stop := start(t, d, kextv2.Config{Version: version}, &handler{})
		time.Sleep(60*time.Second + 500*time.Millisecond)
		synctest.Wait()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[byte]int{0: 1, 1: 0, 2: 0, 3: 0, 4: 1, 5: 60, 6: 60, 7: 0, 8: 2} {
			if got := len(told(d, id)); got != want {
				t.Errorf("command %d: got %d; want %d", id, got, want)
			}
		}
		all := d.Commands()
		if first, last := all[0].Data[0], all[len(all)-1].Data[0]; first != 4 || last != 0 || d.IsOpen() {
			t.Errorf("got command %d first, %d last, the device open: %v; want 4, 0, false", first, last, d.IsOpen())
		}
	})
}

func TestForgetInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		s, _ := start(t, d, kextv2.Config{Version: version}, &handler{})
		tu := packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("10.0.0.2:6")}
		forget := func(n int) {
			for range n {
				if err := s.Forget(tu); err != nil {
					t.Fatal(err)
				}
			}
		}
		clears := func() int { return len(told(d, 4)) - 1 } // without that of the start
		forget(16)
		if got := clears(); got != 16 {
			t.Errorf("got %d clears after 16 calls; want 16", got)
		}
		forget(1000)
		if got := clears(); got != 16 {
			t.Errorf("got %d clears after 1,016 calls; want 16", got)
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if got := clears(); got != 17 {
			t.Errorf("got %d clears a second later; want 17", got)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		forget(16)
		if got := clears(); got != 33 {
			t.Errorf("got %d clears after a quiet time; want 33", got)
		}
		if got := s.Stats().DelayedForgets; got != 1000 {
			t.Errorf("got %d delayed; want 1000", got)
		}
	})
}

// lines is a logger's output.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		var out lines
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 8}))
		s, _ := start(t, d, kextv2.Config{Version: version, Logger: log}, &handler{})
		for severity := range byte(8) {
			d.Inject([]byte{0, 2, 0, 0, 0, severity, 'a' + severity})
		}
		if err := s.PrintMemoryStats(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // once to get logs
		synctest.Wait()
		for _, want := range []string{
			"level=INFO msg=driver text=a", "level=DEBUG-4 msg=driver text=b", "level=DEBUG msg=driver text=c",
			"level=INFO msg=driver text=d", "level=WARN msg=driver text=e", "level=ERROR msg=driver text=f",
			"level=ERROR+4 msg=driver text=g", "level=INFO msg=driver text=h", "text=mem", "text=log",
		} {
			if !strings.Contains(out.String(), want+"\n") {
				t.Errorf("got no line %q in\n%s", want, out.String())
			}
		}
	})
}

// What makes no sense is skipped, and counted; what follows counts.
func TestBadInfos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 3)
		noFaults(t, d)
		var out lines
		s, _ := start(t, d, kextv2.Config{Version: version, Logger: slog.New(slog.NewTextHandler(&out, nil))},
			&handler{handle: decide(t, verdict.ActionAccept)})
		const bad = 100
		for range bad {
			d.Inject([]byte{3, 2, 0, 0, 0, 1, 2, 77, 1, 0, 0, 0, 9})
		}
		var flows kexttest.Flows
		f := flows.New(d, outbound)
		_ = f.Send() // never fails
		if got := f.Fate(10 * time.Second); got != intercepttest.Passed {
			t.Errorf("got %v; want passed", got)
		}
		if st := s.Stats(); st.BadMessages != bad {
			t.Errorf("got %d bad messages; want %d", st.BadMessages, bad)
		}
		if got := strings.Count(out.String(), "skipped a message"); got != 7 { // 1, 2, 4, ... 64
			t.Errorf("got %d lines of it; want 7", got)
		}
	})
}

// A device that breaks ends Run with its error; then the source can run again.
func TestBrokenDevice(t *testing.T) {
	gone := errors.New("device gone")
	d := kexttest.NewStream(current, 0)
	for range 2 {
		testutil.NoLeaks(t)
		held := make(chan packet.Packet, 1)
		_, stop := runUntilBroken(t, d, &handler{handle: func(p packet.Packet) { held <- p }})
		var flows kexttest.Flows
		f := flows.New(d, outbound)
		_ = f.Send() // never fails
		p := <-held
		d.Break(gone)
		if err := stop(); !errors.Is(err, gone) || !strings.Contains(err.Error(), "read from the driver") {
			t.Errorf("got %v; want %v, in a read", err, gone)
		}
		if err := p.Accept(); !errors.Is(err, packet.ErrAlreadyDecided) {
			t.Errorf("got %v; want ErrAlreadyDecided", err)
		}
		if d.IsOpen() {
			t.Error("the device is still open")
		}
		d.Break(nil)
	}
	// A device that cannot be opened, or is broken from the start.
	d.Break(gone)
	s, err := kextv2.New(kextv2.Config{Open: openDriver(d)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), &handler{}, func() { t.Error("ready") }); !errors.Is(err, gone) || d.IsOpen() {
		t.Errorf("got %v, open %v; want %v, false", err, d.IsOpen(), gone)
	}
	d.Break(nil)
	dev, err := d.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := s.Run(t.Context(), &handler{}, nil); !errors.Is(err, kexttest.ErrBusy) {
		t.Errorf("got %v; want ErrBusy", err)
	}
}

// runUntilBroken is start for a Run that ends by itself: wait returns its error.
func runUntilBroken(t *testing.T, d *kexttest.Stream, h intercept.Handler) (s *kextv2.Source, wait func() error) {
	t.Helper()
	s, err := kextv2.New(kextv2.Config{Open: openDriver(d), Version: version})
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(context.Background(), h, func() { close(ready) }) }()
	<-ready
	return s, func() error {
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("Run did not end")
			return nil
		}
	}
}

// failing is a device whose writes of one command fail, or whose reads bring nothing.
type failing struct {
	kextv2.Device
	command byte
	err     error
	empty   bool
}

func (f *failing) Write(b []byte) (int, error) {
	if f.err != nil && b[0] == f.command {
		return 0, f.err
	}
	return f.Device.Write(b)
}

func (f *failing) Read(b []byte) (int, error) {
	if f.empty {
		return 0, nil
	}
	return f.Device.Read(b)
}

func runFailing(t *testing.T, d *kexttest.Stream, f *failing, h intercept.Handler) (s *kextv2.Source, ended chan error) {
	t.Helper()
	s, err := kextv2.New(kextv2.Config{Version: version, Open: func() (kextv2.Device, error) {
		dev, err := d.Open()
		f.Device = dev
		return f, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- s.Run(context.Background(), h, nil) }()
	return s, ended
}

// One verdict that the driver does not take is its handler's to know; eight in a row end Run.
func TestFailedVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		d := kexttest.NewStream(current, 0)
		var mu sync.Mutex
		var errs []error
		_, ended := runFailing(t, d, &failing{command: 1, err: refused}, &handler{handle: func(p packet.Packet) {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, p.Accept())
		}})
		synctest.Wait()
		var flows kexttest.Flows
		for range 7 {
			_ = flows.New(d, outbound).Send() // never fails
		}
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("got %v after 7 failed verdicts; want a running source", err)
		default:
		}
		_ = flows.New(d, outbound).Send() // never fails
		if err := <-ended; !errors.Is(err, refused) {
			t.Errorf("got %v; want %v", err, refused)
		}
		for _, err := range errs {
			if !errors.Is(err, refused) {
				t.Errorf("got %v; want %v", err, refused)
			}
		}
	})
}

func TestFailedHousekeeping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		_, ended := runFailing(t, kexttest.NewStream(current, 0), &failing{command: 6, err: refused}, &handler{})
		if err := <-ended; !errors.Is(err, refused) {
			t.Errorf("got %v; want %v", err, refused)
		}
	})
}

// Reads that bring nothing do not make us spin, and end Run if they go on.
func TestEmptyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s, ended := runFailing(t, kexttest.NewStream(current, 0), &failing{empty: true}, &handler{})
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "sends nothing") {
			t.Errorf("got %v; want an error", err)
		}
		if took, n := time.Since(began), s.Stats().EmptyReads; took < 500*time.Millisecond || n != 100 {
			t.Errorf("got %d empty reads in %v; want 100 in a second or so", n, took)
		}
	})
}

// stuck is a device whose writes hang until it is closed.
type stuck struct {
	kextv2.Device
	hang   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (s *stuck) Write(b []byte) (int, error) {
	select {
	case <-s.hang:
		<-s.closed
		return 0, errors.New("closed")
	default:
		return s.Device.Write(b)
	}
}

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Device.Close()
}

// A driver that does not answer any more cannot keep Run from returning.
func TestStuckDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		dev := &stuck{hang: make(chan struct{}), closed: make(chan struct{})}
		s, err := kextv2.New(kextv2.Config{Version: version, Open: func() (kextv2.Device, error) {
			var err error
			dev.Device, err = d.Open()
			return dev, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx, &handler{}, nil) }()
		synctest.Wait()
		close(dev.hang)
		time.Sleep(3 * time.Second)
		began := time.Now()
		cancel()
		if err := <-ended; err == nil {
			t.Error("got nil; want the error of the shutdown request")
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("got an end after %v; want one within 6 s", took)
		}
	})
}

// Not even one that never answered.
func TestStuckFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		dev := &stuck{hang: make(chan struct{}), closed: make(chan struct{})}
		close(dev.hang)
		s, err := kextv2.New(kextv2.Config{Version: version, Open: func() (kextv2.Device, error) {
			var err error
			dev.Device, err = d.Open()
			return dev, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Run(ctx, &handler{}, func() { t.Error("ready") }); err != nil || d.IsOpen() {
			t.Errorf("got %v, open %v; want nil, false", err, d.IsOpen())
		}
	})
}

func TestOverflow(t *testing.T) {
	testutil.NoLeaks(t)
	d := kexttest.NewStream(current, 0)
	noFaults(t, d)
	s, stop := start(t, d, kextv2.Config{Version: version, MaxPending: 2, Default: verdict.ActionBlock}, &handler{})
	var flows kexttest.Flows
	var all []*kexttest.Flow
	for range 5 {
		f := flows.New(d, outbound)
		_ = f.Send() // never fails
		all = append(all, f)
	}
	for _, f := range all[2:] {
		if got := f.Fate(10 * time.Second); got != intercepttest.Refused {
			t.Errorf("got %v; want refused", got)
		}
	}
	if st := s.Stats(); st.Overflows != 3 || st.Waiting != 2 || st.Handed != 2 || st.Packets != 5 {
		t.Errorf("got %+v; want 3 overflows, 2 waiting", st)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Shutdown != 2 || st.Verdicts != 5 || st.Waiting != 0 {
		t.Errorf("got %+v; want 2 by the end, 5 verdicts", st)
	}
}

func TestNotRunning(t *testing.T) {
	d := kexttest.NewStream(current, 0)
	s, err := kextv2.New(kextv2.Config{Open: openDriver(d)})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Update": s.Update(packet.Tuple{}, 0, 0), "Forget": s.Forget(packet.Tuple{}), "ForgetAll": s.ForgetAll(),
		"PrintMemoryStats": s.PrintMemoryStats(),
	} {
		if !errors.Is(err, kextv2.ErrClosed) {
			t.Errorf("%s: got %v; want ErrClosed", name, err)
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(done, &handler{}, func() { t.Error("ready") }); err != nil {
		t.Errorf("got %v; want nil with a context that is done", err)
	}
	running, _ := start(t, d, kextv2.Config{}, &handler{})
	if err := running.Run(t.Context(), &handler{}, nil); !errors.Is(err, kextv2.ErrRunning) {
		t.Errorf("got %v; want ErrRunning", err)
	}
}

func TestBadConfig(t *testing.T) {
	open := openDriver(kexttest.NewStream(current, 0))
	for name, cfg := range map[string]kextv2.Config{
		"no Open": {}, "timeout": {Open: open, Timeout: -1}, "pending": {Open: open, MaxPending: -1},
		"permanent default": {Open: open, Default: verdict.ActionPermanentAccept}, "no default": {Open: open, Default: 10},
	} {
		if s, err := kextv2.New(cfg); !errors.Is(err, kextv2.ErrBadConfig) || s != nil {
			t.Errorf("%s: got %v; want ErrBadConfig", name, err)
		}
	}
}

// memory is a device that gives the same bytes again and again, without a driver.
type memory struct {
	in     []byte
	closed chan struct{}
	burst  chan struct{}
}

func (m *memory) Read(b []byte) (int, error) {
	select {
	case <-m.burst:
		return copy(b, m.in), nil
	case <-m.closed:
		return 0, errors.New("closed")
	}
}

func (m *memory) Write(b []byte) (int, error) { return len(b), nil }

func (m *memory) Close() error {
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	return nil
}

// What Lookup decides costs no allocation, payload or not.
func TestLookupAllocatesNothing(t *testing.T) {
	var flows kexttest.Flows
	in := []byte{}
	for _, kind := range intercepttest.AllKinds() {
		p := kexttest.UDP(netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6"), kind.Direction)
		c := stream.Connection{ID: 1, Tuple: p.Info.Tuple, Direction: kind.Direction}
		in = stream.AppendConnection(in, stream.KindConnection4, &c)
		c.Layer, c.Payload = 3, p.Bytes
		in = stream.AppendConnection(in, stream.KindConnection4, &c)
		c.Layer, c.Payload = 4, p.Bytes[20:]
		in = stream.AppendConnection(in, stream.KindConnection4, &c)
		c.Tuple, c.Layer = flows.New(nil, intercepttest.FlowKind{Version: 6}).Tuple(), 0
		in = stream.AppendConnection(in, stream.KindConnection6, &c)
	}
	dev := &memory{in: in, closed: make(chan struct{}), burst: make(chan struct{})}
	s, err := kextv2.New(kextv2.Config{Version: version, Open: func() (kextv2.Device, error) { return dev, nil }})
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{}, 64)
	h := &handler{lookup: func(*packet.Info) (verdict.Action, uint8, bool) {
		looked <- struct{}{}
		return verdict.ActionAccept, 0, true
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, h, nil) }()
	n := testing.AllocsPerRun(200, func() {
		dev.burst <- struct{}{}
		for range 16 {
			<-looked
		}
	})
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n != 0 {
		t.Errorf("got %v allocations for 16 packets; want 0", n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	d := kexttest.NewStream(current, 0)
	s, err := kextv2.New(kextv2.Config{Version: version, Open: openDriver(d)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	h := &handler{lookup: func(*packet.Info) (verdict.Action, uint8, bool) { return verdict.ActionAccept, 0, true }}
	go func() { ended <- s.Run(ctx, h, func() { close(ready) }) }()
	<-ready
	p := kexttest.UDP(netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6"), packet.Outbound)
	for b.Loop() {
		const burst = 64
		var last [burst]*kexttest.Sent
		for i := range last {
			last[i] = d.Send(p)
		}
		for _, sent := range last {
			<-sent.Done()
		}
	}
	b.ReportMetric(float64(s.Stats().Verdicts)/b.Elapsed().Seconds(), "verdicts/s")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
