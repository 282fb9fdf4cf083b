package firewall

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Mode says what decisions do.
type Mode uint8

const (
	// Enforce carries decisions out. It is the zero value.
	Enforce Mode = iota
	// Observe computes and shows decisions, and accepts what they would block,
	// drop or fail. Reroutes act all the same, also for what it lets pass, and
	// what could not take its way fails: the user asked for them as functions.
	Observe
)

// ProcessFinder finds the process of a connection. An error means unknown;
// Find must not guess. An error with a method Gone() bool that returns true means
// that there was one, which has ended or closed its socket.
type ProcessFinder interface {
	Find(ctx context.Context, i *packet.Info, d packet.Direction) (*conn.Process, error)
}

// QuickFinder is a ProcessFinder that can answer many questions at once. With
// one, and without what may take its time (an external handler, a Tunneler), new
// connections are judged on the packet backend's thread, as long as they are not
// too many.
type QuickFinder interface {
	ProcessFinder
	// FindQuick is Find within some ten microseconds. ok is false if only Find
	// can tell.
	FindQuick(i *packet.Info, d packet.Direction) (p *conn.Process, ok bool)
}

// Name is a domain that an address was looked up by.
type Name struct {
	Domain string
	CNAMEs []string
	// LookedUp is when, if it is not known who looked it up: another name that is looked up at the same time may be the right one.
	// It is zero for a name that the connection's process has looked up.
	LookedUp time.Time
}

// NameFinder finds the domain of a connection's remote address. It may wait up
// to wait for a name that is about to come.
type NameFinder interface {
	FindName(ctx context.Context, s *conn.Snapshot, wait time.Duration) (n Name, ok bool)
}

// PacketObserver looks at the packets of some connections, such as queries for names. It sees them on the packet path and changes
// nothing.
type PacketObserver interface {
	// Observes reports whether it wants to see the packets of an accepted connection. Then no verdict about that is handed to the
	// kernel, which would show the firewall no more of it. It is asked more than once, and must be fast.
	Observes(s *conn.Snapshot) bool
	// Observe sees a packet of such a connection before it passes. It must not block, and must not keep p.
	Observe(s *conn.Snapshot, p packet.Packet)
}

// Inspector decides about each packet of some accepted connections until it has seen enough, such as whether what goes to a nameserver
// is DNS. The kernel decides nothing about them meanwhile.
type Inspector interface {
	// Inspects reports whether a connection that is accepted shall be inspected. It is asked more than once, also about connections
	// that do not exist, and must be fast.
	Inspects(s *conn.Snapshot) bool
	// Inspect decides about one packet, in or out: Accept, Block or Drop; any other verdict fails it. With done, that is the
	// decision about the connection from now on, and no more packets are shown. It must not block, and must not keep p.
	Inspect(s *conn.Snapshot, p packet.Packet) (d verdict.Decision, done bool)
}

// Outcome is a Decider's answer.
type Outcome struct {
	// Decided is false if the Decider has no opinion: the next one is asked.
	Decided bool
	// Decision holds if Decided and Wait is nil: Accept, Block, Drop, Failed or
	// RerouteToNameserver; others fail. Its scope is computed by the firewall.
	Decision verdict.Decision
	// Inspect keeps the verdict out of the kernel: user space sees every
	// packet of the connection.
	Inspect bool
	// NeedsName tells that the domain, which is not known, could change the
	// outcome.
	NeedsName bool
	// Wait, if set, waits for the decision: for a person's answer, say. It is
	// called without holding up anything but this connection, and not in
	// re-evaluation. An error means Failed.
	Wait func(ctx context.Context) (verdict.Decision, error)
	// Hit, if set, is told when the outcome took effect: a connection may be
	// looked at several times before that, and a preview has no effect.
	Hit Hitter
}

// Hitter counts.
type Hitter interface{ Hit() }

// Decider decides about connections: rules, lists, prompts. Decide must not
// block; see Outcome.Wait.
type Decider interface {
	Decide(ctx context.Context, s *conn.Snapshot) Outcome
}

