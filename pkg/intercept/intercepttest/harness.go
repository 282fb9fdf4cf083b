package intercepttest

import (
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Fate is what can be seen of a packet from outside.
type Fate uint8

const (
	// Lost packets were neither delivered nor refused in the time given.
	Lost Fate = iota
	// Passed packets reached their destination.
	Passed
	// Refused packets did not, and their sender was told.
	Refused
	// Rerouted packets reached somebody else, as the verdict wanted.
	Rerouted
)

// String returns the fate for people.
func (f Fate) String() string {
	switch f {
	case Lost:
		return "lost"
	case Passed:
		return "passed"
	case Refused:
		return "refused"
	case Rerouted:
		return "rerouted"
	}
	return "unknown fate"
}

// Flow is a UDP connection whose packets pass the source under test, when it
// runs.
type Flow interface {
	// Tuple is known before anything is sent.
	Tuple() packet.Tuple
	// Send sends one packet and does not wait for it. A verdict that shows in
	// the sending call is no error.
	Send() error
	// Fate returns what became of the packet that was sent last. It waits for
	// at most this long.
	Fate(within time.Duration) Fate
}

// FlowKind says what flow a test wants.
type FlowKind struct {
	// Version of IP, 4 or 6.
	Version uint8
	// Direction of the packets.
	Direction packet.Direction
}

// Harness is a backend and a way to send real packets through it.
type Harness struct {
	// New returns a source that does not run yet, whose packets wait for the
	// handler no longer than timeout.
	New func(t *testing.T, timeout time.Duration) intercept.Source
	// Flow returns a flow through the source that New returned last. It cleans
	// up when t ends.
	Flow func(t *testing.T, kind FlowKind) Flow
	// Shows says what an action looks like from outside.
	Shows func(action verdict.Action, kind FlowKind) Fate
	// Kinds of flows to test. All the same tests are run for each.
	Kinds []FlowKind
	// Memory says whether the source remembers permanent verdicts. If so, it has
	// to be an intercept.Updater.
	Memory Memory
	// Default is the action for packets that nobody decides about.
	Default verdict.Action
	// DropTime is how long to wait before a packet counts as Lost. Default 200 ms.
	DropTime time.Duration
}

// AllKinds returns flows of both versions of IP in both directions.
func AllKinds() []FlowKind {
	return []FlowKind{
		{4, packet.Outbound}, {4, packet.Inbound},
		{6, packet.Outbound}, {6, packet.Inbound},
	}
}

// String returns the kind for people, such as "IPv4 out".
func (k FlowKind) String() string {
	if k.Version == 6 {
		return "IPv6 " + k.Direction.String()
	}
	return "IPv4 " + k.Direction.String()
}

// Complete is Harness.Shows for a backend that does all ten actions.
func Complete(a verdict.Action, _ FlowKind) Fate {
	switch a.Verdict() {
	case verdict.Accept:
		return Passed
	case verdict.Block:
		return Refused
	case verdict.RerouteToNameserver, verdict.RerouteToTunnel, verdict.RerouteToSplitTun:
		return Rerouted
	case verdict.Undecided, verdict.Undeterminable, verdict.Drop, verdict.Failed:
		return Lost
	}
	return Lost
}
