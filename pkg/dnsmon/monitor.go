package dnsmon

import (
	"errors"
	"log/slog"
	"time"
)

// Defaults of Config.
const (
	// DefaultSocket is where systemd-resolved tells what it answers.
	DefaultSocket   = "/run/systemd/resolve/io.systemd.Resolve.Monitor"
	DefaultMinPause = 100 * time.Millisecond
	DefaultMaxPause = 10 * time.Second
)

// Config of a Monitor. New copies it.
type Config struct {
	// Handle gets each answer, in the order of the resolver, from one goroutine. It should not block: what is not read in time is
	// lost when the resolver's buffer is full. It may keep the Answer. Required.
	Handle func(Answer)
	// Socket is the path of the resolver's socket (Linux). Default DefaultSocket.
	Socket string
	// MinPause and MaxPause are between attempts to connect; each in vain doubles the pause. Defaults 100 ms and 10 s.
	MinPause, MaxPause time.Duration
	// Report gets conditions; optional. It must not block.
	Report func(Condition)
	// Logger is silent if nil.
	Logger *slog.Logger
}

// The conditions that a Monitor reports, one at a time.
const (
	// ResolverAbsent: the system has no resolver that could tell, or it does not run.
	ResolverAbsent = "resolver-absent"
	// ResolverRefuses: it does not want to tell.
	ResolverRefuses = "resolver-refuses"
	// ResolverUnknown: it tells in a way that is not understood.
	ResolverUnknown = "resolver-unknown"
)

// Condition is something about the resolver that a person should know.
type Condition struct {
	// ID is one of the constants.
	ID string
	// Text says, for people, what is and what helps.
	Text string
	// Over is true when the condition, reported before, is no longer so.
	Over bool
}

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("dnsmon: bad configuration")

// Stats counts since New.
type Stats struct {
	// Answers were handed over.
	Answers uint64 `json:"answers"`
	// Bad are messages that were not understood.
	Bad uint64 `json:"bad"`
	// Connects is how often the resolver began to tell.
	Connects uint64 `json:"connects"`
	// Connected: it tells now.
	Connected bool `json:"connected"`
}
