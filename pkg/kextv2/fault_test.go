package kextv2_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// What makes no sense is skipped, and counted; what follows counts.
func TestBadInfos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kexttest.NewStream(current, 3)
		kexttest.NoFaults(t, d)
		var out lines
		s, _ := start(t, d, kextv2.Config{Version: version, Logger: slog.New(slog.NewTextHandler(&out, nil))},
			&kexttest.Handler{OnHandle: kexttest.Decide(t, verdict.ActionAccept)})
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
		_, stop := runUntilBroken(t, d, &kexttest.Handler{OnHandle: func(p packet.Packet) { held <- p }})
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
	if err := s.Run(t.Context(), &kexttest.Handler{}, func() { t.Error("ready") }); !errors.Is(err, gone) || d.IsOpen() {
		t.Errorf("got %v, open %v; want %v, false", err, d.IsOpen(), gone)
	}
	d.Break(nil)
	dev, err := d.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := s.Run(t.Context(), &kexttest.Handler{}, nil); !errors.Is(err, kexttest.ErrBusy) {
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
		_, ended := runFailing(t, d, &failing{command: 1, err: refused}, &kexttest.Handler{OnHandle: func(p packet.Packet) {
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
		_, ended := runFailing(t, kexttest.NewStream(current, 0), &failing{command: 6, err: refused}, &kexttest.Handler{})
		if err := <-ended; !errors.Is(err, refused) {
			t.Errorf("got %v; want %v", err, refused)
		}
	})
}

// Reads that bring nothing do not make us spin, and end Run if they go on.
func TestEmptyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s, ended := runFailing(t, kexttest.NewStream(current, 0), &failing{empty: true}, &kexttest.Handler{})
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
		go func() { ended <- s.Run(ctx, &kexttest.Handler{}, nil) }()
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
		if err := s.Run(ctx, &kexttest.Handler{}, func() { t.Error("ready") }); err != nil || d.IsOpen() {
			t.Errorf("got %v, open %v; want nil, false", err, d.IsOpen())
		}
	})
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
	if err := s.Run(done, &kexttest.Handler{}, func() { t.Error("ready") }); err != nil {
		t.Errorf("got %v; want nil with a context that is done", err)
	}
	running, _ := start(t, d, kextv2.Config{}, &kexttest.Handler{})
	if err := running.Run(t.Context(), &kexttest.Handler{}, nil); !errors.Is(err, kextv2.ErrRunning) {
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
