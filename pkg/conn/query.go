package conn

import (
	"net/netip"
	"time"
)

// Query is what a DNS query adds to its record: a Snapshot of its own kind, whose Domain is the name that was asked for and whose Remote
// is the server that the process meant to ask. Such a record is no connection: no packet belongs to it, and it is never re-evaluated.
type Query struct {
	// Type is that of the records asked for, such as "AAAA".
	Type string `json:"type"`
	// Answered is when the process got its answer; zero if it got none, or not yet.
	Answered time.Time `json:"answered,omitzero"`
	// RCode is the response code of the answer, such as "NOERROR"; empty without an answer.
	RCode string `json:"rcode,omitempty"`
	// Addresses are in the answer.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Source is where the answer was taken from: "upstream", "cache", "stale" or "self".
	Source string `json:"source,omitempty"`
	// Upstream is the server that gave it, or empty.
	Upstream string `json:"upstream,omitempty"`
	// Error says why a query that was let through has no good answer.
	Error string `json:"error,omitempty"`
}
