package kextv1_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// A driver without statistics, or with bad ones, goes on.
func TestFailedStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDriver(t)
		var out bytes.Buffer
		d.FailStats(errors.New("not implemented"))
		_, stop := start(t, d, kextv1.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))}, &kexttest.Handler{})
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
		}, &kexttest.Handler{})
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
		s, _ := start(t, d, kextv1.Config{}, &kexttest.Handler{OnHandle: func(p packet.Packet) { _ = p.Accept() }}) // the fate is looked at
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
		s, stop := start(t, d, kextv1.Config{}, &kexttest.Handler{})
		time.Sleep(10 * time.Second)
		if n := s.Stats().EmptyReads; n < 150 || n > 250 {
			t.Errorf("got %d empty reads; want 200 of 50 ms", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		s, stop = start(t, d, kextv1.Config{Open: openLying(d, 0x9c40e008, func([]byte) (int, error) { return 0, nil })}, &kexttest.Handler{})
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
		go func() { ended <- s.Run(context.Background(), &kexttest.Handler{}, func() { close(ready) }) }()
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
