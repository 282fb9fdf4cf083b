package packet

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/verdict"
)

// ErrAlreadyDecided is returned by a verdict method of a packet that has its
// verdict already.
var ErrAlreadyDecided = errors.New("packet: verdict already issued")

// ErrInfoOnlyPacket is returned by every verdict method of a packet that only
// carries information: there is no packet to decide about.
var ErrInfoOnlyPacket = errors.New("packet: info-only packet takes no verdict")

// ErrNoPayload is wrapped when a payload cannot be had.
var ErrNoPayload = errors.New("packet: no payload")

// Verdicter has the ten verdict methods. Exactly one call of one of them
// takes effect; later ones return ErrAlreadyDecided. All may be called from any
// goroutine.
type Verdicter interface {
	// Accept lets this packet through.
	Accept() error
	// Block refuses this packet and answers the sender of TCP and UDP.
	Block() error
	// Drop refuses this packet silently.
	Drop() error
	// PermanentAccept lets the connection through from now on.
	PermanentAccept() error
	// PermanentAcceptFinal is PermanentAccept that later rules of other
	// software cannot override. For our own outbound connections only.
	PermanentAcceptFinal() error
	// PermanentBlock refuses the connection from now on, with an answer.
	PermanentBlock() error
	// PermanentDrop refuses the connection from now on, silently.
	PermanentDrop() error
	// RerouteToNameserver sends the connection to our nameserver.
	RerouteToNameserver() error
	// RerouteToTunnel sends the connection to the tunnel's entry.
	RerouteToTunnel() error
	// RerouteToSplitTun sends the connection out by the interface of its split
	// tunnel route; see Once.SetRoute.
	RerouteToSplitTun() error
}

// Packet is a packet that waits for its verdict. It is the same on every
// system.
type Packet interface {
	Verdicter
	// Info describes the packet. It must not be changed.
	Info() *Info
	// Payload returns the packet from its IP header on. A backend may load it
	// at the first call, and may return less than the whole packet if it was
	// told to copy less. The error wraps ErrNoPayload. The bytes must not be
	// changed.
	Payload() ([]byte, error)
	// FastTrackedByDriver reports that the driver let the packet through
	// already.
	FastTrackedByDriver() bool
	// InfoOnly reports that no packet is behind this: verdict methods return
	// ErrInfoOnlyPacket.
	InfoOnly() bool
	// ExpectsInfo reports that an info-only packet of this connection, which
	// tells its process, is still to come.
	ExpectsInfo() bool
}

// ActionTaker is a Packet that takes an Action as a value. Packets built on
// Once have it.
type ActionTaker interface {
	// Take issues action once. Route is the split tunnel route, 0 for the
	// first; other actions ignore it.
	Take(action verdict.Action, route uint8) error
}

// Apply carries out action on p, by Take where p has it. An action that does
// not exist drops the packet. So does a split tunnel route other than the first
// on a packet without Take, which is an error as well: the packet must not leave
// by another interface.
func Apply(p Packet, action verdict.Action, route uint8) error {
	if action >= verdict.NumActions {
		action = verdict.ActionDrop
	}
	if t, ok := p.(ActionTaker); ok {
		return wrapTake(t.Take(action, route), action)
	}
	if route != 0 && action == verdict.ActionRerouteToSplitTun {
		return errors.Join(fmt.Errorf("packet: %T takes no split tunnel route %d", p, route),
			wrapTake(p.Drop(), verdict.ActionDrop))
	}
	issue := [verdict.NumActions]func(Packet) error{
		verdict.ActionDrop:                 Packet.Drop,
		verdict.ActionBlock:                Packet.Block,
		verdict.ActionAccept:               Packet.Accept,
		verdict.ActionPermanentDrop:        Packet.PermanentDrop,
		verdict.ActionPermanentBlock:       Packet.PermanentBlock,
		verdict.ActionPermanentAccept:      Packet.PermanentAccept,
		verdict.ActionPermanentAcceptFinal: Packet.PermanentAcceptFinal,
		verdict.ActionRerouteToNameserver:  Packet.RerouteToNameserver,
		verdict.ActionRerouteToTunnel:      Packet.RerouteToTunnel,
		verdict.ActionRerouteToSplitTun:    Packet.RerouteToSplitTun,
	}
	return wrapTake(issue[action](p), action)
}

