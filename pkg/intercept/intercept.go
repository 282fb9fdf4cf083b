package intercept

import (
	"context"
	"errors"
	"time"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// ErrNotInterceptable is wrapped when a Source cannot intercept on this machine:
// a missing program, right or kernel feature. The message says the remedy.
var ErrNotInterceptable = errors.New("intercept: cannot intercept packets here")

// ErrNotRunning is wrapped when a Source is told something while its Run does not run.
var ErrNotRunning = errors.New("source does not run")

// Source delivers packets of a system.
type Source interface {
	// Run intercepts until ctx is done or interception breaks. It owns its
	// goroutines and returns after they ended and after what it changed on the
	// host was undone (or left closed, if so configured). ready is called once,
	// when packets are being intercepted. Run returns nil when ctx is done.
	//
	// Every packet gets exactly one verdict: from the handler, or the source's
	// default when the handler is too slow or Run ends.
	Run(ctx context.Context, h Handler, ready func()) error
}

// Handler decides about packets. Both methods are called by the source's
// reader threads, several at once, and must not block.
type Handler interface {
	// Lookup says what to do with a packet of a connection that is decided
	// already. ok is false if it is not: then the source calls Handle. Lookup
	// must not keep info and should not allocate.
	Lookup(info *packet.Info) (action verdict.Action, route uint8, ok bool)
	// Handle takes over a packet. The handler must issue a verdict for it, at
	// any time and from any goroutine.
	Handle(p packet.Packet)
}

// Updater is a Source that can change what the kernel remembers about
// connections. Methods may be called from any goroutine while Run runs.
type Updater interface {
	// Update makes the kernel treat the connection by action from now on,
	// instead of what it was told before.
	Update(t packet.Tuple, action verdict.Action, route uint8) error
	// Forget makes the kernel ask again about the connection's next packet.
	Forget(t packet.Tuple) error
	// ForgetAll makes the kernel ask again about every connection that it was
	// told a permanent verdict for.
	ForgetAll() error
}

// Cutter is a Source that can end connections of local programs at once.
type Cutter interface {
	// Cut closes the local socket of the connection with an error. It returns
	// nil if there is none any more.
	Cut(t packet.Tuple) error
}

// Tracker is a Source whose kernel tracks connections.
type Tracker interface {
	// Origin says who opened a connection that the kernel knew before the
	// packet at hand. ok is false if it did not, or knows it only from its middle
	// on. It costs a kernel query.
	Origin(t packet.Tuple) (d packet.Direction, ok bool)
}

// Usage is what was transferred on a connection.
type Usage struct {
	Tuple packet.Tuple
	// ReceivedBytes and SentBytes are what Kind says.
	ReceivedBytes, SentBytes uint64
	Kind                     UsageKind
}

// UsageKind says what the figures of a Usage are. Of one connection there may be several kinds: who keeps the figures takes what is more.
type UsageKind uint8

const (
	// UsageDelta is what was transferred since the last report of this kind.
	UsageDelta UsageKind = iota
	// UsageSum is all since the kernel began to track the connection.
	UsageSum
	// UsageLastSum is the last UsageSum. The connection may go on, and sums begin anew at 0.
	UsageLastSum
)

// End tells that a connection ended.
type End struct {
	Tuple packet.Tuple
	At    time.Time
	// Certain says that At is when it happened, and not when it was noticed: a report about an earlier connection with the same
	// tuple has an At before the later one began.
	Certain bool
	// Aborted says that the host's tracking of connections may not have noticed: what is remembered for the connection has to be
	// forgotten by whoever had it remembered.
	Aborted bool
}

// Measure is what a kernel knows of a connection that it tracks.
type Measure struct {
	// ReceivedBytes and SentBytes are what it has counted, 0 if it does not count.
	ReceivedBytes, SentBytes uint64
	// Left is how long it tracks the connection if nothing more is transferred.
	Left time.Duration
	// Closed tells that a TCP connection is closed, and tracked only for what comes late.
	Closed bool
}

// Meter is a Source whose kernel counts.
type Meter interface {
	// Measure asks the kernel about a connection. found is false if it tracks none such. It costs a kernel query.
	Measure(t packet.Tuple) (m Measure, found bool, err error)
}

// Traffic is a Handler that wants reports about transferred bytes and ended
// connections. Sources that have them call it from any goroutine; it must not
// block or keep the slice.
type Traffic interface {
	// ReportUsage gets figures of one kind. Those who report deltas report an empty list, too, when nothing was transferred: whoever
	// keeps figures need not look for them elsewhere then.
	ReportUsage(u []Usage)
	ReportEnd(e End)
}
