package winerig

import (
	"context"
	"time"

	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winsvc"
	"github.com/weirfw/weir/pkg/packet"
)

// Version is what a fake driver of this personality says it is.
func (p Personality) Version() [4]byte {
	switch p {
	case V1:
		return [4]byte{1, 0, 12, 0}
	case V20:
		return [4]byte{2, 0, 5, 0}
	case V2:
	}
	return [4]byte{2, 1, 1, 0}
}

// Load locks and loads the fake driver until the test ends, and returns the tests' side of it. It ends the test where there is no rig.
func Load(t testutil.TB, p Personality) *Driver {
	t.Helper()
	path := DriverFile(t, p)
	Lock(t)
	ctx := context.Background() // that of the test is done before its cleanups
	d, err := winsvc.InstallDriver(ctx, winsvc.Driver{Name: "WeirRigTest", Path: path})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Errorf("%v", err)
		}
	})
	if err := d.Start(ctx); err != nil {
		t.Fatalf("%v", err)
	}
	return MustConnect(t)
}

// MustConnect is Connect for tests, which close it when they end.
func MustConnect(t testutil.TB) *Driver {
	t.Helper()
	d, err := Connect()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return d
}

// Question is something that the driver asks about.
type Question struct {
	// ID names the packet in its verdict.
	ID uint64
	// PID is the process. In protocol v1 it makes the question one that takes no verdict: the information that a process opened a
	// socket.
	PID uint64
	// ExpectsInfo announces such an information (v1 only).
	ExpectsInfo bool
	Direction   packet.Direction
	Tuple       packet.Tuple
	// Packet is the whole IP packet, which v1 keeps until it is asked for it. None is as if the driver had not captured it.
	Packet []byte
}

// Ask puts a question where the driver's client finds it, in the words of the personality's protocol.
func (d *Driver) Ask(p Personality, q Question) error {
	if p == V1 {
		return d.Request(q.request(), q.Packet)
	}
	kind := stream.KindConnection6
	if q.Tuple.Is4() {
		kind = stream.KindConnection4
	}
	c := &stream.Connection{ID: q.ID, PID: q.PID, Direction: q.Direction, Tuple: q.Tuple}
	if len(q.Packet) > 0 {
		c.Layer, c.Payload = stream.LayerNetwork, q.Packet
	}
	return d.Push(stream.AppendConnection(nil, kind, c))
}

func (q *Question) request() []byte {
	r := &ioctl.Request{
		ID: uint32(q.ID), PID: q.PID, Direction: q.Direction, Version: 6, Tuple: q.Tuple, PacketSize: uint32(len(q.Packet)),
	}
	if q.Tuple.Is4() {
		r.Version = 4
	}
	if q.PID != 0 {
		r.Flags |= ioctl.FlagSocketAuth
	}
	if q.ExpectsInfo {
		r.Flags |= ioctl.FlagExpectsSocketAuth
	}
	return ioctl.AppendRequest(nil, r)
}

// Await asks for the report until it is as wanted, and ends the test with what it was if that takes too long.
func (d *Driver) Await(t testutil.TB, what string, want func(Report) bool) Report {
	t.Helper()
	var r Report
	for deadline := time.Now().Add(patience); ; time.Sleep(pollEvery) {
		var err error
		if r, err = d.Report(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if want(r) {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: the driver reports %+v", what, patience, r)
		}
	}
}

const (
	// patience is how long the driver's client may take for anything.
	patience  = 3 * time.Minute
	pollEvery = 5 * time.Millisecond
)
