package kextv2_test

import (
	"testing"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
)

var (
	current  = [4]byte{2, 1, 1, 0}
	version  = kextv2.Version{Major: 2, Minor: 1, Revision: 1}
	outbound = intercepttest.FlowKind{Version: 4, Direction: packet.Outbound}
)

func openDriver(d *kexttest.Stream) func() (kextv2.Device, error) {
	return func() (kextv2.Device, error) {
		dev, err := d.Open()
		if err != nil {
			return nil, err
		}
		return dev, nil
	}
}

func TestConformance(t *testing.T) {
	for name, chop := range map[string]int{"whole reads": 0, "reads of 7 bytes": 7} {
		t.Run(name, func(t *testing.T) {
			var driver *kexttest.Stream
			var flows kexttest.Flows
			intercepttest.Conformance(t, intercepttest.Harness{
				New: func(t *testing.T, timeout time.Duration) intercept.Source {
					driver = kexttest.NewStream(current, chop)
					kexttest.NoFaults(t, driver)
					s, err := kextv2.New(kextv2.Config{Open: openDriver(driver), Version: version, Timeout: timeout})
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
				DropTime: 10 * time.Second, // this driver tells of what is lost
			})
		})
	}
}

// start runs a source over the driver until the test ends. It may be used in a bubble.
func start(t *testing.T, d *kexttest.Stream, cfg kextv2.Config, h intercept.Handler) (s *kextv2.Source, stop func() error) {
	t.Helper()
	cfg.Open = openDriver(d)
	s, err := kextv2.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop, _ = kexttest.Start(t, s, h)
	return s, stop
}

// told are the bytes of the commands with this id.
func told(d *kexttest.Stream, id byte) (all [][]byte) {
	for _, c := range d.Commands() {
		if c.Data[0] == id {
			all = append(all, c.Data)
		}
	}
	return all
}
