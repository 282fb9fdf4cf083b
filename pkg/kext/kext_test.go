package kext_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kext"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// ioctlOnly is a driver of protocol v1: it is not read or written.
type ioctlOnly struct{ *kexttest.IoctlDevice }

func (ioctlOnly) Read([]byte) (int, error) { return 0, errors.New("a driver of protocol v1 was read") }
func (ioctlOnly) Write([]byte) (int, error) {
	return 0, errors.New("a driver of protocol v1 was written to")
}

// driver is one of either protocol.
type driver interface {
	kexttest.Sender
	Faults() []string
	IsOpen() bool
	Break(error)
}

func newDriver(version [4]byte) (driver, func() (kext.Device, error)) {
	if version[0] >= 2 {
		d := kexttest.NewStream(version, 0)
		return d, func() (kext.Device, error) {
			dev, err := d.Open()
			if err != nil {
				return nil, err
			}
			return dev, nil
		}
	}
	d := kexttest.NewIoctl(version)
	return d, func() (kext.Device, error) {
		dev, err := d.Open()
		if err != nil {
			return nil, err
		}
		return ioctlOnly{dev}, nil
	}
}

// rerouting sends every packet to the tunnel.
type rerouting struct{}

func (rerouting) Lookup(*packet.Info) (verdict.Action, uint8, bool) { return 0, 0, false }
func (rerouting) Handle(p packet.Packet)                            { _ = p.RerouteToTunnel() } // its fate is looked at

// Drivers of both protocols, one after the other with the same source.
func TestChooses(t *testing.T) {
	testutil.NoLeaks(t)
	p := kexttest.UDP(netip.MustParseAddrPort("[fd00::1]:5"), netip.MustParseAddrPort("[fd00::2]:6"), packet.Outbound)
	var open func() (kext.Device, error)
	s, err := kext.New(kext.Config{Open: func() (kext.Device, error) { return open() }})
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := s.Version(); ok {
		t.Errorf("got version %v before the first Run; want none", v)
	}
	for _, tt := range []struct {
		version [4]byte
		number  int
		name    string
	}{
		{[4]byte{1, 255, 0, 3}, 6, "1.255.0.3"}, {[4]byte{2, 0, 0, 0}, 9, "2.0.0.0"}, {[4]byte{3, 1, 0, 0}, 9, "3.1.0.0"},
	} {
		var d driver
		d, open = newDriver(tt.version)
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- s.Run(ctx, rerouting{}, func() { close(ready) }) }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatalf("%s: got %v; want a running source", tt.name, err)
		}
		sent := d.Send(p)
		if got := sent.Fate(10 * time.Second); got != intercepttest.Rerouted || sent.Numbers()[0] != tt.number {
			t.Errorf("%s: got %v by %v; want rerouted by %d", tt.name, got, sent.Numbers(), tt.number)
		}
		if err := s.Update(p.Info.Tuple, verdict.ActionPermanentDrop, 0); err != nil {
			t.Error(err)
		}
		if got := d.Send(p).Fate(10 * time.Second); got != intercepttest.Lost {
			t.Errorf("%s: got %v after the update; want lost", tt.name, got)
		}
		if err := errors.Join(s.Forget(p.Info.Tuple), s.ForgetAll()); err != nil {
			t.Error(err)
		}
		if err := s.Run(ctx, rerouting{}, nil); !errors.Is(err, kext.ErrRunning) {
			t.Errorf("got %v; want ErrRunning", err)
		}
		cancel()
		if err := <-ended; err != nil || d.IsOpen() || len(d.Faults()) > 0 {
			t.Errorf("%s: got %v, open %v, faults %v; want none", tt.name, err, d.IsOpen(), d.Faults())
		}
		if v, ok := s.Version(); !ok || v.String() != tt.name || s.Stats().Verdicts != 1 {
			t.Errorf("got %v, %+v; want %s with one verdict", v, s.Stats(), tt.name)
		}
	}
	for name, err := range map[string]error{
		"Update": s.Update(p.Info.Tuple, 0, 0), "Forget": s.Forget(p.Info.Tuple), "ForgetAll": s.ForgetAll(),
	} {
		if !errors.Is(err, kext.ErrClosed) {
			t.Errorf("%s: got %v; want ErrClosed", name, err)
		}
	}
}

