package nfq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Defaults of Config.
const (
	DefaultCopyRange     = 128
	DefaultReceiveBuffer = 64 << 20
	DefaultTimeout       = 30 * time.Second
	DefaultMaxPending    = 4096

	// minCopyRange holds the longest headers that matter: IPv4 with all options
	// and a TCP header, or what an ICMPv6 error quotes.
	minCopyRange = 96
	// WholePacket as Config.CopyRange copies everything.
	WholePacket = 0xffff - attrHeader
	// maxPendingBytes bounds the payloads that wait for a verdict, a queue.
	maxPendingBytes = 4 << 20
)

// Config of a Source. The zero value enforces, with the default ruleset.
type Config struct {
	// Host says how our rules look. Of it only Mode, Marks, Queues and Families
	// count if SkipRuleset is set.
	Host HostConfig
	// SkipRuleset leaves the host's packet filter alone: rules of the caller
	// feed the queues. Verdicts then cannot be changed later: the methods of
	// intercept.Updater return an error that wraps errors.ErrUnsupported.
	SkipRuleset bool
	// ReadQueues are the queues to read with SkipRuleset. Default the four of
	// Host.Queues.
	ReadQueues []uint16
	// Style is StyleRepeat by default. Our own ruleset needs StyleRepeat.
	Style Style
	// CopyRange is how many bytes of each packet are copied, from its IP header
	// on; 96 to WholePacket. Default 128: all headers, no payload to speak of.
	CopyRange int
	// MaxQueueLen is how many packets of one queue may be without a verdict,
	// unread or waiting for the handler, before the kernel drops more. It must be
	// more than MaxPending, or packets that wait would shut out those of decided
	// connections. Default MaxPending and what ReceiveBuffer holds, at most
	// MaxPending and 65535.
	MaxQueueLen int
	// ReceiveBuffer is the size of a queue's socket buffer in bytes, kernel
	// memory that is used in a flood only. Default 64 MiB.
	ReceiveBuffer int
	// MaxPending is how many packets of one queue may wait for the handler's
	// verdict before more get the default. Default 4096, but at most half of
	// MaxQueueLen if that is set.
	MaxPending int
	// Timeout is how long a packet waits for the handler's verdict before it
	// gets the default, which is to drop it in Enforce and to accept it in
	// Observe. It may be up to an eighth, but not more than a second, late.
	// Default 30 s.
	Timeout time.Duration
	// FailOpen makes the kernel accept packets that do not fit into a queue
	// instead of dropping them. Default off.
	FailOpen bool
	// Logger for what does not end in an error. Default silence.
	Logger *slog.Logger
	// OnRepair is called after our rules were put right because other software
	// had changed them; from a goroutine of the Source. Optional.
	OnRepair func()
}

// withDefaults returns c with its defaults filled in. The error wraps
// ErrBadConfig or ErrBadMarks.
func (c Config) withDefaults() (Config, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Host.Logger == nil {
		c.Host.Logger = c.Logger
	}
	host, err := c.Host.withDefaults()
	if err != nil {
		return c, err
	}
	c.Host = host
	setDefault(&c.CopyRange, DefaultCopyRange)
	setDefault(&c.ReceiveBuffer, DefaultReceiveBuffer)
	if c.MaxPending == 0 {
		c.MaxPending = DefaultMaxPending
		if c.MaxQueueLen > 0 {
			c.MaxPending = min(c.MaxPending, max(1, c.MaxQueueLen/2))
		}
	}
	setDefault(&c.Timeout, DefaultTimeout)
	setDefault(&c.MaxQueueLen, c.MaxPending+queueLenFor(c.ReceiveBuffer, c.CopyRange))
	c.ReadQueues = append([]uint16(nil), c.ReadQueues...)
	if !c.SkipRuleset || len(c.ReadQueues) == 0 {
		c.ReadQueues = c.Host.queues()
	}
	return c, c.validate()
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c *Config) validate() error {
	switch {
	case c.CopyRange < minCopyRange || c.CopyRange > WholePacket:
		return fmt.Errorf("%w: copy range %d: use %d to %d", ErrBadConfig, c.CopyRange, minCopyRange, WholePacket)
	case c.ReceiveBuffer < 0 || c.MaxQueueLen < 0 || c.MaxPending < 0 || c.Timeout < 0:
		return fmt.Errorf("%w: a size or time is negative", ErrBadConfig)
	case c.MaxQueueLen <= c.MaxPending:
		return fmt.Errorf("%w: queue length %d: it has to be more than the %d packets that may wait for the handler",
			ErrBadConfig, c.MaxQueueLen, c.MaxPending)
	case c.Style > StylePlain:
		return fmt.Errorf("%w: style %d does not exist", ErrBadConfig, c.Style)
	case c.Style == StylePlain && !c.SkipRuleset:
		return fmt.Errorf("%w: our ruleset needs StyleRepeat", ErrBadConfig)
	}
	seen := make(map[uint16]bool, len(c.ReadQueues))
	for _, n := range c.ReadQueues {
		if seen[n] {
			return fmt.Errorf("%w: queue %d is read twice", ErrBadConfig, n)
		}
		seen[n] = true
	}
	return nil
}

