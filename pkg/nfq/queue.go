package nfq

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// ErrClosed is wrapped when a verdict or an update comes while Run does not
// run. It wraps intercept.ErrNotRunning.
var ErrClosed = fmt.Errorf("nfq: %w", intercept.ErrNotRunning)

// sender sends netlink messages to the kernel. It must be safe for use by
// several goroutines and must not keep b.
type sender interface {
	send(b []byte) error
}

// connections is what a queue asks of the host beside verdicts.
type connections interface {
	// remember makes the kernel treat a connection by mark although its first
	// packet was refused.
	remember(t packet.Tuple, dir packet.Direction, mark uint32, tcpFlags uint8) error
	// setLabel makes the kernel accept a connection from now on.
	setLabel(t packet.Tuple) error
}

// queue decides about the packets of one kernel queue. One reader calls receive
// and flush; decide may be called from any goroutine.
//
// Every packet that the kernel sends gets exactly one verdict: receive is the
// place where it is given, or the packet becomes held and pending, and from then
// on whoever claims it there gives it.
type queue struct {
	number   uint16
	planner  planner
	fallback verdict.Action
	handler  intercept.Handler
	conns    connections // nil without our ruleset
	pending  *pending
	stats    *counters
	// fail ends Run: a packet waits in the kernel whose verdict could not be
	// sent. Closing the socket makes the kernel drop it.
	fail func(error)

	// outMu is held for reading from before a packet is claimed until its verdict
	// is sent, so that finish finds every packet either pending or decided, and
	// nobody writes to the number of a closed socket.
	outMu sync.RWMutex
	out   sender // nil after finish; guarded by outMu

	// What follows belongs to the reader.
	burst  []byte
	labels []packet.Tuple // to set after the burst
	msg    message
	info   packet.Info
	lastID uint32
	// left tells that packets of this burst were left with the handler, settled
	// that it decided about some at once.
	left, settled bool
	local         tally
}

// receive takes one datagram of the kernel. What it decides leaves with flush.
func (q *queue) receive(b []byte, now time.Time) {
	for len(b) > 0 {
		var kind messageKind
		kind, b = parse(b, &q.msg)
		switch kind {
		case messagePacket:
			q.local[statPackets]++
			q.dispatch(now)
		case messageCut:
			q.local[statPackets]++
			q.local[statBadMessages]++
			q.refuse()
		case messageError:
			q.countError(q.msg.errno)
		case messageBad:
			q.local[statBadMessages]++
		case messageOther:
		}
	}
}

// dispatch decides about the packet in q.msg, or hands it over.
func (q *queue) dispatch(now time.Time) {
	q.lastID = q.msg.id
	q.msg.fill(&q.info)
	q.info.Seen = now
	if err := packet.Decode(q.msg.payload, q.msg.direction(), &q.info); err != nil {
		q.local[statUndecodable]++
		q.append(q.planner.plan(&q.info, q.fallback, 0))
		return
	}
	if length := int(q.msg.length); length > q.info.Length && q.info.Length == len(q.msg.payload) {
		q.info.Length = length // a segment so big that its IP header does not tell
	}
	if action, route, ok := q.handler.Lookup(&q.info); ok {
		q.local[statLookups]++
		q.append(q.planner.plan(&q.info, action, route))
		return
	}
	p := hold(q, &q.msg, &q.info)
	if !q.pending.add(p) {
		q.local[statOverflows]++
		q.append(q.planner.plan(&q.info, q.fallback, 0))
		return
	}
	q.local[statHanded]++
	q.handler.Handle(p)
	if q.pending.has(p) {
		q.left = true
	} else {
		q.settled = true
	}
}

// refuse gives the default to a packet whose message cannot be trusted. Its mark
// may not be known, so it is not touched.
func (q *queue) refuse() {
	q.lastID = q.msg.id
	q.append(bare(q.fallback))
}

// append adds a verdict for q.msg to the burst.
func (q *queue) append(p plan) {
	q.remember(p, &q.info)
	if p.label {
		q.labels = append(q.labels, q.info.Tuple)
	}
	q.burst = appendVerdict(q.burst, msgVerdict, q.number, q.msg.id, p.nf, p.mark)
	q.local[statVerdicts]++
}

