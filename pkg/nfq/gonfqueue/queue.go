package gonfqueue

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Netfilter hooks at which packets leave (netfilter.h).
const (
	hookLocalOut  = 3
	hookPostRoute = 4
)

// queue is one call of Run.
type queue struct {
	cfg     Config
	plain   *nfq.Plain
	handler intercept.Handler
	nf      *nfqueue.Nfqueue
	// info and lastID belong to the library's goroutine.
	info   packet.Info
	lastID uint32

	stopping atomic.Bool
	ended    chan struct{} // closed when the last packet has its verdict
	broken   error         // why, if not stopping; set before ended is closed

	// mu guards waiting and closed. It is held while a verdict is sent: whoever
	// takes a packet out of waiting must have sent before finish closes the queue.
	mu      sync.Mutex
	waiting map[uint32]*held
	closed  bool
}

func newQueue(s *Source, h intercept.Handler) *queue {
	return &queue{cfg: s.cfg, plain: s.plain, handler: h, ended: make(chan struct{}), waiting: map[uint32]*held{}}
}

// receive is the library's callback for each packet.
func (q *queue) receive(a nfqueue.Attribute) int {
	if a.PacketID == nil {
		return 0 // nothing that a verdict could name
	}
	q.lastID = *a.PacketID
	if err := q.dispatch(&a); err != nil {
		q.finish(err)
		return 1
	}
	return 0
}

// dispatch decides about a packet, or hands it over. An error means that its
// verdict could not be sent.
func (q *queue) dispatch(a *nfqueue.Attribute) error {
	payload, dir := describe(a, &q.info)
	if err := packet.Decode(payload, dir, &q.info); err != nil {
		return q.send(q.lastID, &q.info, q.cfg.Default, 0)
	}
	if n := int(value(a.CapLen)); n > q.info.Length && q.info.Length == len(payload) {
		q.info.Length = n
	}
	if action, route, ok := q.handler.Lookup(&q.info); ok {
		return q.send(q.lastID, &q.info, action, route)
	}
	p := &held{queue: q, id: q.lastID, info: q.info, payload: payload}
	p.Init(p, uint64(p.id))
	if !q.add(p) {
		return q.send(q.lastID, &q.info, q.cfg.Default, 0)
	}
	q.handler.Handle(p)
	return nil
}

// describe fills what the kernel told beside the packet itself.
func describe(a *nfqueue.Attribute, i *packet.Info) (payload []byte, dir packet.Direction) {
	*i = packet.Info{Mark: value(a.Mark), UID: value(a.UID), HasUID: a.UID != nil, Interface: value(a.InDev), Seen: time.Now()}
	if hook := value(a.Hook); hook == hookLocalOut || hook == hookPostRoute {
		dir, i.Interface = packet.Outbound, value(a.OutDev)
	} else {
		dir = packet.Inbound
	}
	return value(a.Payload), dir
}

// value is what p points to, or zero if the kernel did not say.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// receiveError is the library's callback for errors of its socket; another
// value than 0 ends it.
func (q *queue) receiveError(err error) int {
	switch {
	case q.stopping.Load():
		q.finish(nil)
		return 1
	case errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOENT):
		// Packets were lost; a signal came; a verdict named a packet that the
		// kernel does not have any more, because its interface went away.
		return 0
	}
	q.finish(fmt.Errorf("gonfqueue: queue %d: receive: %w", q.cfg.Queue.NfQueue, err))
	return 1
}

// stop ends the library's goroutine and closes the queue.
func (q *queue) stop() error {
	q.stopping.Store(true)
	// The goroutine may be waiting for a packet.
	err := q.nf.Con.SetReadDeadline(time.Now().Add(-time.Second))
	<-q.ended
	if err := errors.Join(err, q.nf.Close()); err != nil {
		return fmt.Errorf("gonfqueue: queue %d: close: %w", q.cfg.Queue.NfQueue, err)
	}
	return nil
}

// finish decides about everything that still waits, here and in the kernel. It is
// called once, in the library's goroutine, which receives no more packets.
func (q *queue) finish(broken error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, p := range q.waiting {
		broken = errors.Join(broken, q.defaultLocked(p))
	}
	// What was not read. Its number is not known, but it follows the last one
	// that was.
	const farAhead = 1 << 30
	nf, _ := q.plain.Verdict(&packet.Info{}, q.cfg.Default, 0)
	if err := q.nf.SetVerdictBatch(q.lastID+farAhead, nf); err != nil {
		broken = errors.Join(broken, fmt.Errorf("gonfqueue: last verdict: %w", err))
	}
	q.broken = broken
	close(q.ended)
}

// expire gives the default to packets that came before t.
func (q *queue) expire(t time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.waiting {
		if p.info.Seen.Before(t) {
			// An error is of the socket, and the next packet's verdict meets it
			// too; this packet is dropped when the socket closes.
			_ = q.defaultLocked(p) // see above
		}
	}
}

func (q *queue) add(p *held) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= q.cfg.MaxPending {
		return false
	}
	q.waiting[p.id] = p
	return true
}

// defaultLocked issues the default for a packet that waits.
func (q *queue) defaultLocked(p *held) error {
	delete(q.waiting, p.id)
	p.defaulted.Store(true)
	err := q.send(p.id, &p.info, q.cfg.Default, 0)
	_ = p.Take(q.cfg.Default, 0) // for Decided; an error means that the handler came second
	return err
}

// issue sends the handler's verdict for a packet that it was given.
func (q *queue) issue(p *held, action verdict.Action, route uint8) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.waiting[p.id] != p {
		return packet.ErrAlreadyDecided // the timeout or the end of Run was quicker
	}
	delete(q.waiting, p.id)
	return q.send(p.id, &p.info, action, route)
}

// send tells the kernel.
func (q *queue) send(id uint32, i *packet.Info, action verdict.Action, route uint8) error {
	nf, mark := q.plain.Verdict(i, action, route)
	var err error
	if mark == 0 {
		err = q.nf.SetVerdict(id, nf)
	} else {
		err = q.nf.SetVerdictWithOption(id, nf, nfqueue.WithMark(mark))
	}
	if err != nil {
		return fmt.Errorf("gonfqueue: queue %d: send verdict: %w", q.cfg.Queue.NfQueue, err)
	}
	return nil
}

// held is a packet that was given to the handler.
type held struct {
	packet.Once
	queue   *queue
	id      uint32
	info    packet.Info
	payload []byte // a copy that the library made for us
	// defaulted is set when the default verdict was issued.
	defaulted atomic.Bool
}

var (
	_ packet.Packet      = (*held)(nil)
	_ packet.ActionTaker = (*held)(nil)
	_ packet.Issuer      = (*held)(nil)
)

// Issue implements packet.Issuer for the verdict methods.
func (p *held) Issue(_ uint64, action verdict.Action, route uint8) error {
	if p.defaulted.Load() {
		return packet.ErrAlreadyDecided
	}
	return p.queue.issue(p, action, route)
}

// Info implements packet.Packet.
func (p *held) Info() *packet.Info { return &p.info }

// Payload implements packet.Packet: at most the configured MaxPacketLen bytes.
func (p *held) Payload() ([]byte, error) {
	if len(p.payload) == 0 {
		return nil, fmt.Errorf("gonfqueue: %w", packet.ErrNoPayload)
	}
	return p.payload, nil
}

// FastTrackedByDriver implements packet.Packet: the kernel does not.
func (p *held) FastTrackedByDriver() bool { return false }

// ExpectsInfo implements packet.Packet: the kernel sends none.
func (p *held) ExpectsInfo() bool { return false }
