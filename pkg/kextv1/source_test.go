package kextv1_test

import (
	"bytes"
	"context"
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
	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	codeSetVerdict = 0x9c40e00c
	codeGetPayload = 0x9c40e010
	codeClearCache = 0x9c40e014
	codeUpdate     = 0x9c40e018
	codeGetStats   = 0x9c40e01c
	codeShutdown   = 0x9c40e004
	longEnough     = 10 * time.Second
)

func newDriver(t *testing.T) *kexttest.Ioctl {
	d := kexttest.NewIoctl([4]byte{1, 0, 0, 1})
	t.Cleanup(func() {
		if f := d.Faults(); len(f) > 0 {
			t.Errorf("got %d faults, the first: %s; want none", len(f), f[0])
		}
	})
	return d
}

func openDriver(d *kexttest.Ioctl) func() (kextv1.Device, error) {
	return func() (kextv1.Device, error) {
		dev, err := d.Open()
		if err != nil {
			return nil, err
		}
		return dev, nil
	}
}

func TestConformance(t *testing.T) {
	var driver *kexttest.Ioctl
	var flows kexttest.Flows
	intercepttest.Conformance(t, intercepttest.Harness{
		New: func(t *testing.T, timeout time.Duration) intercept.Source {
			driver = newDriver(t)
			s, err := kextv1.New(kextv1.Config{Open: openDriver(driver), Timeout: timeout})
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
		DropTime: longEnough, // this driver tells of what is lost
	})
}

// handler is a Handler that hands packets to the test, and an intercept.Traffic.
type handler struct {
	lookup func(*packet.Info) (verdict.Action, uint8, bool)
	handle func(packet.Packet)

	mu    sync.Mutex // guards what follows
	usage []intercept.Usage
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

func (h *handler) ReportEnd(intercept.End) { panic("this driver tells no ends") }

// start runs a source over the driver until the test ends. It may be used in a bubble.
func start(t *testing.T, d *kexttest.Ioctl, cfg kextv1.Config, h intercept.Handler) (s *kextv1.Source, stop func() error) {
	t.Helper()
	if cfg.Open == nil {
		cfg.Open = openDriver(d)
	}
	s, err := kextv1.New(cfg)
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

// told are the inputs of the calls of a function.
func told(d *kexttest.Ioctl, code uint32) (all [][]byte) {
	for _, c := range d.Commands() {
		if c.Code == code {
			all = append(all, c.Data)
		}
	}
	return all
}

// udp is a packet of 29 bytes.
func udp(dir packet.Direction) kexttest.Packet {
	return kexttest.UDP(netip.MustParseAddrPort("1.2.3.4:5"), netip.MustParseAddrPort("10.0.0.2:6"), dir)
}

// verdicts are the bytes that each action has to become, by the protocol's table: a signed number, negative for this packet.
var verdicts = map[verdict.Action]struct{ number, update byte }{
	verdict.ActionAccept:               {number: 0xfe},
	verdict.ActionPermanentAccept:      {number: 0x02, update: 0x02},
	verdict.ActionPermanentAcceptFinal: {number: 0x02, update: 0x02},
	verdict.ActionBlock:                {number: 0xfd},
	verdict.ActionPermanentBlock:       {number: 0x03, update: 0x03},
	verdict.ActionDrop:                 {number: 0xfc},
	verdict.ActionPermanentDrop:        {number: 0x04, update: 0x04},
	verdict.ActionRerouteToNameserver:  {number: 0x05, update: 0x05},
	verdict.ActionRerouteToTunnel:      {number: 0x06, update: 0x06},
	verdict.ActionRerouteToSplitTun:    {number: 0x08, update: 0x08},
}

func TestVerdictBytes(t *testing.T) {
	if len(verdicts) != verdict.NumActions {
		t.Fatalf("the table has %d actions; want all %d", len(verdicts), verdict.NumActions)
	}
	for action, want := range verdicts {
		t.Run(action.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			d := newDriver(t)
			start(t, d, kextv1.Config{}, &handler{handle: func(p packet.Packet) {
				if err := packet.Apply(p, action, 0); err != nil {
					t.Error(err)
				}
			}})
			d.Send(udp(packet.Outbound)).Fate(longEnough)
			bytes := []byte{1, 0, 0, 0, want.number, 0, 0, 0}
			if got := told(d, codeSetVerdict); len(got) != 1 || !slices.Equal(got[0], bytes) {
				t.Errorf("got % x; want one % x", got, bytes)
			}
		})
	}
}

// Updates for both versions of IP, byte for byte: each word of an address is swapped.
func TestUpdateBytes(t *testing.T) {
	testutil.NoLeaks(t)
	d := newDriver(t)
	s, _ := start(t, d, kextv1.Config{}, &handler{})
	for _, tt := range []struct {
		tuple        packet.Tuple
		before, flag []byte
	}{
		{
			packet.Tuple{Protocol: packet.TCP, Local: netip.MustParseAddrPort("1.2.3.4:50000"), Remote: netip.MustParseAddrPort("93.184.216.34:443")},
			testutil.Hex(t, `04030201 00000000 00000000 00000000 22d8b85d 00000000 00000000 00000000 50c3 bb01`), []byte{0, 6},
		},
		{
			packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("[2001:db8::1]:443"), Remote: netip.MustParseAddrPort("[fe80::1234:5678:9abc:def0]:1")},
			testutil.Hex(t, `b80d0120 00000000 00000000 01000000 000080fe 00000000 78563412 f0debc9a bb01 0100`), []byte{1, 17},
		},
	} {
		for action, want := range verdicts {
			clears, updates := len(told(d, codeClearCache)), len(told(d, codeUpdate))
			if err := s.Update(tt.tuple, action, 0); err != nil {
				t.Errorf("%v: %v", action, err)
			}
			all := told(d, codeUpdate)
			if want.update == 0 {
				if len(told(d, codeClearCache)) != clears+1 || len(all) != updates {
					t.Errorf("%v: got no clear of the cache alone", action)
				}
				continue
			}
			bytes := slices.Concat(tt.before, tt.flag, []byte{want.update, 0})
			if got := all[len(all)-1]; len(all) != updates+1 || !slices.Equal(got, bytes) {
				t.Errorf("%v:\n got % x\nwant % x", action, got, bytes)
			}
		}
	}
	if err := s.Update(packet.Tuple{}, verdict.ActionPermanentDrop, 0); err == nil {
		t.Error("got no error for an update of nothing; want one")
	}
}

// A packet that expects the info about its socket comes before it; the info takes no verdict, and neither does a packet whose
// process the driver knows.
func TestInfoOrder(t *testing.T) {
	testutil.NoLeaks(t)
	d := newDriver(t)
	got := make(chan packet.Packet, 8)
	s, _ := start(t, d, kextv1.Config{}, &handler{handle: func(p packet.Packet) { got <- p }})
	const rounds = 50
	for range rounds {
		first, info := udp(packet.Outbound), udp(packet.Outbound)
		first.Flags = kexttest.ExpectsSocketAuth
		first.Info.Interface = 12
		info.Flags, info.PID = kexttest.SocketAuth, 4711
		sent := d.Send(first)
		d.Send(info)
		p, i := <-got, <-got
		if !p.ExpectsInfo() || p.InfoOnly() || p.Info().PID != 0 || p.Info().Interface != 12 {
			t.Fatalf("got expects %v, info-only %v, %+v; want a packet that expects its info", p.ExpectsInfo(), p.InfoOnly(), p.Info())
		}
		if !i.InfoOnly() || i.ExpectsInfo() || i.Info().PID != 4711 || i.Info().Tuple != p.Info().Tuple {
			t.Fatalf("got expects %v, info-only %v, %+v; want the info of %v", i.ExpectsInfo(), i.InfoOnly(), i.Info(), p.Info().Tuple)
		}
		for a := range verdict.Action(verdict.NumActions) {
			if err := packet.Apply(i, a, 0); !errors.Is(err, packet.ErrInfoOnlyPacket) {
				t.Errorf("%v: got %v; want ErrInfoOnlyPacket", a, err)
			}
		}
		if _, err := i.Payload(); !errors.Is(err, packet.ErrNoPayload) {
			t.Errorf("got %v; want ErrNoPayload", err)
		}
		if err := p.Accept(); err != nil || sent.Fate(longEnough) != intercepttest.Passed {
			t.Errorf("got %v, %v; want a passed packet", err, sent.Fate(0))
		}
	}
	if st := s.Stats(); st.Infos != rounds || st.Packets != rounds || st.Verdicts != rounds {
		t.Errorf("got %+v; want %d infos, packets and verdicts", st, rounds)
	}
	if n := len(told(d, codeSetVerdict)); n != rounds {
		t.Errorf("got %d verdicts; want %d", n, rounds)
	}
}

// With a process no verdict is told, without an id none can be.
func TestRequestsWithoutVerdict(t *testing.T) {
	testutil.NoLeaks(t)
	d := newDriver(t)
	got := make(chan packet.Packet, 1)
	s, stop := start(t, d, kextv1.Config{}, &handler{handle: func(p packet.Packet) { got <- p }})
	p := udp(packet.Outbound)
	p.PID = 4711
	d.Send(p)
	known := <-got
	if known.InfoOnly() || known.Info().PID != 4711 {
		t.Errorf("got info-only %v, %+v", known.InfoOnly(), known.Info())
	}
	if err := known.PermanentBlock(); err != nil {
		t.Errorf("got %v; want nil", err)
	}
	if err := known.Accept(); !errors.Is(err, packet.ErrAlreadyDecided) {
		t.Errorf("got %v; want ErrAlreadyDecided", err)
	}
	for range 20 { // more than would end Run
		p = udp(packet.Outbound)
		p.ID0 = true
		d.Send(p)
		if err := (<-got).Accept(); !errors.Is(err, kextv1.ErrNoPacketID) {
			t.Errorf("got %v; want ErrNoPacketID", err)
		}
	}
	d.Send(p)
	left := <-got
	if _, err := left.Payload(); !errors.Is(err, packet.ErrNoPayload) {
		t.Errorf("got %v; want ErrNoPayload", err)
	}
	if err := stop(); err != nil {
		t.Errorf("got %v; want nil", err)
	}
	if got := told(d, codeSetVerdict); len(got) != 0 {
		t.Errorf("got % x; want no verdict", got)
	}
	if st := s.Stats(); st.Verdicts != 0 {
		t.Errorf("got %+v; want no verdicts", st)
	}
}

func TestFlags(t *testing.T) {
	d := newDriver(t)
	got := make(chan packet.Packet, 1)
	start(t, d, kextv1.Config{}, &handler{handle: func(p packet.Packet) { got <- p }})
	p := udp(packet.Inbound)
	p.Flags = kexttest.FastTracked
	sent := d.Send(p)
	held := <-got
	if !held.FastTrackedByDriver() || held.InfoOnly() || held.ExpectsInfo() || held.Info().Direction != packet.Inbound {
		t.Errorf("got %v, %v, %v, %v; want a fast-tracked inbound packet",
			held.FastTrackedByDriver(), held.InfoOnly(), held.ExpectsInfo(), held.Info().Direction)
	}
	if err := held.PermanentAccept(); err != nil || sent.Fate(longEnough) != intercepttest.Passed {
		t.Errorf("got %v, %v; want a passed packet", err, sent.Fate(0))
	}
}

// The payload stays in the driver until it is asked for, and is gone after the verdict.
func TestPayload(t *testing.T) {
	testutil.NoLeaks(t)
	d := newDriver(t)
	got := make(chan packet.Packet, 1)
	start(t, d, kextv1.Config{}, &handler{handle: func(p packet.Packet) { got <- p }})
	sent := udp(packet.Outbound)
	d.Send(sent)
	p := <-got
	if n := len(told(d, codeGetPayload)); n != 0 {
		t.Errorf("got %d questions for the payload before it was wanted; want 0", n)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if b, err := p.Payload(); err != nil || !bytes.Equal(b, sent.Bytes) {
				t.Errorf("got % x, %v; want % x", b, err, sent.Bytes)
			}
		})
	}
	all.Wait()
	if got, want := told(d, codeGetPayload), []byte{1, 0, 0, 0, 29, 0, 0, 0}; len(got) != 1 || !slices.Equal(got[0], want) {
		t.Errorf("got % x; want one % x", got, want)
	}
	if err := p.Accept(); err != nil {
		t.Error(err)
	}
	if b, err := p.Payload(); err != nil || !bytes.Equal(b, sent.Bytes) {
		t.Errorf("after the verdict got % x, %v; want what was fetched before", b, err)
	}
	d.Send(sent)
	p = <-got
	if err := p.Accept(); err != nil {
		t.Error(err)
	}
	if b, err := p.Payload(); !errors.Is(err, packet.ErrNoPayload) || b != nil {
		t.Errorf("got % x, %v; want ErrNoPayload: the packet left", b, err)
	}
	sent.Bytes = nil // an empty packet
	d.Send(sent)
	p = <-got
	if b, err := p.Payload(); !errors.Is(err, packet.ErrNoPayload) || b != nil {
		t.Errorf("got % x, %v; want ErrNoPayload", b, err)
	}
}

