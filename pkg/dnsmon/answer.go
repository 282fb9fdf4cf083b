package dnsmon

import (
	"net/netip"
	"strings"
	"time"
)

// Answer is what a resolver told somebody.
type Answer struct {
	// PID is the process that asked, 0 where the resolver does not tell.
	PID int
	// Failure is empty if the name could be resolved, also to nothing; else it says what happened, such as "NXDOMAIN" or
	// "timeout".
	Failure string
	// Asked has the name that was asked for, and after it those that the resolver had to ask for because one name is an alias
	// of the next.
	Asked []string
	// Records of the answer, in its order.
	Records []Record
}

// Record is what a name leads to: an address, or another name.
type Record struct {
	Name string
	// TTL is how long the record holds, 0 if that is not known.
	TTL time.Duration
	// Addr is an address of Name. It is not valid in an alias.
	Addr netip.Addr
	// Target is the name that Name is an alias of, empty in a record with an address.
	Target string
}

// MaxName is the longest domain name in bytes, as it is written without the dot at its end (RFC 1035 section 2.3.4).
const MaxName = 253

// CanonicalName returns a domain name in lower case and without the dot at its end: names are equal if these are (RFC 4343).
// It is empty for the root, and for what is no name because it is too long or ends with an empty label. It allocates only if there is
// something to change.
func CanonicalName(s string) string {
	if rooted(s) {
		s = s[:len(s)-1]
	}
	if s = strings.ToLower(s); len(s) > MaxName || rooted(s) {
		return ""
	}
	return s
}

// rooted reports whether a name ends with the dot of the root. A backslash makes a dot a part of a label (RFC 1035 section 5.1).
func rooted(s string) bool {
	before, ok := strings.CutSuffix(s, ".")
	return ok && (len(before)-len(strings.TrimRight(before, `\`)))%2 == 0
}
