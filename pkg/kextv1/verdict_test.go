package kextv1_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

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
			start(t, d, kextv1.Config{}, &kexttest.Handler{OnHandle: func(p packet.Packet) {
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
	s, _ := start(t, d, kextv1.Config{}, &kexttest.Handler{})
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
	s, _ := start(t, d, kextv1.Config{}, &kexttest.Handler{OnHandle: func(p packet.Packet) { got <- p }})
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
	s, stop := start(t, d, kextv1.Config{}, &kexttest.Handler{OnHandle: func(p packet.Packet) { got <- p }})
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
	start(t, d, kextv1.Config{}, &kexttest.Handler{OnHandle: func(p packet.Packet) { got <- p }})
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

// What a driver that knows the split tunnel asks about its own redirects to the proxy.
func TestProxiedConnections(t *testing.T) {
	local := netip.MustParseAddrPort("10.0.0.1:719")
	for knows, want := range map[bool]intercepttest.Fate{false: intercepttest.Refused, true: intercepttest.Passed} {
		d := newDriver(t)
		start(t, d, kextv1.Config{KnowsSplitTunnel: knows}, &kexttest.Handler{OnHandle: func(p packet.Packet) { _ = p.Block() }}) // the fate is looked at
		p := kexttest.UDP(local, netip.AddrPortFrom(local.Addr(), 50000), packet.Inbound)
		if got := d.Send(p).Fate(longEnough); got != want {
			t.Errorf("knows %v: got %v; want %v", knows, got, want)
		}
	}
}