// queues returns the numbers of the queues that the ruleset feeds.
func (c *HostConfig) queues() []uint16 {
	q := c.Queues
	if c.Families == IPv4Only {
		return []uint16{q.Out4, q.In4}
	}
	return []uint16{q.Out4, q.In4, q.Out6, q.In6}
}

// queueLenFor returns how many packets a receive buffer holds: the kernel counts
// the memory of each message, not its length.
func queueLenFor(buffer, copyRange int) int {
	const perMessage = 768
	return max(64, min(buffer/(copyRange+perMessage), 65535))
}

// fallback is the verdict for packets that nobody decides about.
func (c *Config) fallback() verdict.Action {
	if c.Host.Mode == Observe {
		return verdict.ActionAccept
	}
	return verdict.ActionDrop
}

// memory is what the host remembers about connections, for intercept.Updater and
// intercept.Tracker.
type memory interface {
	// update changes the mark of a connection.
	update(t packet.Tuple, mark uint32) error
	// forget and forgetAll make the kernel ask again.
	forget(t packet.Tuple) error
	forgetAll() error
	// origin says who opened a connection that the kernel knows.
	origin(t packet.Tuple) (packet.Direction, bool)
	// measure says what it has counted.
	measure(t packet.Tuple) (intercept.Measure, bool, error)
}

// hostControl is what a Source asks of the host's packet filter and conntrack.
type hostControl interface {
	connections
	memory
	// prepare makes connections known. It comes before the first packet is
	// read, which may belong to a connection that is older than Run.
	prepare() error
	// up, after prepare, loads the rules. When it fails it has undone what both
	// did.
	up(ctx context.Context) error
	// watch keeps the rules in place, and tells the traffic handler about ended
	// connections, until ctx is done.
	watch(ctx context.Context, onRepair func()) error
	// down removes the rules, or leaves them closed.
	down(ctx context.Context) error
	// lostEnds is how often reports about ended connections were lost.
	lostEnds() uint64
	// followCloses says how the ends of TCP connections are told. It may be called at any time.
	followCloses(how Closes) error
	// useNameserver says over which families packets are sent to the nameserver.
	// It may be called at any time.
	useNameserver(over4, over6 bool) error
	// allowRoutes says by which interfaces split routes may leave. It may be
	// called at any time.
	allowRoutes(names map[uint8]string) error
}

// Source reads packets from NFQUEUE. It implements intercept.Source,
// intercept.Updater, intercept.Cutter and intercept.Tracker.
type Source struct {
	cfg     Config
	planner planner
	stats   counters

	routesMu sync.Mutex       // guards routes, and is held while the host is told
	routes   map[uint8]string // see AllowRoutes
	closes   Closes           // see FollowCloses; guarded as routes are
	no4, no6 bool             // see UseNameserver; guarded as routes are

	mu     sync.RWMutex // guards active and drops
	active *session     // nil unless Run runs
	drops  kernelDrops  // of the last Run that ended
}

