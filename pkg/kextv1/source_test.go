package kextv1_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
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
	kexttest.NoFaults(t, d)
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
	stop, _ = kexttest.Start(t, s, h)
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
