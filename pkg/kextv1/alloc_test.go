package kextv1_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

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
	h := &kexttest.Handler{OnLookup: func(*packet.Info) (verdict.Action, uint8, bool) {
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