var (
	_ intercept.Source  = (*Source)(nil)
	_ intercept.Updater = (*Source)(nil)
	_ intercept.Cutter  = (*Source)(nil)
	_ intercept.Tracker = (*Source)(nil)
	_ intercept.Meter   = (*Source)(nil)
)

// New returns a Source that does nothing yet. The error wraps
// errors.ErrUnsupported on systems other than Linux, ErrBadConfig or ErrBadMarks.
func New(cfg Config) (*Source, error) {
	if err := supported("intercept packets with NFQUEUE"); err != nil {
		return nil, err
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, planner: newPlanner(cfg.Host.Marks, cfg.Style)}, nil
}

// Run implements intercept.Source. It works in the network namespace of the
// process; with SkipRuleset, in that of the calling thread. A Source runs once at
// a time, and may run again.
//
// The error wraps intercept.ErrNotInterceptable if the machine, a right or
// another program is in the way, such as ErrQueueTaken. It wraps ErrNamespace,
// too, on a thread that is in another network namespace than its process, unless
// SkipRuleset is set.
func (s *Source) Run(ctx context.Context, h intercept.Handler, ready func()) error {
	if err := ctx.Err(); err != nil {
		return nil //nolint:nilerr // done before it began
	}
	ses, err := s.open(h)
	if err != nil {
		return err
	}
	if err := s.enter(ses); err != nil {
		return errors.Join(err, ses.close())
	}
	defer s.leave(ses)
	return ses.run(ctx, ready)
}