// Tunneler sends connections into a tunnel (verdict RerouteToTunnel).
type Tunneler interface {
	// Tunnel says whether the connection shall go through the tunnel. An error
	// means that it shall, and cannot: the connection fails.
	Tunnel(ctx context.Context, s *conn.Snapshot) (t *conn.TunnelContext, ok bool, err error)
	// Stop ends the connection's tunnel: its verdict is no longer
	// RerouteToTunnel. It must not block or call the Firewall.
	Stop(t packet.Tuple)
}

// SplitTunneler sends connections out by a chosen interface (verdict
// RerouteToSplitTun).
type SplitTunneler interface {
	// SplitTun says whether and how the connection shall leave by its own
	// interface. An error means that it shall, and cannot: the connection
	// fails. It is called on the packet path, and again in re-evaluation: it must
	// not block.
	SplitTun(ctx context.Context, s *conn.Snapshot) (c *conn.SplitTunContext, ok bool, err error)
	// Stop tells that the connection is over, or that its verdict is no longer
	// RerouteToSplitTun. It must not block or call the Firewall.
	Stop(t packet.Tuple)
	// Active reports whether SplitTun would take any connection now. While it
	// would, what could not be judged does not pass, in no mode, and neither does
	// what a program has sent that is gone: nobody can tell any more which way it
	// has to take.
	Active() bool
}

// NameNeeder is a SplitTunneler to which names matter.
type NameNeeder interface {
	// NeedsName reports whether SplitTun could answer something else if the connection's domain, which is not known, were. It must
	// not block.
	NeedsName(s *conn.Snapshot) bool
}

// Host answers questions about this host's addresses, with no blocking.
type Host interface {
	// IsLocalAddr reports whether a is an address of this host.
	IsLocalAddr(a netip.Addr) bool
	// IsAttached reports whether a is in a network that this host is attached
	// to directly.
	IsAttached(a netip.Addr) bool
	// IsBroadcast reports whether a is the broadcast address of such a network.
	IsBroadcast(a netip.Addr) bool
}

// Service is something of ours that listens on this host.
type Service struct {
	Protocol packet.Protocol
	// Addr is where it listens; 0.0.0.0 and :: are every address of this host in
	// their family.
	Addr netip.AddrPort
}

// Condition is something about the firewall that a person should know.
type Condition struct {
	// ID names the kind: "handler-panic", "handler-slow", "handler-verdict",
	// "overload".
	ID string
	// Text is for people.
	Text string
	// Over is true when the condition, raised before, is no longer so.
	Over bool
}

// Defaults of Config.
const (
	DefaultHandlerDeadline = 250 * time.Millisecond
	DefaultNameWait        = 50 * time.Millisecond
	DefaultQueueLength     = 16
	DefaultMaxWaiting      = 4096
	DefaultMaxAsking       = 1024
)

