package verdict

import (
	"errors"
	"fmt"
	"strconv"
)

// Verdict is what is decided about a connection. The zero value, Undecided,
// lets nothing through.
type Verdict uint8

// The verdicts and their fixed numbers.
const (
	// Undecided means that nothing was decided yet.
	Undecided Verdict = 0
	// Undeterminable means that no decision is possible.
	Undeterminable Verdict = 1
	// Accept lets the connection through.
	Accept Verdict = 2
	// Block refuses the connection and tells the sender of TCP and UDP.
	Block Verdict = 3
	// Drop refuses the connection silently.
	Drop Verdict = 4
	// RerouteToNameserver sends a DNS query to our own nameserver.
	RerouteToNameserver Verdict = 5
	// RerouteToTunnel sends the connection into a tunnel.
	RerouteToTunnel Verdict = 6
	// Failed means that deciding, or carrying out the decision, went wrong.
	// It lets nothing through.
	Failed Verdict = 7
	// RerouteToSplitTun sends the connection out by a chosen interface.
	RerouteToSplitTun Verdict = 8
)

// NumVerdicts is the number of verdicts, for tables indexed by Verdict.
const NumVerdicts = 9

// ErrUnknown is wrapped by errors about a verdict that does not exist.
var ErrUnknown = errors.New("verdict: unknown verdict")

var names = [NumVerdicts]string{
	"Undecided", "Undeterminable", "Accept", "Block", "Drop",
	"RerouteToNameserver", "RerouteToTunnel", "Failed", "RerouteToSplitTun",
}

var verbs = [NumVerdicts]string{
	"undecided", "undeterminable", "accepted", "blocked", "dropped",
	"redirected to nameserver", "tunneled", "failed", "split tunneled",
}

// All returns every verdict in the order of their numbers.
func All() []Verdict {
	all := make([]Verdict, NumVerdicts)
	for i := range all {
		all[i] = Verdict(i)
	}
	return all
}

// String returns the name of v, such as "RerouteToSplitTun".
func (v Verdict) String() string {
	if int(v) < len(names) {
		return names[v]
	}
	return "Verdict(" + strconv.Itoa(int(v)) + ")"
}

// Verb returns v in the past tense, for people: "split tunneled".
func (v Verdict) Verb() string {
	if int(v) < len(verbs) {
		return verbs[v]
	}
	return "decided as " + v.String()
}

// Valid reports whether v is one of the nine verdicts.
func (v Verdict) Valid() bool { return int(v) < NumVerdicts }

// Allows reports whether a connection with verdict v gets somewhere: it is
// accepted or rerouted. Counts of allowed connections use it.
func (v Verdict) Allows() bool {
	switch v {
	case Accept, RerouteToNameserver, RerouteToTunnel, RerouteToSplitTun:
		return true
	case Undecided, Undeterminable, Block, Drop, Failed:
		return false
	}
	return false
}

// Refuses reports whether v keeps a connection from happening by decision or
// by failure. Neither Allows nor Refuses holds for Undecided and Undeterminable.
func (v Verdict) Refuses() bool { return v == Block || v == Drop || v == Failed }

// Redirects reports whether v changes the way a connection takes.
func (v Verdict) Redirects() bool {
	return v == RerouteToNameserver || v == RerouteToTunnel || v == RerouteToSplitTun
}

// Parse returns the verdict with the given name or number. The error wraps
// ErrUnknown.
func Parse(s string) (Verdict, error) {
	for i, n := range names {
		if s == n {
			return Verdict(i), nil
		}
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n < NumVerdicts {
		return Verdict(n), nil
	}
	return Undecided, fmt.Errorf("%w %q: use a name such as %q or a number from 0 to %d", ErrUnknown, s, names[Accept], NumVerdicts-1)
}

// MarshalText returns the name of v. The error wraps ErrUnknown.
func (v Verdict) MarshalText() ([]byte, error) {
	if !v.Valid() {
		return nil, fmt.Errorf("%w %d", ErrUnknown, uint8(v))
	}
	return []byte(names[v]), nil
}

// UnmarshalText takes a name or a number; see Parse.
func (v *Verdict) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*v = p
	return nil
}

// UnmarshalJSON takes a JSON string with a name or a number, or a JSON number.
func (v *Verdict) UnmarshalJSON(b []byte) error {
	if len(b) > 1 && b[0] == '"' {
		s, err := strconv.Unquote(string(b))
		if err != nil {
			return fmt.Errorf("%w %s", ErrUnknown, b)
		}
		return v.UnmarshalText([]byte(s))
	}
	return v.UnmarshalText(b)
}

// strictness ranks what may override what when two verdicts meet; higher wins.
// It is a table because the numbers of verdicts have no order.
var strictness = [NumVerdicts]uint8{
	Undecided:           0,
	Undeterminable:      1,
	Accept:              2,
	RerouteToNameserver: 3,
	RerouteToSplitTun:   4,
	RerouteToTunnel:     5,
	Failed:              6,
	Block:               7,
	Drop:                8,
}

// Strictest returns the one of a and b that lets less through. Undecided and
// Undeterminable are no decisions and give way to any; an invalid verdict counts
// as Failed.
func Strictest(a, b Verdict) Verdict {
	if !a.Valid() {
		a = Failed
	}
	if !b.Valid() {
		b = Failed
	}
	if strictness[b] > strictness[a] {
		return b
	}
	return a
}
