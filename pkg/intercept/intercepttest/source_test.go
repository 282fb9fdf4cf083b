package intercepttest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// handler is a Handler of two functions.
type handler struct {
	lookup func(*packet.Info) (verdict.Action, uint8, bool)
	handle func(packet.Packet)
}

func (h handler) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if h.lookup == nil {
		return 0, 0, false
	}
	return h.lookup(i)
}

func (h handler) Handle(p packet.Packet) {
	if h.handle != nil {
		h.handle(p)
	}
}

// start runs s until the test ends.
func start(t *testing.T, s *intercepttest.Source, h intercept.Handler) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, h, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("got %v; want a running source", err)
	}
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("got %v; want nil from Run", err)
		}
	})
	return stop
}

func udp(port uint16) packet.Info {
	return packet.Info{
		Tuple: packet.Tuple{
			Local:    netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port),
			Remote:   netip.MustParseAddrPort("10.0.0.2:53"),
			Protocol: packet.UDP,
		},
		Version: 4,
		Length:  60,
	}
}

func want(t *testing.T, r *intercepttest.Result, action verdict.Action, by intercepttest.By) {
	t.Helper()
	got, err := r.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Action != action || got.By != by {
		t.Errorf("got %v; want %v by %v", got, action, by)
	}
}

func TestSourceTimeoutAndShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var held []packet.Packet
		s := intercepttest.New(intercepttest.Config{Timeout: 30 * time.Second, Default: verdict.ActionBlock})
		stop := start(t, s, handler{handle: func(p packet.Packet) { held = append(held, p) }})

		slow := s.Send(intercepttest.Packet{Info: udp(1)})
		time.Sleep(29 * time.Second)
		synctest.Wait()
		select {
		case <-slow.Done():
			t.Fatal("got a verdict before the timeout")
		default:
		}
		time.Sleep(time.Second)
		want(t, slow, verdict.ActionBlock, intercepttest.ByTimeout)
		if err := held[0].Accept(); !errors.Is(err, packet.ErrAlreadyDecided) {
			t.Errorf("got %v; want ErrAlreadyDecided after the timeout", err)
		}

		pending := s.Send(intercepttest.Packet{Info: udp(2)})
		synctest.Wait()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want(t, pending, verdict.ActionBlock, intercepttest.ByShutdown)
		if err := held[1].Drop(); !errors.Is(err, packet.ErrAlreadyDecided) {
			t.Errorf("got %v; want ErrAlreadyDecided after the end", err)
		}
		if _, err := s.Send(intercepttest.Packet{Info: udp(3)}).Wait(t.Context()); !errors.Is(err, intercepttest.ErrNotRunning) {
			t.Errorf("got %v; want ErrNotRunning", err)
		}
		if err := s.ForgetAll(); !errors.Is(err, intercepttest.ErrNotRunning) {
			t.Errorf("got %v; want ErrNotRunning", err)
		}
	})
}

func TestSourceOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := intercepttest.New(intercepttest.Config{QueueLen: 1})
		start(t, s, handler{handle: func(p packet.Packet) {
			<-release
			_ = p.Accept() // the test looks at the Result
		}})
		first := s.Send(intercepttest.Packet{Info: udp(1)})
		synctest.Wait() // the reader holds the first
		second := s.Send(intercepttest.Packet{Info: udp(2)})
		third := s.Send(intercepttest.Packet{Info: udp(3)})
		want(t, third, verdict.ActionDrop, intercepttest.ByOverflow)
		close(release)
		want(t, first, verdict.ActionAccept, intercepttest.ByHandler)
		want(t, second, verdict.ActionAccept, intercepttest.ByHandler)
	})
}

