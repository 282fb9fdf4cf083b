package verdict

import (
	"errors"
	"fmt"
	"strconv"
)

// Scope says how long a decision holds in the kernel.
type Scope uint8

const (
	// ScopePacket decides this packet; the next one of the connection is seen
	// by user space again.
	ScopePacket Scope = iota
	// ScopePermanent decides the connection; the kernel applies it from now on.
	ScopePermanent
	// ScopeFinal is ScopePermanent for Accept that other software's later rules
	// cannot override. It is meant for our own outbound connections. With other
	// verdicts it is ScopePermanent.
	ScopeFinal
)

var scopeNames = [...]string{"packet", "permanent", "final"}

// ErrUnknownScope is wrapped by errors about a scope that does not exist.
var ErrUnknownScope = errors.New("verdict: unknown scope")

// String returns "packet", "permanent" or "final".
func (s Scope) String() string {
	if int(s) < len(scopeNames) {
		return scopeNames[s]
	}
	return "Scope(" + strconv.Itoa(int(s)) + ")"
}

// MarshalText returns the name of s. The error wraps ErrUnknownScope.
func (s Scope) MarshalText() ([]byte, error) {
	if int(s) >= len(scopeNames) {
		return nil, fmt.Errorf("%w %d", ErrUnknownScope, uint8(s))
	}
	return []byte(scopeNames[s]), nil
}

// UnmarshalText takes a name that String returns. The error wraps
// ErrUnknownScope.
func (s *Scope) UnmarshalText(b []byte) error {
	for i, n := range scopeNames {
		if n == string(b) {
			*s = Scope(i)
			return nil
		}
	}
	return fmt.Errorf("%w %q: use packet, permanent or final", ErrUnknownScope, b)
}

// Code is a stable, machine-readable reason: lower-case words joined by "-".
// Packages that decide declare their own codes.
type Code string

// Reason says why a decision was taken.
type Reason struct {
	// Code is stable across versions.
	Code Code `json:"code"`
	// Text is for people.
	Text string `json:"text"`
	// Rule is the id of the rule that decided, if one did.
	Rule string `json:"rule,omitempty"`
	// By names the part that decided, such as a decider or an external handler.
	By string `json:"by,omitempty"`
}

// Decision is a verdict with its scope and its reason. The zero value is
// applied as a drop of the packet.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	Scope   Scope   `json:"scope"`
	Reason  Reason  `json:"reason"`
}

// Action returns what a packet backend has to do for d. A verdict that lets
// nothing through, or that does not exist, drops the packet; a scope that does
// not exist is ScopePacket.
func (d Decision) Action() Action {
	permanent := d.Scope == ScopePermanent || d.Scope == ScopeFinal
	switch d.Verdict {
	case Accept:
		switch {
		case d.Scope == ScopeFinal:
			return ActionPermanentAcceptFinal
		case permanent:
			return ActionPermanentAccept
		}
		return ActionAccept
	case Block:
		if permanent {
			return ActionPermanentBlock
		}
		return ActionBlock
	case Drop:
		if permanent {
			return ActionPermanentDrop
		}
		return ActionDrop
	case RerouteToNameserver:
		return ActionRerouteToNameserver
	case RerouteToTunnel:
		return ActionRerouteToTunnel
	case RerouteToSplitTun:
		return ActionRerouteToSplitTun
	case Undecided, Undeterminable, Failed:
		return ActionDrop
	}
	return ActionDrop
}

// Action is one of the ten things a backend can do with a packet. The zero
// value drops it.
type Action uint8

// The ten actions. The three reroutes always hold for the whole connection.
const (
	ActionDrop Action = iota
	ActionBlock
	ActionAccept
	ActionPermanentDrop
	ActionPermanentBlock
	ActionPermanentAccept
	ActionPermanentAcceptFinal
	ActionRerouteToNameserver
	ActionRerouteToTunnel
	ActionRerouteToSplitTun
	// NumActions is the size of a backend's table.
	NumActions = 10
)

var actionNames = [NumActions]string{
	"Drop", "Block", "Accept", "PermanentDrop", "PermanentBlock", "PermanentAccept",
	"PermanentAcceptFinal", "RerouteToNameserver", "RerouteToTunnel", "RerouteToSplitTun",
}

// String returns the name of the packet method that does a, such as
// "PermanentAccept".
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "Action(" + strconv.Itoa(int(a)) + ")"
}

// Verdict returns the verdict that a carries out.
func (a Action) Verdict() Verdict {
	switch a {
	case ActionAccept, ActionPermanentAccept, ActionPermanentAcceptFinal:
		return Accept
	case ActionBlock, ActionPermanentBlock:
		return Block
	case ActionDrop, ActionPermanentDrop:
		return Drop
	case ActionRerouteToNameserver:
		return RerouteToNameserver
	case ActionRerouteToTunnel:
		return RerouteToTunnel
	case ActionRerouteToSplitTun:
		return RerouteToSplitTun
	}
	return Drop
}

// Once returns the action for one packet that does the same as a. A reroute has
// none: it drops.
func (a Action) Once() Action {
	switch a.Verdict() {
	case Accept:
		return ActionAccept
	case Block:
		return ActionBlock
	case Undecided, Undeterminable, Drop, Failed, RerouteToNameserver, RerouteToTunnel, RerouteToSplitTun:
		return ActionDrop
	}
	return ActionDrop
}

// Permanent reports whether the backend decides the rest of the connection
// after a.
func (a Action) Permanent() bool { return a >= ActionPermanentDrop && a < NumActions }
