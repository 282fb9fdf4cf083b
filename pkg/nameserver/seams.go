package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Type is the type of a DNS record, such as 1 for A (RFC 1035 section 3.2.2).
type Type uint16

// String returns the name of the type, or TYPE and its number (RFC 3597).
func (t Type) String() string {
	if s, ok := dns.TypeToString[uint16(t)]; ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// ParseType takes what String returns, in any case. The error wraps ErrType.
func ParseType(s string) (Type, error) {
	name := strings.ToUpper(s)
	if n, ok := dns.StringToType[name]; ok {
		return Type(n), nil
	}
	if digits, ok := strings.CutPrefix(name, "TYPE"); ok {
		if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return Type(n), nil
		}
	}
	return 0, fmt.Errorf("%w %q: write it like AAAA or TYPE65", ErrType, s)
}

// ErrType is wrapped by errors about a type that is not known.
var ErrType = errors.New("nameserver: unknown type of records")

// MarshalText implements encoding.TextMarshaler.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Query is one question of one client.
type Query struct {
	// ID numbers the queries of one Server, from 1.
	ID uint64
	// Client is where it comes from, Server the address of ours that it came to, and Protocol UDP or TCP: what is needed to
	// find the process that asks. A redirected query shows the client's own address and port.
	Client   netip.AddrPort
	Server   netip.AddrPort
	Protocol packet.Protocol
	// Name is in lower case, without the final dot; "." is the root. Bytes that are no printable ASCII are written as \DDD,
	// as in zone files (RFC 1035 section 5.1).
	Name string
	Type Type
	// Time is when it arrived.
	Time time.Time
}

// Answer is what is known about a question. It is shared by all who asked it, and must not be changed.
type Answer struct {
	// RCode is the response code (RFC 1035 section 4.1.1), such as 0 and 3 (NXDOMAIN).
	RCode int
	// Addrs are the addresses in the answer, those of SVCB and HTTPS hints included.
	Addrs []netip.Addr
	// CNAMEs are the names that the asked one stands for, in the order of the chain, at most MaxChain. Names are as in
	// Query.Name.
	CNAMEs []string
	// Targets are the names that SVCB, HTTPS, MX and SRV records refer to.
	Targets []string
	// Upstream is the server that it comes from, as Upstream.String says it; empty for answers of our own.
	Upstream string
}

// MaxChain is how many CNAMEs of an answer are followed. Longer chains, and those that run in circles, are cut there.
const MaxChain = names.MaxChain

// Source says where an answer was taken from.
type Source uint8

// The sources.
const (
	// FromUpstream is an answer that was asked for just now.
	FromUpstream Source = iota
	// FromCache is an answer that has not expired.
	FromCache
	// FromStale is an expired answer, given because no server answered in time (RFC 8767).
	FromStale
	// FromSelf is an answer of our own: blocked names, localhost, the canary domain, Config.Own.
	FromSelf
)

// String returns the source in lower case.
func (s Source) String() string {
	switch s {
	case FromUpstream:
		return "upstream"
	case FromCache:
		return "cache"
	case FromStale:
		return "stale"
	case FromSelf:
		return "self"
	}
	return "source " + strconv.Itoa(int(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reply is an answer as it was given.
type Reply struct {
	// Answer is never nil where there is a reply.
	Answer *Answer
	// TTL is how long the client may keep it.
	TTL time.Duration
	// Source is where it was taken from.
	Source Source
}

// Decider says what happens to queries, before they are answered.
type Decider interface {
	// Decide is asked twice: with a nil Answer before anything is done for the query, and with the answer before that is given,
	// if it has names or addresses, so that the names of a chain can be judged. The second time, Undecided leaves it at
	// what was decided first.
	//
	// Accept and the reroutes let the query be answered; Block is answered as Settings.Blocked says; Drop is not answered. All
	// else is answered with SERVFAIL, and so is a query whose Decide panics. The reason of what refuses is told to the client.
	//
	// It may block, and is called from any goroutine. It must return when ctx ends; what it says then does not count.
	Decide(ctx context.Context, q Query, a *Answer) verdict.Decision
}

// QuickDecider is a Decider that can often tell at once. Queries that it decides at once and that the cache answers need no goroutine
// of their own.
type QuickDecider interface {
	Decider
	// DecideQuick is Decide without waiting; ok is false if it would have to wait. It must not block.
	DecideQuick(q Query, a *Answer) (d verdict.Decision, ok bool)
}

// Record is one query with what became of it: a connection of its own kind.
type Record struct {
	Query    Query
	Decision verdict.Decision
	// Reply is what was answered. Its Answer is nil if nothing was, or not yet.
	Reply Reply
	// Answered is when; zero if nothing was answered, or not yet.
	Answered time.Time
	// Err says why a query that was let through has no good answer. It is nil otherwise.
	Err error
}

// Recorder stores queries.
type Recorder interface {
	// Record is called once for a query that is accepted, when it has been answered; and for all others as soon as they are
	// decided. Those that are answered all the same (verdicts RerouteToNameserver, RerouteToTunnel and RerouteToSplitTun) are
	// recorded again then, with the same Query.ID. It must not block, and is called from any goroutine.
	Record(Record)
}

// Codes of reasons that this package gives. They are stable.
const (
	// CodeNoDecider accepts because there is nobody to ask.
	CodeNoDecider verdict.Code = "dns-no-decider"
	// CodeSelf accepts names that are answered by this host itself.
	CodeSelf verdict.Code = "dns-self"
	// CodeDeciderFailed is of a Decider that panicked or took too long.
	CodeDeciderFailed verdict.Code = "dns-decider-failed"
)

// refuses reports whether a decision keeps a query from being answered.
func refuses(v verdict.Verdict) bool { return !v.Allows() }

// atOnce reports whether a query is recorded before it is answered.
func atOnce(v verdict.Verdict) bool { return v != verdict.Accept }
