package proxy

import (
	"net/netip"
	"sync/atomic"
)

// Stats are the figures of a Server. All but Open and Listen only grow.
type Stats struct {
	// Listen are the addresses that are listened on now.
	Listen []netip.AddrPort `json:"listen"`
	TCP    TCPStats         `json:"tcp"`
	UDP    UDPStats         `json:"udp"`
}

// TCPStats are the figures of TCP sessions.
type TCPStats struct {
	Open      int64  `json:"open"`       // sessions now, those that are connecting included
	Accepted  uint64 `json:"accepted"`   // connections of clients
	Connected uint64 `json:"connected"`  // sessions whose destination answered
	Refused   uint64 `json:"refused"`    // by the Director, or addressed to the proxy itself
	Limited   uint64 `json:"limited"`    // more than MaxTCP, or than there are descriptors for
	NoEgress  uint64 `json:"no_egress"`  // interface or address could not be used
	NoConnect uint64 `json:"no_connect"` // the destination refused, or cannot be reached
	TimedOut  uint64 `json:"timed_out"`  // the destination did not answer within ConnectTimeout
	Reset     uint64 `json:"reset"`      // by one of the sides, while data could flow
	Idle      uint64 `json:"idle"`       // ended because of TCPIdle
	Stopped   uint64 `json:"stopped"`    // ended by Reset, Cut or the end of Run
	Sent      uint64 `json:"sent_bytes"`
	Received  uint64 `json:"received_bytes"`
}

// UDPStats are the figures of UDP sessions.
type UDPStats struct {
	Open            int64  `json:"open"`        // sessions now
	Opened          uint64 `json:"opened"`      // sessions so far
	Refused         uint64 `json:"refused"`     // datagrams refused by the Director, or addressed to the proxy itself
	Untracked       uint64 `json:"untracked"`   // datagrams whose destination conntrack could not tell
	Limited         uint64 `json:"limited"`     // datagrams dropped for want of a session: more than MaxUDP, or no descriptor
	NoEgress        uint64 `json:"no_egress"`   // datagrams dropped because interface or address could not be used
	Verified        uint64 `json:"verified"`    // questions to conntrack about running sessions
	Stale           uint64 `json:"stale"`       // sessions ended because conntrack gave another answer than before
	Idle            uint64 `json:"idle"`        // sessions ended because of UDPIdle
	Stopped         uint64 `json:"stopped"`     // sessions ended by Reset, Cut or the end of Run
	ICMPErrors      uint64 `json:"icmp_errors"` // errors that came back for datagrams sent
	Dropped         uint64 `json:"dropped"`     // datagrams that the system did not take
	Sent            uint64 `json:"sent_bytes"`
	SentPackets     uint64 `json:"sent_packets"`
	Received        uint64 `json:"received_bytes"`
	ReceivedPackets uint64 `json:"received_packets"`
}

// counters are Stats of one loop, which is the only one to write them.
type counters struct {
	tcpOpen, udpOpen                                         atomic.Int64
	tcpAccepted, tcpConnected, tcpRefused, tcpLimited        atomic.Uint64
	tcpNoEgress, tcpNoConnect, tcpTimedOut                   atomic.Uint64
	tcpReset, tcpIdle, tcpStopped, tcpSent, tcpReceived      atomic.Uint64
	udpOpened, udpRefused, udpUntracked, udpLimited          atomic.Uint64
	udpNoEgress, udpVerified, udpStale                       atomic.Uint64
	udpIdle, udpStopped, udpICMP, udpDropped                 atomic.Uint64
	udpSent, udpSentPackets, udpReceived, udpReceivedPackets atomic.Uint64
	_                                                        [64]byte // keeps the counters of two loops apart
}

func (c *counters) addTo(s *Stats) {
	s.TCP.Open += c.tcpOpen.Load()
	s.UDP.Open += c.udpOpen.Load()
	for _, p := range []struct {
		to   *uint64
		from *atomic.Uint64
	}{
		{&s.TCP.Accepted, &c.tcpAccepted}, {&s.TCP.Connected, &c.tcpConnected}, {&s.TCP.Refused, &c.tcpRefused},
		{&s.TCP.Limited, &c.tcpLimited}, {&s.TCP.NoEgress, &c.tcpNoEgress}, {&s.TCP.NoConnect, &c.tcpNoConnect},
		{&s.TCP.TimedOut, &c.tcpTimedOut}, {&s.TCP.Reset, &c.tcpReset}, {&s.TCP.Idle, &c.tcpIdle},
		{&s.TCP.Stopped, &c.tcpStopped}, {&s.TCP.Sent, &c.tcpSent}, {&s.TCP.Received, &c.tcpReceived},
		{&s.UDP.Opened, &c.udpOpened}, {&s.UDP.Refused, &c.udpRefused}, {&s.UDP.Untracked, &c.udpUntracked},
		{&s.UDP.Limited, &c.udpLimited}, {&s.UDP.NoEgress, &c.udpNoEgress}, {&s.UDP.Verified, &c.udpVerified},
		{&s.UDP.Stale, &c.udpStale}, {&s.UDP.Idle, &c.udpIdle}, {&s.UDP.Stopped, &c.udpStopped},
		{&s.UDP.ICMPErrors, &c.udpICMP}, {&s.UDP.Dropped, &c.udpDropped},
		{&s.UDP.Sent, &c.udpSent}, {&s.UDP.SentPackets, &c.udpSentPackets},
		{&s.UDP.Received, &c.udpReceived}, {&s.UDP.ReceivedPackets, &c.udpReceivedPackets},
	} {
		*p.to += p.from.Load()
	}
}
