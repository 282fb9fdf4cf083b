package intercepttest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Packet is what a test sends through a Source.
type Packet struct {
	// Info is given to the handler; a zero Seen becomes the time of Send.
	Info packet.Info
	// Payload is the packet from its IP header on; nil makes Payload return an
	// error that wraps packet.ErrNoPayload.
	Payload []byte
	// LoadError, if set, is what Payload returns.
	LoadError error
	// Kind is what a driver says about the packet.
	Kind Kind
}

// Kind is what a driver says about a packet.
type Kind uint8

// The kinds of packets.
const (
	// Plain packets wait for a verdict.
	Plain Kind = iota
	// FastTracked packets were let through by the driver and wait for a verdict
	// on the rest of the connection.
	FastTracked
	// InfoOnly packets take no verdict.
	InfoOnly
	// ExpectsInfo packets wait for a verdict; an InfoOnly one will follow.
	ExpectsInfo
)

// By tells who decided about a packet.
type By uint8

// Who decides.
const (
	// ByNobody is for packets that take no verdict.
	ByNobody By = iota
	// ByHandler is a verdict method of the packet that Handle got.
	ByHandler
	// ByLookup is the handler's Lookup.
	ByLookup
	// ByKernel is an earlier permanent verdict or an Update.
	ByKernel
	// ByTimeout is the default because the handler was too slow.
	ByTimeout
	// ByShutdown is the default because Run ended.
	ByShutdown
	// ByOverflow is a drop because the queue was full.
	ByOverflow
)

// String returns who decided, such as "handler".
func (b By) String() string {
	names := [...]string{"nobody", "handler", "lookup", "kernel", "timeout", "shutdown", "overflow"}
	if int(b) < len(names) {
		return names[b]
	}
	return fmt.Sprintf("By(%d)", uint8(b))
}

// Outcome is what became of a packet.
type Outcome struct {
	Action verdict.Action
	Route  uint8
	By     By
}

// String returns the outcome for people, such as "Accept by handler".
func (o Outcome) String() string { return o.Action.String() + " by " + o.By.String() }

// Result is the fate of a packet that was sent.
type Result struct {
	done    chan struct{}
	outcome Outcome // set before done is closed
	err     error   // set before done is closed

	mu    sync.Mutex // guards loads
	loads int
}

func newResult() *Result { return &Result{done: make(chan struct{})} }

func (r *Result) resolve(o Outcome) {
	r.outcome = o
	close(r.done)
}

func (r *Result) fail(err error) {
	r.err = err
	close(r.done)
}

// Done is closed when the packet has its verdict.
func (r *Result) Done() <-chan struct{} { return r.done }

// Wait waits for the verdict. Errors are those of ctx and ErrNotRunning.
func (r *Result) Wait(ctx context.Context) (Outcome, error) {
	select {
	case <-r.done:
		return r.outcome, r.err
	default: // a verdict counts even if ctx is done as well
	}
	select {
	case <-r.done:
		return r.outcome, r.err
	case <-ctx.Done():
		return Outcome{}, fmt.Errorf("wait for verdict: %w", context.Cause(ctx))
	}
}

// PayloadLoads returns how often the payload was asked for.
func (r *Result) PayloadLoads() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loads
}

// Send puts p into the queue of its direction and returns at once.
func (s *Source) Send(p Packet) *Result {
	r := newResult()
	if p.Info.Seen.IsZero() {
		p.Info.Seen = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ses := s.active
	if ses == nil {
		r.fail(fmt.Errorf("send packet: %w", ErrNotRunning))
		return r
	}
	if m, ok := s.memory[p.Info.Tuple]; ok && p.Kind != InfoOnly {
		r.resolve(Outcome{Action: m.action, Route: m.route, By: ByKernel})
		return r
	}
	s.lastID++
	h := &heldPacket{source: s, session: ses, id: s.lastID, info: p.Info, sent: p, result: r}
	if p.Kind == InfoOnly {
		h.InitInfoOnly()
	} else {
		h.Init(h, h.id)
		ses.waiting[h.id] = h
	}
	select {
	case ses.queues[p.Info.Direction&1] <- h:
	default:
		delete(ses.waiting, h.id)
		r.resolve(Outcome{Action: verdict.ActionDrop, By: ByOverflow})
	}
	return r
}

// heldPacket is a packet on its way through a Source.
type heldPacket struct {
	packet.Once
	source  *Source
	session *session
	id      uint64
	info    packet.Info
	sent    Packet
	result  *Result

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

var (
	_ packet.Packet      = (*heldPacket)(nil)
	_ packet.ActionTaker = (*heldPacket)(nil)
)

// Issue implements packet.Issuer for the verdict methods.
func (p *heldPacket) Issue(_ uint64, action verdict.Action, route uint8) error {
	return p.source.settle(p, Outcome{Action: action, Route: route, By: ByHandler})
}

// decideByDefault issues the default verdict, unless the handler was quicker.
func (p *heldPacket) decideByDefault(by By) {
	o := Outcome{Action: p.source.cfg.Default, By: by}
	if p.source.settle(p, o) == nil {
		_ = p.Take(o.Action, 0) // settled already: this only makes later verdict methods say so
	}
}

func (p *heldPacket) armTimeout(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(d, func() { p.decideByDefault(ByTimeout) })
}

func (p *heldPacket) stopTimeout() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
}

// Info implements packet.Packet.
func (p *heldPacket) Info() *packet.Info { return &p.info }

// Payload implements packet.Packet.
func (p *heldPacket) Payload() ([]byte, error) {
	p.result.mu.Lock()
	p.result.loads++
	p.result.mu.Unlock()
	switch {
	case p.sent.LoadError != nil:
		return nil, fmt.Errorf("load payload: %w", p.sent.LoadError)
	case p.sent.Payload == nil:
		return nil, fmt.Errorf("load payload: %w", packet.ErrNoPayload)
	}
	return p.sent.Payload, nil
}

// FastTrackedByDriver implements packet.Packet.
func (p *heldPacket) FastTrackedByDriver() bool { return p.sent.Kind == FastTracked }

// ExpectsInfo implements packet.Packet.
func (p *heldPacket) ExpectsInfo() bool { return p.sent.Kind == ExpectsInfo }
