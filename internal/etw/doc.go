// Package etw reads events of one provider from Event Tracing for Windows as they are raised, in a real-time session of its own.
//
// It knows as much of ETW as it needs to see the DNS client's events: text properties by name, the process that raised the event,
// and when. The library is found by name, so that tests can put another in its place.
//
// On systems other than Windows Run returns an error that wraps errors.ErrUnsupported.
package etw

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
)

// ErrEnded says that the session ended although nobody here asked for it: another program stopped it.
var ErrEnded = errors.New("etw: the session was ended by somebody else")

// ErrRunning is returned by Run while another Run of the same Reader is active.
var ErrRunning = errors.New("etw: already running")

// ErrNotRunning is returned by Flush while Run is not active.
var ErrNotRunning = errors.New("etw: not running")

// DNSClient is Microsoft-Windows-DNS-Client.
const DNSClient = "{1C95126E-7EEA-49A9-A3FE-A378B03DDB4D}"

// Event is one event. It belongs to the function that is given it.
type Event struct {
	// ID is the event's number within its provider.
	ID uint16
	// PID is the process that raised it.
	PID uint32
	// Time is when it was raised.
	Time time.Time
	// Properties are those of Config.Properties, in that order. One that the event does not have, or that cannot be read, is empty.
	Properties []string
}

// Config configures a Reader.
type Config struct {
	// Session is the name of the session. A stale one of that name, which a killed process left, is ended first: it must be
	// nobody else's. Required, at most 100 characters.
	Session string
	// Provider is the provider's GUID, such as DNSClient. Required.
	Provider string
	// Properties are the names of the text properties that events are read for. Required.
	Properties []string
	// Event is called for each event, one after the other, on a thread of Windows: it must not block, and must not call Flush.
	// Required.
	Event func(Event)
	// Library replaces the system's libraries by one with the functions of all: for tests. Optional.
	Library string
}

const maxSession = 100

func (c Config) check() error {
	switch {
	case c.Session == "" || len(c.Session) > maxSession || strings.ContainsRune(c.Session, 0):
		return fmt.Errorf("etw: config: session name %q: use 1 to %d characters", c.Session, maxSession)
	case c.Event == nil:
		return errors.New("etw: config: Event is required")
	case len(c.Properties) == 0:
		return errors.New("etw: config: Properties are required")
	}
	for _, p := range c.Properties {
		if p == "" || strings.ContainsRune(p, 0) {
			return fmt.Errorf("etw: config: %q is no name of a property", p)
		}
	}
	return nil
}

// maxProperty bounds what is read of one property, in bytes. An event has at most 64 KiB.
const maxProperty = 64 << 10

// text reads UTF-16 up to its end or the first zero. Half a character at the end is left out, and half a pair becomes U+FFFD.
func text(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		u := uint16(b[0]) | uint16(b[1])<<8
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// epoch is 1970 in FILETIME: units of 100 ns since 1601.
const epoch = 116444736000000000

// filetime is the time of an event; the zero Time for what is no time.
func filetime(t int64) time.Time {
	if t < epoch {
		return time.Time{}
	}
	t -= epoch
	return time.Unix(t/1e7, t%1e7*100)
}
