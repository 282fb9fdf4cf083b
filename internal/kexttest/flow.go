package kexttest

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
)

// Sender is a driver of either protocol.
type Sender interface {
	Send(p Packet) *Sent
}

// Flow is an intercepttest.Flow through a driver.
type Flow struct {
	driver Sender
	packet Packet
	last   *Sent
}

// Flows makes flows, each with a port of its own. The zero value is useful.
type Flows struct{ port atomic.Uint32 }

// New returns a flow through the driver.
func (f *Flows) New(d Sender, kind intercepttest.FlowKind) *Flow {
	port := uint16(f.port.Add(1))
	local, remote := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	if kind.Version == 6 {
		local, remote = netip.MustParseAddr("fd00:1:2:3:4:5:6:7"), netip.MustParseAddr("2001:db8::1234:5678:9abc:def0")
	}
	return &Flow{driver: d, packet: UDP(netip.AddrPortFrom(local, port), netip.AddrPortFrom(remote, 53), kind.Direction)}
}

// Tuple implements intercepttest.Flow.
func (f *Flow) Tuple() packet.Tuple { return f.packet.Info.Tuple }

// Send implements intercepttest.Flow.
func (f *Flow) Send() error {
	f.last = f.driver.Send(f.packet)
	return nil
}

// Fate implements intercepttest.Flow.
func (f *Flow) Fate(within time.Duration) intercepttest.Fate { return f.last.Fate(within) }