func (s *Source) enter(ses *session) error {
	s.routesMu.Lock()
	defer s.routesMu.Unlock()
	if ses.host != nil {
		if err := errors.Join(ses.host.allowRoutes(s.routes), ses.host.followCloses(s.closes), ses.host.useNameserver(!s.no4, !s.no6)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil {
		return errors.New("nfq: source runs already")
	}
	s.active = ses
	return nil
}

func (s *Source) leave(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active, s.drops = nil, ses.readDrops()
}

// Stats returns what was counted since New.
func (s *Source) Stats() Stats {
	st := s.stats.snapshot()
	s.mu.RLock()
	defer s.mu.RUnlock()
	d := s.drops
	if s.active != nil {
		d = s.active.readDrops()
		st.Waiting = s.active.waiting()
	}
	st.KernelDrops, st.UserDrops, st.LostEnds = d.kernel, d.user, d.ends
	return st
}

// Update implements intercept.Updater. A connection that is accepted, blocked or
// dropped for good is so from its next packet on. Any other action makes the
// kernel ask again: verdicts for one packet because there is no packet, and
// reroutes because only a connection's first packet can be sent elsewhere.
func (s *Source) Update(t packet.Tuple, action verdict.Action, _ uint8) error {
	h, err := s.host()
	if err != nil {
		return fmt.Errorf("update %v: %w", t, err)
	}
	if mark, ok := s.planner.updateMark(t, action); ok {
		return h.update(t, mark)
	}
	return h.forget(t)
}

// AllowRoutes says by which interface each split tunnel route leaves
// (Redirects.RouteSplitTun): names by route number, all of them. Packets of
// split connections never leave by another one, whatever the host's routing
// rules say; without a call they do not leave at all. It holds from the return
// on, and for later calls of Run. It is for the engine that makes the routes,
// and may be called at any time. The error wraps ErrBadConfig if a number is
// above MaxRoute or a name too long.
func (s *Source) AllowRoutes(names map[uint8]string) error {
	for n, name := range names {
		if n > MaxRoute || name == "" || len(name) > maxInterfaceName {
			return fmt.Errorf("%w: split route %d by interface %q", ErrBadConfig, n, name)
		}
	}
	s.routesMu.Lock()
	defer s.routesMu.Unlock()
	s.routes = maps.Clone(names)
	h, err := s.host()
	if err != nil {
		return nil //nolint:nilerr // Run will know
	}
	if err := h.allowRoutes(names); err != nil {
		return fmt.Errorf("allow split routes: %w", err)
	}
	return nil
}

// maxInterfaceName is the length of the longest interface name (IFNAMSIZ - 1).
const maxInterfaceName = 15

// Forget implements intercept.Updater.
func (s *Source) Forget(t packet.Tuple) error {
	h, err := s.host()
	if err != nil {
		return fmt.Errorf("forget %v: %w", t, err)
	}
	return h.forget(t)
}

// ForgetAll implements intercept.Updater.
func (s *Source) ForgetAll() error {
	h, err := s.host()
	if err != nil {
		return fmt.Errorf("forget all: %w", err)
	}
	return h.forgetAll()
}

// Cut implements intercept.Cutter. It looks for the socket where Run intercepts;
// while Run does not run, in the network namespace of the calling thread.
func (s *Source) Cut(t packet.Tuple) error {
	s.mu.RLock()
	ses := s.active
	s.mu.RUnlock()
	if ses != nil && ses.cutter != nil {
		return ses.cutter.cut(t)
	}
	c, err := openCutter()
	if err != nil {
		return fmt.Errorf("cut %v: %w", t, err)
	}
	return errors.Join(c.cut(t), c.close())
}

// Origin implements intercept.Tracker. Without our ruleset, and while Run does
// not run, nothing is known.
func (s *Source) Origin(t packet.Tuple) (packet.Direction, bool) {
	h, err := s.host()
	if err != nil {
		return packet.Outbound, false
	}
	return h.origin(t)
}

// Measure implements intercept.Meter. Without our ruleset, and while Run does not run, the error says so. Bytes are counted of
// connections that began while a Run with an intercept.Traffic for its handler ran, which switches the sysctl nf_conntrack_acct on
// and puts it back at the end.
func (s *Source) Measure(t packet.Tuple) (intercept.Measure, bool, error) {
	h, err := s.host()
	if err != nil {
		return intercept.Measure{}, false, fmt.Errorf("measure %v: %w", t, err)
	}
	return h.measure(t)
}

// Closes says when the end of a TCP connection is told.
type Closes uint8

const (
	// ClosesByTimeout tells it when the kernel forgets the connection, up to two minutes after its last packet. It costs nothing.
	ClosesByTimeout Closes = iota
	// ClosesAtOnce tells it when both sides have closed, too. The kernel sends a message for each change of each connection then,
	// of which all but the last are thrown away unread: some microseconds a connection.
	ClosesAtOnce
)

// FollowCloses says how the ends of TCP connections are told, now and when Run runs again. ClosesByTimeout is what holds before, for
// those that are told about ends by other means.
func (s *Source) FollowCloses(how Closes) error {
	s.routesMu.Lock()
	defer s.routesMu.Unlock()
	s.closes = how
	h, err := s.host()
	if err != nil {
		return nil //nolint:nilerr // Run does not run, or leaves the host alone
	}
	return h.followCloses(how)
}

// UseNameserver says over which address families packets get verdicts that send them to Redirects.Nameserver, now and when Run runs
// again. Without a call it may be both; a program that can switch its nameserver on and off says false while it is off, before the
// verdicts that need it. Rules do not change: it is about what the firewall does for the replies, which is to make exceptions to the
// kill switches of wg-quick while there are any.
func (s *Source) UseNameserver(over4, over6 bool) error { //nolint:revive // says for what
	s.routesMu.Lock()
	defer s.routesMu.Unlock()
	s.no4, s.no6 = !over4, !over6
	h, err := s.host()
	if err != nil {
		return nil //nolint:nilerr // Run does not run, or leaves the host alone
	}
	if err := h.useNameserver(over4, over6); err != nil {
		return fmt.Errorf("exceptions to kill switches: %w", err)
	}
	return nil
}

// host returns what the calls of intercept.Updater go to.
func (s *Source) host() (hostControl, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.active == nil:
		return nil, ErrClosed
	case s.active.host == nil:
		return nil, fmt.Errorf("nfq: verdicts are not remembered without our ruleset: %w", errors.ErrUnsupported)
	}
	return s.active.host, nil
}
