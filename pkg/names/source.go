package names

import (
	"errors"
	"fmt"
	"strconv"
)

// Source says who told a name. The zero value is nobody.
type Source uint8

// The sources.
const (
	// Nameserver is a nameserver of our own.
	Nameserver Source = 1
	// Systemd is systemd-resolved.
	Systemd Source = 2
	// ETW is the DNS client service of Windows.
	ETW Source = 3
	// Packet is an answer seen on its way.
	Packet Source = 4

	numSources = 5
)

// ErrUnknownSource is wrapped by errors about a source that does not exist.
var ErrUnknownSource = errors.New("names: unknown source")

// sourceNames is a function, not a variable: nobody can change it.
func sourceNames() [numSources]string {
	return [numSources]string{Nameserver: "nameserver", Systemd: "systemd", ETW: "etw", Packet: "packet"}
}

// String returns "nameserver", "systemd", "etw" or "packet", and "" for the zero value.
func (s Source) String() string {
	if s < numSources {
		return sourceNames()[s]
	}
	return "Source(" + strconv.Itoa(int(s)) + ")"
}

// MarshalText returns String. The error wraps ErrUnknownSource.
func (s Source) MarshalText() ([]byte, error) {
	if s >= numSources {
		return nil, fmt.Errorf("%w %d", ErrUnknownSource, uint8(s))
	}
	return []byte(s.String()), nil
}

// UnmarshalText takes what String returns. The error wraps ErrUnknownSource.
func (s *Source) UnmarshalText(b []byte) error {
	for i, n := range sourceNames() {
		if n == string(b) {
			*s = Source(i)
			return nil
		}
	}
	return fmt.Errorf("%w %q: use nameserver, systemd, etw or packet", ErrUnknownSource, b)
}
