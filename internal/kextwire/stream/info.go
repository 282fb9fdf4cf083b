package stream

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/packet"
)

// Kind is the type of an info.
type Kind uint8

// The types of infos. Those of IPv4 and IPv6 differ in the size of addresses only.
const (
	KindLog         Kind = 0
	KindConnection4 Kind = 1
	KindConnection6 Kind = 2
	KindEnd4        Kind = 3
	KindEnd6        Kind = 4
	KindBandwidth4  Kind = 5
	KindBandwidth6  Kind = 6
)

// addrSize is the size of one address in an info of this kind.
func (k Kind) addrSize() int {
	if k == KindConnection6 || k == KindEnd6 || k == KindBandwidth6 {
		return 16
	}
	return 4
}

// version is the version of IP of an info of this kind.
func (k Kind) version() uint8 {
	if k.addrSize() == 16 {
		return 6
	}
	return 4
}

// Severity is how bad what a log line tells is.
type Severity uint8

// The severities.
const (
	SeverityTrace    Severity = 1
	SeverityDebug    Severity = 2
	SeverityInfo     Severity = 3
	SeverityWarning  Severity = 4
	SeverityError    Severity = 5
	SeverityCritical Severity = 6
)

// Layer says where a payload begins.
type Layer uint8

// The layers of the OSI model that a payload may begin with.
const (
	LayerNone      Layer = 0
	LayerNetwork   Layer = 3 // the IP header
	LayerTransport Layer = 4 // the TCP or UDP header
)

// Log is a line that the driver logged. Text is valid until the next call of the Decoder.
type Log struct {
	Severity Severity
	Text     []byte
}

// Connection is a packet that waits for its verdict.
type Connection struct {
	// ID names the packet in its verdict.
	ID uint64
	// PID is the process, 0 if the driver does not know it.
	PID       uint64
	Direction packet.Direction
	Tuple     packet.Tuple
	// Layer is where Payload begins.
	Layer Layer
	// Payload is what the driver sent of the packet, empty if nothing. It is valid until the next call of the Decoder.
	Payload []byte
}

// End tells that a connection ended.
type End struct {
	// PID is the process, 0 if the driver does not know it.
	PID       uint64
	Direction packet.Direction
	Tuple     packet.Tuple
}

// Usage is what a connection transferred since the last report.
type Usage struct {
	Tuple packet.Tuple
	// Transmitted and Received are bytes.
	Transmitted, Received uint64
}

// Bandwidth is a report about many connections of one protocol. It is valid until the next call of the Decoder.
type Bandwidth struct {
	protocol packet.Protocol
	addr     int // size of an address
	entries  []byte
}

// Info is one info of the stream. Of its parts only the one that Kind names means something.
type Info struct {
	Kind       Kind
	Log        Log        // KindLog
	Connection Connection // KindConnection4, KindConnection6
	End        End        // KindEnd4, KindEnd6
	Bandwidth  Bandwidth  // KindBandwidth4, KindBandwidth6
}

// Sizes of bodies without what is variable.
const (
	logHead       = 1
	endSize       = 8 + 1 + 1 + 2 + 2             // and two addresses
	connHead      = 8 + 8 + 1 + 1 + 2 + 2 + 1 + 4 // and two addresses
	bandwidthHead = 1 + 4
	usageSize     = 2 + 2 + 8 + 8 // and two addresses
)

// limits returns the shortest and the longest body that an info of this kind may have. known is false for a kind that does
// not exist.
func (k Kind) limits() (shortest, longest int, known bool) {
	addrs := 2 * k.addrSize()
	switch k {
	case KindLog:
		return logHead, MaxBody, true
	case KindConnection4, KindConnection6:
		return connHead + addrs, MaxBody, true
	case KindEnd4, KindEnd6:
		return endSize + addrs, endSize + addrs, true
	case KindBandwidth4, KindBandwidth6:
		return bandwidthHead, MaxBody, true
	}
	return 0, 0, false
}

