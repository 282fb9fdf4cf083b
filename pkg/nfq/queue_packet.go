package nfq

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// smallPayload fits into a held packet itself: the default copy range.
const smallPayload = DefaultCopyRange

// held is a packet that was given to the handler. It is allocated once and never
// reused: a handler may keep it as long as it likes.
type held struct {
	packet.Once
	queue   *queue
	info    packet.Info
	payload []byte
	id      uint32 // the kernel's
	// defaulted is set when the default verdict was issued.
	defaulted atomic.Bool

	// The place in the list of queue.pending, which guards it.
	waits      bool
	prev, next *held

	small [smallPayload]byte // payload, if it fits
	out   [verdictSize]byte  // the verdict's message
}

var (
	_ packet.Packet      = (*held)(nil)
	_ packet.ActionTaker = (*held)(nil)
	_ packet.Issuer      = (*held)(nil)
)

// minHeld is what a held packet keeps in memory at least.
const minHeld = int(unsafe.Sizeof(held{}))

// hold copies what the reader will overwrite.
func hold(q *queue, m *message, i *packet.Info) *held {
	p := &held{queue: q, info: *i, id: m.id}
	if len(m.payload) <= len(p.small) {
		p.payload = p.small[:copy(p.small[:], m.payload)]
	} else {
		p.payload = append([]byte(nil), m.payload...)
	}
	p.Init(p, uint64(m.id))
	return p
}

// size is what the packet keeps in memory.
func (p *held) size() int {
	n := minHeld
	if len(p.payload) > len(p.small) {
		n += len(p.payload)
	}
	return n
}

// Issue implements packet.Issuer for the verdict methods.
func (p *held) Issue(_ uint64, action verdict.Action, route uint8) error {
	if p.defaulted.Load() {
		return packet.ErrAlreadyDecided
	}
	return p.queue.issue(p, action, route)
}

// markDefaulted makes Decided and later verdict methods know of the default
// verdict. It sends nothing.
func (p *held) markDefaulted(action verdict.Action) {
	p.defaulted.Store(true)
	_ = p.Take(action, 0) // an error means that the handler came second
}

// Info implements packet.Packet.
func (p *held) Info() *packet.Info { return &p.info }

// Payload implements packet.Packet: at most Config.CopyRange bytes of it.
func (p *held) Payload() ([]byte, error) {
	if len(p.payload) == 0 {
		return nil, fmt.Errorf("nfq: %w", packet.ErrNoPayload)
	}
	return p.payload, nil
}

// FastTrackedByDriver implements packet.Packet: the kernel does not.
func (p *held) FastTrackedByDriver() bool { return false }

// ExpectsInfo implements packet.Packet: the kernel sends none.
func (p *held) ExpectsInfo() bool { return false }