// flush sends the verdicts of a burst. An error means that packets wait in the
// kernel without a verdict: the queue is broken.
func (q *queue) flush() error {
	if len(q.burst) > 0 {
		q.outMu.RLock()
		err := q.sendLocked(q.burst)
		q.outMu.RUnlock()
		q.burst = q.burst[:0]
		if err != nil {
			return fmt.Errorf("queue %d: send verdicts: %w", q.number, err)
		}
	}
	for _, t := range q.labels {
		q.setLabel(t)
	}
	q.labels = q.labels[:0]
	q.stats.add(&q.local)
	return nil
}

// issue sends the handler's verdict for a packet that it was given. It may be
// called from any goroutine.
func (q *queue) issue(p *held, action verdict.Action, route uint8) error {
	q.outMu.RLock()
	defer q.outMu.RUnlock()
	if !q.pending.claim(p) {
		// The timeout or the end of Run was quicker.
		return packet.ErrAlreadyDecided
	}
	return q.decideLocked(p, action, route)
}

// expire gives the default to packets that came before t.
func (q *queue) expire(t time.Time) error {
	q.outMu.RLock()
	defer q.outMu.RUnlock()
	var errs []error
	for p := q.pending.expired(t); p != nil; p = q.pending.expired(t) {
		q.stats[statTimeouts].Add(1)
		errs = append(errs, q.defaultLocked(p))
	}
	return errors.Join(errs...)
}

// finish decides about everything that still waits, here and in the kernel, and
// lets nobody send any more. The reader must have ended.
func (q *queue) finish() error {
	q.outMu.Lock()
	defer q.outMu.Unlock()
	if q.out == nil {
		return nil
	}
	var errs []error
	for p := q.pending.close(); p != nil; {
		next := p.next
		p.next = nil // who keeps p need not keep the others
		q.stats[statShutdown].Add(1)
		errs = append(errs, q.defaultLocked(p))
		p = next
	}
	// What the reader did not read. Its number is not known, but it follows the
	// last one that was.
	const farAhead = 1 << 30
	rest := appendVerdict(nil, msgVerdictBatch, q.number, q.lastID+farAhead, bare(q.fallback).nf, 0)
	errs = append(errs, q.sendLocked(rest))
	q.out = nil
	return errors.Join(errs...)
}

// defaultLocked issues the default for a packet that was taken out of the
// pending ones.
func (q *queue) defaultLocked(p *held) error {
	err := q.decideLocked(p, q.fallback, 0)
	p.markDefaulted(q.fallback)
	return err
}

// decideLocked sends the verdict for a packet that was claimed.
func (q *queue) decideLocked(p *held, action verdict.Action, route uint8) error {
	pl := q.planner.plan(&p.info, action, route)
	q.remember(pl, &p.info)
	err := q.sendLocked(appendVerdict(p.out[:0], msgVerdict, q.number, p.id, pl.nf, pl.mark))
	if err != nil {
		return fmt.Errorf("queue %d: send verdict: %w", q.number, err)
	}
	q.stats[statVerdicts].Add(1)
	if pl.label {
		q.setLabel(p.info.Tuple)
	}
	return nil
}

func (q *queue) sendLocked(b []byte) error {
	if q.out == nil {
		return ErrClosed
	}
	err := q.out.send(b)
	if err != nil {
		q.fail(err)
	}
	return err
}

// remember creates the entry of a refused connection before the verdict, so that
// the next packet, which the sender may send at once, finds it. Failing costs
// only a question more.
func (q *queue) remember(p plan, i *packet.Info) {
	if p.remember == 0 || q.conns == nil {
		return
	}
	if err := q.conns.remember(i.Tuple, i.Direction, p.remember, i.TCPFlags); err != nil {
		q.stats[statHostErrors].Add(1)
	}
}

// setLabel comes after the verdict: until then the connection may not exist.
func (q *queue) setLabel(t packet.Tuple) {
	if q.conns == nil {
		return
	}
	if err := q.conns.setLabel(t); err != nil {
		q.stats[statHostErrors].Add(1)
	}
}

// countError counts what the kernel says about our verdicts.
func (q *queue) countError(errno uint32) {
	switch errno {
	case 0: // an answer to wake
	case enoent:
		q.local[statUnknownIDs]++
	default:
		q.local[statNetlinkErrors]++
	}
}

// enoent is Linux's number; this file compiles everywhere.
const enoent = 2