// lying is a device that answers one function in its own way.
type lying struct {
	kextv1.Device
	code   uint32
	answer func(out []byte) (int, error)
}

func (l *lying) Control(code uint32, in, out []byte) (int, error) {
	if code == l.code {
		return l.answer(out)
	}
	return l.Device.Control(code, in, out)
}

func openLying(d *kexttest.Ioctl, code uint32, answer func(out []byte) (int, error)) func() (kextv1.Device, error) {
	return func() (kextv1.Device, error) {
		dev, err := d.Open()
		return &lying{dev, code, answer}, err
	}
}

// A payload that the driver cannot give, or says is longer than any packet, is an error and takes no memory.
func TestBadPayload(t *testing.T) {
	gone := errors.New("device gone")
	for name, answer := range map[string]func([]byte) (int, error){
		"nothing": func([]byte) (int, error) { return 0, nil },
		"error":   func([]byte) (int, error) { return 0, gone },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t)
			got := make(chan packet.Packet, 1)
			start(t, d, kextv1.Config{Open: openLying(d, codeGetPayload, answer)}, &handler{handle: func(p packet.Packet) { got <- p }})
			d.Send(udp(packet.Outbound))
			_, err := (<-got).Payload()
			if !errors.Is(err, packet.ErrNoPayload) || name == "error" && !errors.Is(err, gone) {
				t.Errorf("got %v; want ErrNoPayload", err)
			}
		})
	}
	d := kexttest.NewIoctl([4]byte{1}) // the default verdict on packet 7, which it does not have, is a fault
	got := make(chan packet.Packet, 1)
	start(t, d, kextv1.Config{}, &handler{handle: func(p packet.Packet) { got <- p }})
	d.Inject(ioctl.AppendRequest(nil, &ioctl.Request{ID: 7, Version: 4, Tuple: udp(0).Info.Tuple, PacketSize: 0xffffffff}))
	if b, err := (<-got).Payload(); !errors.Is(err, packet.ErrNoPayload) || b != nil {
		t.Errorf("got %d bytes, %v; want ErrNoPayload", len(b), err)
	}
	if n := len(told(d, codeGetPayload)); n != 0 {
		t.Errorf("got %d questions for 4 GiB; want 0", n)
	}
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		h := &handler{}
		s, stop := start(t, d, kextv1.Config{}, h)
		t4 := packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("10.0.0.2:6")}
		t6 := packet.Tuple{Protocol: packet.TCP, Local: netip.MustParseAddrPort("[fd00::1]:5"), Remote: netip.MustParseAddrPort("[fd00:2::2]:6")}
		d.Used(ioctl.Stat{Tuple: t4, Version: 4, Received: 1, Transmitted: 2}, ioctl.Stat{Tuple: t6, Version: 6, Received: 3, Transmitted: 4})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		h.mu.Lock()
		if want := []intercept.Usage{{Tuple: t4, ReceivedBytes: 1, SentBytes: 2}, {Tuple: t6, ReceivedBytes: 3, SentBytes: 4}}; !slices.Equal(h.usage, want) {
			t.Errorf("got %v; want %v", h.usage, want)
		}
		h.usage = nil
		h.mu.Unlock()
		// More than one answer has room for.
		for n := range uint64(2500) {
			d.Used(ioctl.Stat{Tuple: t4, Version: 4, Received: n})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		h.mu.Lock()
		if len(h.usage) != 2500 || h.usage[2499].ReceivedBytes != 2499 {
			t.Errorf("got %d connections; want 2500", len(h.usage))
		}
		h.mu.Unlock()
		if got := told(d, codeGetStats); len(got) != 1+3 || !slices.Equal(got[0], []byte{0, 4, 0, 0, 0, 0, 0, 0}) {
			t.Errorf("got % x; want four questions for 1024", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := s.Stats(); got.Waiting != 0 {
			t.Errorf("got %+v", got)
		}
		all := d.Commands()
		if first, last := all[0].Code, all[len(all)-1].Code; first != codeClearCache || last != codeShutdown || d.IsOpen() {
			t.Errorf("got %#x first, %#x last, open %v", first, last, d.IsOpen())
		}
	})
}

