package kextv2_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

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

func TestVerdictBytes(t *testing.T) {
	if len(verdicts) != verdict.NumActions {
		t.Fatalf("the table has %d actions; want all %d", len(verdicts), verdict.NumActions)
	}
	for action, want := range verdicts {
		t.Run(action.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			d := kexttest.NewStream(current, 0)
			kexttest.NoFaults(t, d)
			start(t, d, kextv2.Config{Version: version}, &kexttest.Handler{OnHandle: kexttest.Decide(t, action)})
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
	kexttest.NoFaults(t, d)
	s, _ := start(t, d, kextv2.Config{Version: version}, &kexttest.Handler{})
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
	kexttest.NoFaults(t, d)
	decided := make(chan error, 1)
	s, _ := start(t, d, kextv2.Config{Version: kextv2.Version{Major: 2, Revision: 11, Build: 5}},
		&kexttest.Handler{OnHandle: func(p packet.Packet) { decided <- p.RerouteToSplitTun() }})
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
		kexttest.NoFaults(t, d)
		start(t, d, kextv2.Config{Version: tt.version}, &kexttest.Handler{OnHandle: kexttest.Decide(t, verdict.ActionBlock)})
		want := intercepttest.Passed
		if tt.asked {
			want = intercepttest.Refused
		}
		if got := d.Send(p).Fate(10 * time.Second); got != want {
			t.Errorf("%v: got %v; want %v", tt.version, got, want)
		}
	}
}

// A verdict on one echo says nothing about the next.
func TestPingsAreDecidedOneByOne(t *testing.T) {
	d := kexttest.NewStream(current, 0)
	kexttest.NoFaults(t, d)
	start(t, d, kextv2.Config{Version: version}, &kexttest.Handler{OnHandle: kexttest.Decide(t, verdict.ActionPermanentAccept)})
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

func TestForgetInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 0)
		s, _ := start(t, d, kextv2.Config{Version: version}, &kexttest.Handler{})
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

func TestOverflow(t *testing.T) {
	testutil.NoLeaks(t)
	d := kexttest.NewStream(current, 0)
	kexttest.NoFaults(t, d)
	s, stop := start(t, d, kextv2.Config{Version: version, MaxPending: 2, Default: verdict.ActionBlock}, &kexttest.Handler{})
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
