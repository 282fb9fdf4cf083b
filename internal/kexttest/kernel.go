package kexttest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
)

// ErrBusy is returned by Open while a device is open: the share mode is 0.
var ErrBusy = errors.New("kexttest: the device is open already")

// ErrRefused is what the driver answers to what it does not understand.
var ErrRefused = errors.New("kexttest: invalid parameter")

// Packet is what a test sends through a driver.
type Packet struct {
	// Bytes are the packet from its IP header on.
	Bytes []byte
	// Info is of it.
	Info packet.Info
	// PID, ID0 and Flags are for requests of protocol v1.
	PID   uint64
	ID0   bool
	Flags uint8
	// Layer is 3 or 4 if Bytes, or their transport segment, come with an info of protocol v2.
	Layer uint8
}

// Sent is a packet on its way.
type Sent struct {
	done chan struct{}
	fate intercepttest.Fate // set before done is closed

	mu      sync.Mutex // guards what follows
	numbers []int      // verdicts that came for it
	asked   bool
}

// Fate returns what became of the packet. It waits for at most this long.
func (s *Sent) Fate(within time.Duration) intercepttest.Fate {
	select {
	case <-s.done:
		return s.fate
	case <-time.After(within):
		return intercepttest.Lost
	}
}

// Done is closed when the packet has its verdict.
func (s *Sent) Done() <-chan struct{} { return s.done }

// Numbers returns the verdicts that came for the packet, as the driver numbers them.
func (s *Sent) Numbers() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.numbers)
}

// Asked reports whether the client was asked about the packet.
func (s *Sent) Asked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// effect is what a verdict does.
type effect struct {
	fate   intercepttest.Fate
	stored bool
}

// kernel is what drivers of both protocols have in common.
type kernel struct {
	mu       sync.Mutex // guards what follows
	changed  *sync.Cond // something was queued, or the device was closed
	open     bool
	broken   error // what every call answers
	stored   map[packet.Tuple]effect
	waiting  map[uint64]*waiting
	lastID   uint64
	faults   []string
	commands []Command
	queue    []byte // what the client will read
}

type waiting struct {
	sent   *Sent
	packet Packet
}

// Command is what a client did: a write in protocol v2, a control code and its input in v1.
type Command struct {
	Code uint32
	Data []byte
}

func (k *kernel) init() {
	k.changed = sync.NewCond(&k.mu)
	k.stored, k.waiting = map[packet.Tuple]effect{}, map[uint64]*waiting{}
}

func (k *kernel) openDevice() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open {
		return ErrBusy
	}
	k.open, k.queue = true, nil
	return nil
}

func (k *kernel) closeDevice() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open = false
	k.changed.Broadcast()
}

// Break makes every call of the client fail with err, or work again if it is nil.
func (k *kernel) Break(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broken = err
	k.changed.Broadcast()
}

// Faults returns what the client did wrong.
func (k *kernel) Faults() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.faults)
}

// Commands returns what the client did, without reading.
func (k *kernel) Commands() []Command {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.commands)
}

// IsOpen reports whether the device is open.
func (k *kernel) IsOpen() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open
}

// usableLocked says why a call of the client cannot be served.
func (k *kernel) usableLocked() error {
	switch {
	case k.broken != nil:
		return k.broken
	case !k.open:
		return os.ErrClosed
	}
	return nil
}

// send takes a packet in. ask renders the question to the client.
func (k *kernel) send(p Packet, ask func(id uint64) []byte) *Sent {
	s := &Sent{done: make(chan struct{})}
	k.mu.Lock()
	defer k.mu.Unlock()
	if e, ok := k.stored[p.Info.Tuple]; ok {
		s.fate = e.fate
		close(s.done)
		return s
	}
	s.asked = true
	k.lastID++
	id := k.lastID
	if p.ID0 {
		id = 0
	}
	k.waiting[id] = &waiting{sent: s, packet: p}
	k.queueLocked(ask(id))
	return s
}

func (k *kernel) queueLocked(b []byte) {
	k.queue = append(k.queue, b...)
	k.changed.Broadcast()
}

// decideLocked is a verdict on a packet.
func (k *kernel) decideLocked(id uint64, number int, effects map[int]effect) error {
	w := k.waiting[id]
	if w == nil {
		return k.faultLocked("verdict %d on packet %d, which does not wait", number, id)
	}
	w.sent.mu.Lock()
	w.sent.numbers = append(w.sent.numbers, number)
	w.sent.mu.Unlock()
	e, ok := effects[number]
	if !ok {
		return k.faultLocked("verdict %d, which may not be told, on packet %d", number, id)
	}
	delete(k.waiting, id)
	if e.stored {
		k.stored[w.packet.Info.Tuple] = e
	}
	w.sent.fate = e.fate
	close(w.sent.done)
	return nil
}

// updateLocked replaces a stored verdict.
func (k *kernel) updateLocked(t packet.Tuple, number int, effects map[int]effect) error {
	e, ok := effects[number]
	if !ok || !e.stored {
		return k.faultLocked("update of %v to verdict %d", t, number)
	}
	k.stored[t] = e
	return nil
}

func (k *kernel) faultLocked(format string, args ...any) error {
	f := fmt.Sprintf(format, args...)
	k.faults = append(k.faults, f)
	return fmt.Errorf("%w: %s", ErrRefused, f)
}

// Stored reports how the driver decides about a connection by itself.
func (k *kernel) Stored(t packet.Tuple) (intercepttest.Fate, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.stored[t]
	return e.fate, ok
}