// decode reads a body whose length is within the limits of the kind.
func (i *Info) decode(kind Kind, body []byte) error {
	i.Kind = kind
	switch kind {
	case KindLog:
		i.Log = Log{Severity: Severity(body[0]), Text: body[1:]}
		return nil
	case KindConnection4, KindConnection6:
		return i.Connection.decode(body, kind.addrSize())
	case KindEnd4, KindEnd6:
		i.End.decode(body, kind.addrSize())
		return nil
	case KindBandwidth4, KindBandwidth6:
		return i.Bandwidth.decode(body, kind.addrSize())
	}
	return fmt.Errorf("%w: info %d", kextwire.ErrUnknown, kind)
}

func (c *Connection) decode(b []byte, addr int) error {
	rest := b[connHead+2*addr:]
	size := binary.LittleEndian.Uint32(b[connHead+2*addr-4:])
	if uint64(size) != uint64(len(rest)) {
		return fmt.Errorf("%w: payload of %d bytes in a place for %d", kextwire.ErrSize, size, len(rest))
	}
	c.ID = binary.LittleEndian.Uint64(b)
	c.PID = binary.LittleEndian.Uint64(b[8:])
	c.Direction = direction(b[16])
	c.Tuple.Protocol = packet.Protocol(b[17])
	ends(b[18:], addr, &c.Tuple)
	c.Layer = Layer(b[18+2*addr+4])
	c.Payload = rest
	return nil
}

func (e *End) decode(b []byte, addr int) {
	e.PID = binary.LittleEndian.Uint64(b)
	e.Direction = direction(b[8])
	e.Tuple.Protocol = packet.Protocol(b[9])
	ends(b[10:], addr, &e.Tuple)
}

// ends reads both addresses and then both ports.
func ends(b []byte, addr int, t *packet.Tuple) {
	ports := b[2*addr:]
	t.Local = netip.AddrPortFrom(kextwire.Addr(b[:addr]), binary.LittleEndian.Uint16(ports))
	t.Remote = netip.AddrPortFrom(kextwire.Addr(b[addr:2*addr]), binary.LittleEndian.Uint16(ports[2:]))
}

func direction(b byte) packet.Direction {
	if b > 0 {
		return packet.Inbound
	}
	return packet.Outbound
}

func (w *Bandwidth) decode(b []byte, addr int) error {
	*w = Bandwidth{protocol: packet.Protocol(b[0]), addr: addr, entries: b[bandwidthHead:]}
	count := binary.LittleEndian.Uint32(b[1:])
	if uint64(count)*uint64(w.entrySize()) != uint64(len(w.entries)) {
		return fmt.Errorf("%w: %d connections in %d bytes", kextwire.ErrSize, count, len(w.entries))
	}
	return nil
}

func (w *Bandwidth) entrySize() int { return usageSize + 2*w.addr }

// Len returns how many connections the report is about.
func (w *Bandwidth) Len() int {
	if w.addr == 0 {
		return 0
	}
	return len(w.entries) / w.entrySize()
}

// At returns what connection n transferred, for n from 0 to Len()-1.
func (w *Bandwidth) At(n int) Usage {
	size := w.entrySize()
	b := w.entries[n*size:][:size]
	local, b := addrPort(b, w.addr)
	remote, b := addrPort(b, w.addr)
	return Usage{
		Tuple:       packet.Tuple{Protocol: w.protocol, Local: local, Remote: remote},
		Transmitted: binary.LittleEndian.Uint64(b),
		Received:    binary.LittleEndian.Uint64(b[8:]),
	}
}

// addrPort reads an address with its port behind it.
func addrPort(b []byte, addr int) (ap netip.AddrPort, rest []byte) {
	return netip.AddrPortFrom(kextwire.Addr(b[:addr]), binary.LittleEndian.Uint16(b[addr:])), b[addr+2:]
}
