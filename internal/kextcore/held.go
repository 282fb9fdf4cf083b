package kextcore

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Answer says what the driver wants to hear about a packet.
type Answer uint8

const (
	// AnswerVerdict is a verdict.
	AnswerVerdict Answer = iota
	// AnswerNone is nothing: a verdict of the handler is for nobody.
	AnswerNone
	// AnswerImpossible is a verdict, but the driver gave no id to name the packet by.
	AnswerImpossible
)

// Loader fetches a packet that waits in the driver.
type Loader interface {
	// Load returns the packet from its IP header on.
	Load(id uint64, length int) ([]byte, error)
}

// Delivery is what a Protocol hands over: a packet, or the information that a process opened a socket.
type Delivery struct {
	// ID names the packet in its verdict.
	ID uint64
	// Info is what the driver tells. Deliver adds what the payload tells.
	Info packet.Info
	// Answer says what the driver waits for.
	Answer Answer
	// FastTracked, InfoOnly and ExpectsInfo are those of packet.Packet.
	FastTracked, InfoOnly, ExpectsInfo bool
	// Layer is where Payload begins.
	Layer stream.Layer
	// Payload is what came of the packet, in the reader's memory.
	Payload []byte
	// Loader fetches what did not come, if it can be had.
	Loader Loader
}

// The longest IP header that is made up, and as much of a transport segment as packet.Decode looks at.
const (
	header4   = 20
	header6   = 40
	prefix    = 64
	hopLimit  = 64
	maxLength = 1<<16 - 1
)

// describe adds to the info what the payload tells. The driver's addresses and ports stay, because its stored verdicts go by
// them; it knows no echo identifiers, so these are the payload's.
func (s *Session) describe(d *Delivery) {
	var room [header6 + prefix]byte
	b := d.Payload
	switch d.Layer {
	case stream.LayerNetwork:
	case stream.LayerTransport:
		b = appendHeader(room[:0], &d.Info, len(d.Payload))
		b = append(b, d.Payload[:min(len(d.Payload), prefix)]...)
	case stream.LayerNone:
		return
	default:
		return
	}
	i, from := &d.Info, &s.decoded
	if packet.Decode(b, i.Direction, from) != nil || from.Protocol != i.Protocol ||
		from.Local.Addr() != i.Local.Addr() || from.Remote.Addr() != i.Remote.Addr() {
		return
	}
	switch {
	case i.Protocol.IsICMP():
		i.Tuple = from.Tuple
	case !from.Fragment && from.Tuple != i.Tuple:
		return
	}
	i.TCPFlags, i.ICMPType, i.ICMPCode, i.Fragment = from.TCPFlags, from.ICMPType, from.ICMPCode, from.Fragment
	i.Length, i.HeaderLength = from.Length, from.HeaderLength
	if d.Layer == stream.LayerNetwork {
		i.HopLimit = from.HopLimit
	}
}

// appendHeader appends an IP header for a segment of the given length. Of what the driver does not tell it has the usual.
func appendHeader(b []byte, i *packet.Info, segment int) []byte {
	src, dst := i.Source().Addr(), i.Destination().Addr()
	if version, err := kextwire.IPVersion(&i.Tuple); err != nil || version == 6 {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(min(segment, maxLength)))
		b = append(b, byte(i.Protocol), hopLimit)
		return kextwire.AppendAddr(kextwire.AppendAddr(b, src, 6), dst, 6)
	}
	at := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(min(header4+segment, maxLength)))
	b = append(b, 0, 0, 0, 0, hopLimit, byte(i.Protocol), 0, 0)
	b = kextwire.AppendAddr(kextwire.AppendAddr(b, src, 4), dst, 4)
	binary.BigEndian.PutUint16(b[at+10:], checksum(b[at:]))
	return b
}

// checksum is that of an IPv4 header (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Held is a packet that was given to the handler. It is never reused: a handler may keep it as long as it likes.
type Held struct {
	packet.Once
	session *Session
	id      uint64
	info    packet.Info
	answer  Answer
	fast    bool
	expects bool
	layer   stream.Layer
	raw     []byte // a copy of what the driver sent
	loader  Loader
	// defaulted is set when the default verdict was issued.
	defaulted atomic.Bool

	load    sync.Once
	payload []byte // set by load
	err     error  // set by load

	scratch Scratch
}

var (
	_ packet.Packet      = (*Held)(nil)
	_ packet.ActionTaker = (*Held)(nil)
	_ packet.Issuer      = (*Held)(nil)
)

const heldSize = int(unsafe.Sizeof(Held{}))

// hold copies what the reader will overwrite.
func hold(s *Session, d *Delivery) *Held {
	h := &Held{
		session: s, id: d.ID, info: d.Info, answer: d.Answer, fast: d.FastTracked, expects: d.ExpectsInfo,
		layer: d.Layer, loader: d.Loader,
	}
	if len(d.Payload) > 0 {
		h.raw = append([]byte(nil), d.Payload...)
	}
	h.Init(h, d.ID)
	return h
}

// size is what the packet keeps in memory.
func (h *Held) size() int { return heldSize + len(h.raw) }

// Issue implements packet.Issuer for the verdict methods. The split tunnel's proxies know the route of a connection; the
// driver sends all of them to the same port.
func (h *Held) Issue(_ uint64, action verdict.Action, _ uint8) error {
	if h.defaulted.Load() {
		return packet.ErrAlreadyDecided
	}
	return h.session.issue(h, action)
}

// markDefaulted makes Decided and later verdict methods know of the default verdict. It tells nobody.
func (h *Held) markDefaulted(action verdict.Action) {
	h.defaulted.Store(true)
	_ = h.Take(action, 0) // an error means that the handler came second
}

// Info implements packet.Packet.
func (h *Held) Info() *packet.Info { return &h.info }

// Payload implements packet.Packet. What waits in the driver is fetched at the first call, and is gone after the verdict. Of a
// packet that the driver sent without its IP header, that header is made up from what the driver told: addresses, protocol and
// lengths are right, the rest is usual.
func (h *Held) Payload() ([]byte, error) {
	h.load.Do(func() {
		switch {
		case h.layer == stream.LayerNetwork && len(h.raw) > 0:
			h.payload = h.raw
		case h.layer == stream.LayerTransport && len(h.raw) > 0:
			h.payload = appendHeader(make([]byte, 0, header6+len(h.raw)), &h.info, len(h.raw))
			h.payload = append(h.payload, h.raw...)
		case h.loader != nil && !h.InfoOnly():
			h.payload, h.err = h.fetch()
		default:
			h.err = fmt.Errorf("kext: %w", packet.ErrNoPayload)
		}
	})
	return h.payload, h.err
}

func (h *Held) fetch() ([]byte, error) {
	if _, decided := h.Decided(); decided {
		return nil, fmt.Errorf("kext: the packet left the driver: %w", packet.ErrNoPayload)
	}
	b, err := h.loader.Load(h.id, h.info.Length)
	if err != nil {
		return nil, fmt.Errorf("kext: %w: %w", packet.ErrNoPayload, err)
	}
	return b, nil
}

// FastTrackedByDriver implements packet.Packet.
func (h *Held) FastTrackedByDriver() bool { return h.fast }

// ExpectsInfo implements packet.Packet.
func (h *Held) ExpectsInfo() bool { return h.expects }