func TestSourceInfoOnly(t *testing.T) {
	got := make(chan error, 1)
	s := intercepttest.New(intercepttest.Config{})
	start(t, s, handler{handle: func(p packet.Packet) {
		if !p.InfoOnly() {
			got <- errors.New("InfoOnly is false")
			return
		}
		got <- p.Accept()
	}})
	want(t, s.Send(intercepttest.Packet{Info: udp(1), Kind: intercepttest.InfoOnly}), 0, intercepttest.ByNobody)
	if err := <-got; !errors.Is(err, packet.ErrInfoOnlyPacket) {
		t.Errorf("got %v; want ErrInfoOnlyPacket", err)
	}
}

func TestSourcePayloadIsLazy(t *testing.T) {
	errDevice := errors.New("device gone")
	for _, test := range []struct {
		name string
		send intercepttest.Packet
		want error
	}{
		{"some", intercepttest.Packet{Info: udp(1), Payload: []byte{0x45}}, nil},
		{"none", intercepttest.Packet{Info: udp(1)}, packet.ErrNoPayload},
		{"broken", intercepttest.Packet{Info: udp(1), LoadError: errDevice}, errDevice},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := make(chan error, 1)
			s := intercepttest.New(intercepttest.Config{})
			start(t, s, handler{handle: func(p packet.Packet) {
				_, err := p.Payload()
				_ = p.Accept() // the test looks at the Result
				got <- err
			}})
			r := s.Send(test.send)
			want(t, r, verdict.ActionAccept, intercepttest.ByHandler)
			if err := <-got; !errors.Is(err, test.want) {
				t.Errorf("got %v; want %v", err, test.want)
			}
			if n := r.PayloadLoads(); n != 1 {
				t.Errorf("got %d loads; want 1", n)
			}
		})
	}
}

func TestSourceSpoilsTheInfoOfLookup(t *testing.T) {
	var kept *packet.Info
	s := intercepttest.New(intercepttest.Config{})
	start(t, s, handler{lookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
		kept = i
		return verdict.ActionAccept, 0, true
	}})
	want(t, s.Send(intercepttest.Packet{Info: udp(1)}), verdict.ActionAccept, intercepttest.ByLookup)
	if kept.Tuple == udp(1).Tuple {
		t.Error("got the packet's tuple after Lookup returned; want a spoilt one")
	}
}

func TestSourceRecordsCalls(t *testing.T) {
	s := intercepttest.New(intercepttest.Config{})
	start(t, s, handler{})
	a := udp(1).Tuple
	for _, err := range []error{
		s.Update(a, verdict.ActionRerouteToSplitTun, 3), s.Forget(a), s.ForgetAll(), s.Cut(a),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []intercepttest.Call{
		{Op: intercepttest.OpUpdate, Tuple: a, Action: verdict.ActionRerouteToSplitTun, Route: 3},
		{Op: intercepttest.OpForget, Tuple: a}, {Op: intercepttest.OpForgetAll}, {Op: intercepttest.OpCut, Tuple: a},
	}
	if got := s.Calls(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

func TestSourceBreaks(t *testing.T) {
	s := intercepttest.New(intercepttest.Config{})
	broken := errors.New("broken")
	s.Break(errors.New("nobody listens yet"))
	err := s.Run(t.Context(), handler{}, func() { s.Break(broken) })
	if !errors.Is(err, broken) {
		t.Errorf("got %v; want %v", err, broken)
	}
}

func ExampleSource() {
	s := intercepttest.New(intercepttest.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error)
	h := handler{handle: func(p packet.Packet) { fmt.Println(p.Info().Tuple, p.PermanentBlock()) }}
	go func() { ended <- s.Run(ctx, h, func() { close(ready) }) }()
	<-ready
	for range 2 {
		outcome, err := s.Send(intercepttest.Packet{Info: udp(1)}).Wait(ctx)
		fmt.Println(outcome, err)
	}
	cancel()
	fmt.Println(<-ended)
	// Output:
	// udp 10.0.0.1:1 10.0.0.2:53 <nil>
	// PermanentBlock by handler <nil>
	// PermanentBlock by kernel <nil>
	// <nil>
}