// Config of a Firewall. New copies it.
type Config struct {
	// Store is required.
	Store *connstore.Live
	// Mode is Enforce by default.
	Mode Mode
	// Permanent says whether decisions are handed to the kernel where that is
	// safe.
	Permanent Permanence
	// Processes is optional; without one every process is unknown. If it is an
	// OriginFinder, that is made use of.
	Processes ProcessFinder
	// Names is optional.
	Names NameFinder
	// NameWait is how long a connection may wait for its name where that could
	// change the decision, or the way if SplitTunneler is a NameNeeder. Default 50 ms.
	NameWait time.Duration
	// Observer is optional.
	Observer PacketObserver
	// Inspector is optional. It sees packets before Observer, which sees those that it accepts.
	Inspector Inspector
	// External is optional.
	External *extverdict.Slot
	// HandlerDeadline is how long the external handler may take; then it
	// counts as undecided.
	HandlerDeadline time.Duration
	// Deciders are asked in order.
	Deciders []Decider
	// DefaultOutbound is the verdict where nobody decided; Accept if Undecided.
	DefaultOutbound verdict.Verdict
	// DefaultInbound is the same for inbound connections; Drop if Undecided.
	DefaultInbound verdict.Verdict
	// DefaultLocal stands for DefaultInbound where the connection comes from
	// this host itself; Accept if Undecided.
	DefaultLocal verdict.Verdict
	// Tunneler and SplitTunneler are optional.
	Tunneler      Tunneler
	SplitTunneler SplitTunneler
	// Host is optional; without it only loopback addresses and the packet's own
	// count as this host's.
	Host Host
	// Source is what packets come from. If it is an intercept.Updater, a Cutter
	// or a Tracker, that is made use of. Optional.
	Source any
	// Services are ours: connections between them and this host pass.
	Services []Service
	// OwnEgress tells connections that our own proxies make. It must be fast.
	// Optional.
	OwnEgress func(t packet.Tuple) bool
	// ToNameserver tells outbound DNS connections that our nameserver shall
	// answer. They are ours from then on: no external handler and no decider is
	// asked about them, and they are not re-evaluated. It must be fast.
	// Optional.
	ToNameserver func(s *conn.Snapshot) bool
	// OwnPID is the process whose outbound connections always pass; 0 is this
	// process, negative is none.
	OwnPID int
	// FailedAnswer says what an outbound connection with verdict Failed sees.
	FailedAnswer FailedAnswer
	// OnChange says what happens to a running connection that re-evaluation
	// refuses or reroutes.
	OnChange OnChange
	// Workers that evaluate new connections; default 4 per CPU.
	Workers int
	// QueueLength is how many packets of an undecided connection are kept; more
	// are dropped.
	QueueLength int
	// MaxWaiting is how many connections may wait at once for a handler or a
	// name. More are given up: their packets are dropped (let pass where observe
	// mode can), and the next one begins anew.
	MaxWaiting int
	// MaxAsking is the same for connections that wait for a person, in each
	// direction: a scan of this host's ports takes no room from its own programs.
	MaxAsking int
	// Report gets conditions; optional. It must not block.
	Report func(Condition)
	// Logger is silent if nil.
	Logger *slog.Logger
}

// Permanence says whether the kernel gets to know decisions for good.
type Permanence uint8

const (
	// PermanentWhereSafe lets the kernel decide the rest of a connection.
	PermanentWhereSafe Permanence = iota
	// NeverPermanent shows every packet to user space.
	NeverPermanent
)

// FailedAnswer says what programs notice of a failed connection.
type FailedAnswer uint8

const (
	// FailSilently drops.
	FailSilently FailedAnswer = iota
	// FailLikeBlock answers outbound connections as Block does, so that the
	// program learns at once.
	FailLikeBlock
)

// OnChange says what happens to running connections when policy changes.
type OnChange uint8

const (
	// CutChanged closes the local socket, so that the program learns at once.
	CutChanged OnChange = iota
	// LeaveChanged only changes what the kernel does with its packets. A
	// connection that is still allowed stays on its way: through its tunnel, by
	// its interface, or by neither.
	LeaveChanged
)

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("firewall: bad configuration")

func (c *Config) setDefaults() {
	c.NameWait = cmp.Or(c.NameWait, DefaultNameWait)
	c.HandlerDeadline = cmp.Or(c.HandlerDeadline, DefaultHandlerDeadline)
	c.DefaultOutbound = cmp.Or(c.DefaultOutbound, verdict.Accept)
	c.DefaultInbound = cmp.Or(c.DefaultInbound, verdict.Drop)
	c.DefaultLocal = cmp.Or(c.DefaultLocal, verdict.Accept)
	c.OwnPID = cmp.Or(c.OwnPID, os.Getpid())
	c.Workers = cmp.Or(c.Workers, 4*runtime.GOMAXPROCS(0))
	c.QueueLength = cmp.Or(c.QueueLength, DefaultQueueLength)
	c.MaxWaiting = cmp.Or(c.MaxWaiting, DefaultMaxWaiting)
	c.MaxAsking = cmp.Or(c.MaxAsking, DefaultMaxAsking)
	if c.Report == nil {
		c.Report = func(Condition) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