// A driver without statistics, or with bad ones, goes on.
func TestFailedStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		var out bytes.Buffer
		d.FailStats(errors.New("not implemented"))
		_, stop := start(t, d, kextv1.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))}, &handler{})
		time.Sleep(10*time.Second + 500*time.Millisecond)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := strings.Count(out.String(), "not implemented"); got != 4 { // 1, 2, 4, 8
			t.Errorf("got %d lines of it; want 4:\n%s", got, out.String())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		var out bytes.Buffer
		_, stop := start(t, d, kextv1.Config{
			Logger: slog.New(slog.NewTextHandler(&out, nil)),
			Open:   openLying(d, codeGetStats, func([]byte) (int, error) { return 63, nil }),
		}, &handler{})
		time.Sleep(1500 * time.Millisecond)
		if err := stop(); err != nil || !strings.Contains(out.String(), "63 bytes") {
			t.Errorf("got %v and %q; want nil and a line", err, out.String())
		}
	})
}

// A request of another size is skipped; the next one counts.
func TestBadRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		s, _ := start(t, d, kextv1.Config{}, &handler{handle: func(p packet.Packet) { _ = p.Accept() }}) // the fate is looked at
		d.Inject([]byte{1, 2, 3})
		synctest.Wait()
		if got := d.Send(udp(packet.Outbound)).Fate(longEnough); got != intercepttest.Passed {
			t.Errorf("got %v; want passed", got)
		}
		if st := s.Stats(); st.BadMessages != 1 {
			t.Errorf("got %+v; want one bad message", st)
		}
	})
}