func wrapTake(err error, action verdict.Action) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%v: %w", action, err)
}

// Issuer carries out actions: the one method a backend writes. Issue must be
// safe for use by several goroutines.
type Issuer interface {
	Issue(id uint64, action verdict.Action, route uint8) error
}

// Once implements Verdicter over an Issuer, exactly once per packet. A backend
// embeds it in its packet type and calls Init. It must not be copied.
type Once struct {
	issuer Issuer
	id     uint64
	// state is 0 while undecided, infoOnly, or decided|action.
	state atomic.Uint32
	route atomic.Uint32
}

const (
	onceInfoOnly uint32 = 1 << 30
	onceDecided  uint32 = 1 << 31
)

// errNoIssuer is of a Once without Init, a mistake of the backend.
var errNoIssuer = errors.New("packet: no issuer: Init was not called")

// Init makes o ready for a packet: id is passed to the issuer as it is. A
// backend that reuses its packets calls it again for the next one, when nobody
// holds the last one any more.
func (o *Once) Init(issuer Issuer, id uint64) {
	o.issuer, o.id = issuer, id
	o.route.Store(0)
	o.state.Store(0)
}

// InitInfoOnly makes o answer ErrInfoOnlyPacket to every verdict.
func (o *Once) InitInfoOnly() { o.state.Store(onceInfoOnly) }

// SetRoute chooses the split tunnel route of a later RerouteToSplitTun.
func (o *Once) SetRoute(route uint8) { o.route.Store(uint32(route)) }

// Decided returns the action that was issued, if one was.
func (o *Once) Decided() (verdict.Action, bool) {
	s := o.state.Load()
	return verdict.Action(s), s&onceDecided != 0
}

// Take issues action, unless the packet has its verdict. Errors are
// ErrAlreadyDecided, ErrInfoOnlyPacket and what the issuer returns; after an
// error of the issuer the packet counts as decided.
func (o *Once) Take(action verdict.Action, route uint8) error {
	if action >= verdict.NumActions {
		action = verdict.ActionDrop
	}
	if o.issuer == nil && !o.InfoOnly() {
		return errNoIssuer
	}
	if !o.state.CompareAndSwap(0, onceDecided|uint32(action)) {
		if o.state.Load()&onceInfoOnly != 0 {
			return ErrInfoOnlyPacket
		}
		return ErrAlreadyDecided
	}
	if err := o.issuer.Issue(o.id, action, route); err != nil {
		return fmt.Errorf("issue verdict: %w", err)
	}
	return nil
}

// InfoOnly reports whether InitInfoOnly was called.
func (o *Once) InfoOnly() bool { return o.state.Load()&onceInfoOnly != 0 }

// Accept implements Verdicter.
func (o *Once) Accept() error { return o.Take(verdict.ActionAccept, 0) }

// Block implements Verdicter.
func (o *Once) Block() error { return o.Take(verdict.ActionBlock, 0) }

// Drop implements Verdicter.
func (o *Once) Drop() error { return o.Take(verdict.ActionDrop, 0) }

// PermanentAccept implements Verdicter.
func (o *Once) PermanentAccept() error { return o.Take(verdict.ActionPermanentAccept, 0) }

// PermanentAcceptFinal implements Verdicter.
func (o *Once) PermanentAcceptFinal() error { return o.Take(verdict.ActionPermanentAcceptFinal, 0) }

// PermanentBlock implements Verdicter.
func (o *Once) PermanentBlock() error { return o.Take(verdict.ActionPermanentBlock, 0) }

// PermanentDrop implements Verdicter.
func (o *Once) PermanentDrop() error { return o.Take(verdict.ActionPermanentDrop, 0) }

// RerouteToNameserver implements Verdicter.
func (o *Once) RerouteToNameserver() error { return o.Take(verdict.ActionRerouteToNameserver, 0) }

// RerouteToTunnel implements Verdicter.
func (o *Once) RerouteToTunnel() error { return o.Take(verdict.ActionRerouteToTunnel, 0) }

// RerouteToSplitTun implements Verdicter with the route of SetRoute.
func (o *Once) RerouteToSplitTun() error {
	return o.Take(verdict.ActionRerouteToSplitTun, uint8(o.route.Load()))
}
