package firewall

import (
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// OriginFinder is a ProcessFinder that can tell who opened a connection from
// the sockets of this host. It is asked about a packet from the middle of a TCP
// connection whose beginning neither the firewall nor the kernel's tracking has
// seen: without an answer the packet is taken for the first one.
type OriginFinder interface {
	// FindOrigin returns Inbound for a connection to a port that something
	// listens on, and Outbound for any other connection of a socket here. ok is
	// false without such a socket: then there is no connection yet, and a packet
	// that claims one must not be taken for an answer. It may ask the kernel.
	FindOrigin(i *packet.Info) (d packet.Direction, ok bool)
}

// directionOf says who opened a packet's connection. For a connection older
// than the firewall its first packet is any packet. What comes in proves
// nothing: anybody can send an answer that nobody asked for, and be let in by it
// afterwards.
func (f *Firewall) directionOf(i *packet.Info) packet.Direction {
	if i.IsEchoRequest() || i.Protocol == packet.TCP && isOpening(i) {
		return i.Direction
	}
	if f.tracker != nil && (i.Protocol == packet.TCP || i.Direction == packet.Inbound || i.IsEchoReply() || f.youth.asks(i.Seen)) {
		if d, ok := f.tracker.Origin(i.Tuple); ok {
			return d
		}
	}
	if finder, ok := f.cfg.Processes.(OriginFinder); ok && i.Protocol == packet.TCP {
		if d, ok := finder.FindOrigin(i); ok {
			return d
		}
	}
	if i.Direction == packet.Outbound && isAnswer(i) {
		// this host's own kernel says so
		return packet.Inbound
	}
	return i.Direction
}

// isOpening reports whether a TCP segment asks for a new connection.
func isOpening(i *packet.Info) bool {
	return i.TCPFlags&(packet.TCPSyn|packet.TCPAck) == packet.TCPSyn
}

// isAnswer reports whether a packet answers another one if it is honest.
func isAnswer(i *packet.Info) bool {
	return i.IsEchoReply() || i.Protocol == packet.TCP && i.TCPFlags&packet.TCPSyn != 0 && i.TCPFlags&packet.TCPAck != 0
}

// Datagrams of this host may answer others that came before interception began,
// and count as what they are only where the kernel is asked. That costs some 15
// µs, so where many are sent it is not done for ever.
const (
	// trackedTime is how long an older conversation by datagrams may be silent
	// until the kernel forgets it: Linux' timeout for a UDP stream, and a little
	// more. Any packet of it that comes earlier has shown it to the firewall.
	trackedTime = 3 * time.Minute
	// pauseTime without new conversations may have been one without
	// interception.
	pauseTime = time.Second
)

// youth tells how long interception has gone on, by the new conversations that
// this host begins: it may be off while the firewall runs, and nobody says so.
type youth struct {
	// last is when the last one came, and since when the first one did after
	// which there was no pause; in nanoseconds of the Unix epoch.
	last, since atomic.Int64
}

// asks notes a new conversation and reports whether it may be an older one.
func (y *youth) asks(at time.Time) bool {
	now := at.UnixNano()
	if time.Duration(now-y.last.Swap(now)) > pauseTime {
		y.since.Store(now)
		return true
	}
	return time.Duration(now-y.since.Load()) < trackedTime
}