// No request for a while is no error; answers that come at once do not make us spin.
func TestNothingToReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		s, stop := start(t, d, kextv1.Config{}, &handler{})
		time.Sleep(10 * time.Second)
		if n := s.Stats().EmptyReads; n < 150 || n > 250 {
			t.Errorf("got %d empty reads; want 200 of 50 ms", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		s, stop = start(t, d, kextv1.Config{Open: openLying(d, 0x9c40e008, func([]byte) (int, error) { return 0, nil })}, &handler{})
		time.Sleep(10 * time.Second)
		if n := s.Stats().EmptyReads; n < 900 || n > 1100 {
			t.Errorf("got %d empty reads; want 1,000, with a pause after each", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestBrokenDevice(t *testing.T) {
	testutil.NoLeaks(t)
	gone := errors.New("device gone")
	d := newDriver(t)
	s, err := kextv1.New(kextv1.Config{Open: openDriver(d)})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- s.Run(context.Background(), &handler{}, func() { close(ready) }) }()
		<-ready
		d.Break(gone)
		select {
		case err := <-ended:
			if !errors.Is(err, gone) || !strings.Contains(err.Error(), "receive a verdict request") || d.IsOpen() {
				t.Errorf("got %v, open %v; want %v", err, d.IsOpen(), gone)
			}
		case <-time.After(longEnough):
			t.Fatal("Run did not end")
		}
		d.Break(nil)
	}
}

// What a driver that knows the split tunnel asks about its own redirects to the proxy.
func TestProxiedConnections(t *testing.T) {
	local := netip.MustParseAddrPort("10.0.0.1:719")
	for knows, want := range map[bool]intercepttest.Fate{false: intercepttest.Refused, true: intercepttest.Passed} {
		d := newDriver(t)
		start(t, d, kextv1.Config{KnowsSplitTunnel: knows}, &handler{handle: func(p packet.Packet) { _ = p.Block() }}) // the fate is looked at
		p := kexttest.UDP(local, netip.AddrPortFrom(local.Addr(), 50000), packet.Inbound)
		if got := d.Send(p).Fate(longEnough); got != want {
			t.Errorf("knows %v: got %v; want %v", knows, got, want)
		}
	}
}

func TestHeaderLength(t *testing.T) {
	v4, v6 := udp(packet.Outbound).Info.Tuple, packet.Tuple{Local: netip.MustParseAddrPort("[fd00::1]:5"), Remote: netip.MustParseAddrPort("[fd00::2]:6")}
	d := newDriver(t)
	got := make(chan packet.Info, 1)
	start(t, d, kextv1.Config{}, &handler{lookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
		got <- *i
		return 0, 0, false
	}})
	for _, tt := range []struct {
		tuple    packet.Tuple
		protocol packet.Protocol
		size     uint32
		want     int
	}{
		{v4, packet.TCP, 60, 40}, {v6, packet.TCP, 60, 60}, {v4, packet.UDP, 60, 28}, {v6, packet.ICMPv6, 60, 48},
		{v4, packet.SCTP, 60, 32}, {v4, packet.IGMP, 60, 20}, {v4, packet.TCP, 10, 10},
	} {
		version := uint8(6)
		if tt.tuple.Is4() {
			version = 4
		}
		tt.tuple.Protocol = tt.protocol
		d.Inject(ioctl.AppendRequest(nil, &ioctl.Request{Version: version, Tuple: tt.tuple, PacketSize: tt.size}))
		if i := <-got; i.HeaderLength != tt.want || i.Length != int(tt.size) || i.Version != version || i.Tuple != tt.tuple {
			t.Errorf("%v: got %+v; want %d bytes of headers", tt.tuple, i, tt.want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	open := openDriver(kexttest.NewIoctl([4]byte{1}))
	for name, cfg := range map[string]kextv1.Config{
		"no Open": {}, "timeout": {Open: open, Timeout: -1}, "pending": {Open: open, MaxPending: -1},
		"permanent default": {Open: open, Default: verdict.ActionPermanentAccept},
	} {
		if s, err := kextv1.New(cfg); !errors.Is(err, kextv1.ErrBadConfig) || s != nil {
			t.Errorf("%s: got %v; want ErrBadConfig", name, err)
		}
	}
	s, err := kextv1.New(kextv1.Config{Open: open})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Update": s.Update(packet.Tuple{}, 0, 0), "Forget": s.Forget(packet.Tuple{}), "ForgetAll": s.ForgetAll(),
	} {
		if !errors.Is(err, kextv1.ErrClosed) {
			t.Errorf("%s: got %v; want ErrClosed", name, err)
		}
	}
}

// A verdict in the reader costs no allocation.
func TestLookupAllocatesNothing(t *testing.T) {
	request := ioctl.AppendRequest(nil, &ioctl.Request{ID: 1, Version: 4, Tuple: udp(0).Info.Tuple, PacketSize: 60})
	next, closed := make(chan struct{}), make(chan struct{})
	dev := &memory{request: request, next: next, closed: closed}
	s, err := kextv1.New(kextv1.Config{Open: func() (kextv1.Device, error) { return dev, nil }})
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{}, 1)
	h := &handler{lookup: func(*packet.Info) (verdict.Action, uint8, bool) {
		looked <- struct{}{}
		return verdict.ActionAccept, 0, true
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, h, nil) }()
	n := testing.AllocsPerRun(200, func() {
		next <- struct{}{}
		<-looked
	})
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

// memory is a device that gives the same request again and again, without a driver.
type memory struct {
	request []byte
	next    chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func (m *memory) Control(code uint32, _, out []byte) (int, error) {
	if code != 0x9c40e008 {
		return 0, nil
	}
	select {
	case <-m.next:
		return copy(out, m.request), nil
	case <-m.closed:
		return 0, errors.New("closed")
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}
