package api

import (
	"context"
	"fmt"
)

// Role is what a caller may do.
type Role uint8

// The roles.
const (
	// NoRole may see the page without data in it, and log in.
	NoRole Role = 0
	// ReadOnly may see everything.
	ReadOnly Role = 1
	// ReadWrite may change everything, too.
	ReadWrite Role = 2
)

// String returns "none", "read" or "write".
func (r Role) String() string {
	switch r {
	case NoRole:
		return "none"
	case ReadOnly:
		return "read"
	case ReadWrite:
		return "write"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// MarshalText returns String.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText takes "read" and "write".
func (r *Role) UnmarshalText(text []byte) error {
	for _, known := range []Role{ReadOnly, ReadWrite} {
		if string(text) == known.String() {
			*r = known
			return nil
		}
	}
	return fmt.Errorf("unknown role %q: use read or write", text)
}

// may reports whether the role includes another one.
func (r Role) may(need Role) bool {
	switch need {
	case NoRole:
		return true
	case ReadOnly:
		return r == ReadOnly || r == ReadWrite
	case ReadWrite:
		return r == ReadWrite
	}
	return false
}

// caller is who made a request.
type caller struct {
	role Role
	// via says how the caller is known: socket, token or session.
	via string
	// session is the key of the session, if via is session.
	session string
	limit   *bucket
}

// MayWrite reports whether who made the request of a context may change something.
func MayWrite(ctx context.Context) bool { return callerOf(ctx).role.may(ReadWrite) }

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller) //nolint:errcheck // nobody in particular has no role
	return c
}