func TestSplitTunnel(t *testing.T) {
	for _, tt := range []struct {
		version [4]byte
		split   kext.SplitTunnel
		message string // of the refusal
	}{
		{[4]byte{1, 5, 0, 0}, kext.SplitUnused, ""},
		{[4]byte{1, 5, 0, 0}, kext.SplitNeeded, "version 1.5.0.0, and 2.1.0 or later is needed"},
		{[4]byte{1, 5, 0, 0}, kext.SplitTrusted, ""},
		{[4]byte{2, 0, 11, 5}, kext.SplitUnused, ""},
		{[4]byte{2, 0, 11, 5}, kext.SplitNeeded, "version 2.0.11.5, and 2.1.0 or later is needed"},
		{[4]byte{2, 0, 11, 5}, kext.SplitTrusted, "version 2.0.11.5, and 2.1.0 or later is needed"},
		{[4]byte{2, 1, 0, 0}, kext.SplitNeeded, ""},
		{[4]byte{3, 0, 0, 0}, kext.SplitTrusted, ""},
	} {
		d, open := newDriver(tt.version)
		s, err := kext.New(kext.Config{Open: open, SplitTunnel: tt.split})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = s.Run(ctx, rerouting{}, func() {
			if tt.message != "" {
				t.Errorf("%v, %d: ready", tt.version, tt.split)
			}
			cancel()
		})
		cancel()
		refused := errors.Is(err, kext.ErrNoSplitTunnel) && strings.Contains(err.Error(), tt.message)
		if tt.message == "" && err != nil || tt.message != "" && !refused {
			t.Errorf("%v, %d: got %v; want %q", tt.version, tt.split, err, tt.message)
		}
		if d.IsOpen() {
			t.Errorf("%v, %d: the device is still open", tt.version, tt.split)
		}
	}
}

// versionless is a driver that does not tell its version.
type versionless struct {
	kext.Device
	n   int
	err error
}

func (v versionless) Control(uint32, []byte, []byte) (int, error) { return v.n, v.err }

// mute is a driver that never answers.
type mute struct {
	kext.Device
	closed chan struct{}
	once   sync.Once
}

func (m *mute) Control(uint32, []byte, []byte) (int, error) {
	<-m.closed
	return 0, os.ErrClosed
}

func (m *mute) Close() error {
	m.once.Do(func() { close(m.closed) })
	return m.Device.Close()
}

// A driver that does not even tell its version cannot keep Run from returning.
func TestMuteDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, open := newDriver([4]byte{2, 1, 0, 0})
		s, err := kext.New(kext.Config{Open: func() (kext.Device, error) {
			dev, err := open()
			return &mute{Device: dev, closed: make(chan struct{})}, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Run(ctx, rerouting{}, func() { t.Error("ready") }); err != nil || d.IsOpen() {
			t.Errorf("got %v, open %v; want nil, false", err, d.IsOpen())
		}
	})
}

func TestNoVersion(t *testing.T) {
	gone := errors.New("device gone")
	d, open := newDriver([4]byte{2, 1, 0, 0})
	for _, tt := range []struct {
		n    int
		err  error
		want string
	}{
		{0, gone, "device gone"}, {0, nil, "0 bytes"}, {3, nil, "3 bytes"}, {-1, nil, "0 bytes"},
	} {
		s, err := kext.New(kext.Config{Open: func() (kext.Device, error) {
			dev, err := open()
			return versionless{dev, tt.n, tt.err}, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Run(t.Context(), rerouting{}, func() { t.Error("ready") })
		if err == nil || !strings.Contains(err.Error(), "read the driver's version") || !strings.Contains(err.Error(), tt.want) || d.IsOpen() {
			t.Errorf("got %v, open %v; want an error with %q", err, d.IsOpen(), tt.want)
		}
	}
	s, err := kext.New(kext.Config{Open: func() (kext.Device, error) { return nil, os.ErrNotExist }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), rerouting{}, nil); !errors.Is(err, os.ErrNotExist) || s.Stats() != (kext.Stats{}) {
		t.Errorf("got %v, %+v; want ErrNotExist", err, s.Stats())
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(done, rerouting{}, nil); err != nil {
		t.Errorf("got %v; want nil with a context that is done", err)
	}
}

func TestNew(t *testing.T) {
	_, open := newDriver([4]byte{1})
	for name, cfg := range map[string]kext.Config{
		"split tunnel": {Open: open, SplitTunnel: 3}, "timeout": {Open: open, Timeout: -1}, "default": {Open: open, Default: verdict.ActionPermanentDrop},
	} {
		if s, err := kext.New(cfg); !errors.Is(err, kext.ErrBadConfig) || s != nil {
			t.Errorf("%s: got %v; want ErrBadConfig", name, err)
		}
	}
	s, err := kext.New(kext.Config{Device: `\\.\weir-no-such-device`})
	if runtime.GOOS != "windows" {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS+"/"+runtime.GOARCH) {
			t.Errorf("got %v; want ErrUnsupported for this system", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), rerouting{}, nil); err == nil || !strings.Contains(err.Error(), "service does not run") {
		t.Errorf("got %v; want an error that says that the driver's service does not run", err)
	}
}
