package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
)

var _ splittunnel.Engine = (*Engine)(nil)

// DefaultPendingTime and DefaultMaxPending are the defaults of EngineConfig.
const (
	DefaultPendingTime = 30 * time.Second
	DefaultMaxPending  = 16384
)

// ErrTooMany is wrapped by Engine.Take when EngineConfig.MaxPending connections were announced and none of them has arrived.
var ErrTooMany = errors.New("proxy: too many connections on their way")

// ErrAmbiguous is wrapped by Engine.Take on Windows for a second destination of one client port while the first is in use: what is
// redirected does not tell where it was to go, and must not go to another's destination.
var ErrAmbiguous = errors.New("proxy: the client's port goes elsewhere already")

// EngineConfig configures an Engine.
type EngineConfig struct {
	// Server configures the proxy. Its Director must be nil: the Engine is the Director.
	Server Config
	// Mark is put on the proxy's own packets (SO_MARK), and the packet filter accepts them finally by it. 0 is none.
	Mark uint32
	// PendingTime is how long a connection that Take announced may take to arrive. Optional; 0 is DefaultPendingTime.
	PendingTime time.Duration
	// MaxPending limits the announced connections that have not arrived. Optional; 0 is DefaultMaxPending.
	MaxPending int
	// Known is asked about connections that arrive and were not announced, such as those whose announcement has timed
	// out: it returns the path by which the firewall lets the connection leave. Optional. It must not block.
	Known func(packet.Tuple) (splittunnel.Path, bool)
}

// EngineFigures are the figures of an Engine.
type EngineFigures struct {
	Stats
	Paths   int    `json:"paths"`   // usable now
	Pending int    `json:"pending"` // announced, not arrived
	Expired uint64 `json:"expired"` // announced, and never arrived in time
}

// Engine is a splittunnel.Engine that relays connections. Make it with NewEngine. Its methods may be called from any goroutine.
type Engine struct {
	server *Server
	cfg    EngineConfig

	use sync.Mutex // held by Use, so that calls follow each other

	mu      sync.Mutex // guards what follows
	paths   map[pathKey]splittunnel.Path
	pending pendingTable
	live    map[Request]liveEntry
	clients clientTable //nolint:unused // of Windows
}

// pathKey is what there is at most one path of.
type pathKey struct {
	index  int
	family netif.Family
}

// liveEntry is a request that has sessions. Usually that is one, but the port of a client may begin a new connection before the
// end of the last was told.
type liveEntry struct {
	key      pathKey
	sessions int
	stopped  bool // Stop was called
}

// NewEngine checks the configuration, without opening anything. The error is as for New.
func NewEngine(cfg EngineConfig) (*Engine, error) {
	switch {
	case cfg.Server.Director != nil:
		return nil, errors.New("proxy: engine config: Server.Director must be nil")
	case cfg.PendingTime < 0:
		return nil, fmt.Errorf("proxy: engine config: PendingTime is %v; it must not be negative", cfg.PendingTime)
	case cfg.MaxPending < 0:
		return nil, fmt.Errorf("proxy: engine config: MaxPending is %d; it must not be negative", cfg.MaxPending)
	}
	if cfg.PendingTime == 0 {
		cfg.PendingTime = DefaultPendingTime
	}
	if cfg.MaxPending == 0 {
		cfg.MaxPending = DefaultMaxPending
	}
	e := &Engine{cfg: cfg, paths: map[pathKey]splittunnel.Path{}, live: map[Request]liveEntry{}}
	e.pending.init(cfg.PendingTime, cfg.MaxPending)
	cfg.Server.Director = (*director)(e)
	var err error
	if e.server, err = New(cfg.Server); err != nil {
		return nil, err
	}
	return e, nil
}

// Name implements splittunnel.Engine.
func (e *Engine) Name() string { return "proxy" }

// Carries implements splittunnel.Engine: TCP and UDP.
func (e *Engine) Carries(p packet.Protocol) bool { return p == packet.TCP || p == packet.UDP }

// Run implements splittunnel.Engine. It is Server.Run.
func (e *Engine) Run(ctx context.Context, ready func()) error { return e.server.Run(ctx, ready) }

// Server returns the proxy, for its figures and sessions.
func (e *Engine) Server() *Server { return e.server }

// Use implements splittunnel.Engine. Sessions whose interface is not among the paths, or
// no longer has their source address, are ended. The error
// names the paths that have no index or no address of their family.
func (e *Engine) Use(ctx context.Context, paths []splittunnel.Path) error {
	e.use.Lock()
	defer e.use.Unlock()
	next := make(map[pathKey]splittunnel.Path, len(paths))
	var errs []error
	for _, p := range paths {
		if p.Interface.Index <= 0 || netif.FamilyOf(p.Source) != p.Family || p.Source.Is4In6() {
			errs = append(errs, fmt.Errorf("proxy: %s for %v: no index, or no source address of the family",
				p.Interface.Name, p.Family))
			continue
		}
		next[keyOf(p)] = p
	}
	e.mu.Lock()
	e.paths = next
	e.mu.Unlock()
	_, err := e.server.Cut(ctx, func(_ Request, eg Egress) bool {
		p, ok := next[pathKey{eg.Index, netif.FamilyOf(eg.Source)}]
		return !ok || p.Source != eg.Source && !hasAddress(p.Interface, eg.Source)
	})
	return errors.Join(append(errs, err)...)
}

// hasAddress reports whether a session may keep its address although new ones get another, as with temporary IPv6 addresses.
func hasAddress(i netif.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(i.Addrs, func(have netif.Address) bool { return have.Addr() == a && have.Usable() })
}

func keyOf(p splittunnel.Path) pathKey { return pathKey{p.Interface.Index, p.Family} }

// Take implements splittunnel.Engine. The route is always 0. The error wraps splittunnel.ErrNotReady or ErrTooMany, or says that
// the connection is of a protocol or family that is not carried.
func (e *Engine) Take(t packet.Tuple, p splittunnel.Path) (uint8, error) {
	if !e.Carries(t.Protocol) {
		return 0, fmt.Errorf("proxy: %v is not carried", t.Protocol)
	}
	if netif.FamilyOf(t.Remote.Addr()) != p.Family {
		return 0, fmt.Errorf("proxy: %v does not leave by a path for %v", t.Remote, p.Family)
	}
	if !e.listens(p.Family) {
		return 0, fmt.Errorf("proxy: not listening for %v: %w", p.Family, splittunnel.ErrNotReady)
	}
	r := requestOf(t)
	e.mu.Lock()
	if _, ok := e.paths[keyOf(p)]; !ok {
		e.mu.Unlock()
		return 0, fmt.Errorf("proxy: %s for %v: %w", p.Interface.Name, p.Family, splittunnel.ErrNotReady)
	}
	if err := e.announce(r); err != nil {
		e.mu.Unlock()
		return 0, err
	}
	ok := e.pending.put(r, keyOf(p), time.Now())
	e.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("%w: %d", ErrTooMany, e.cfg.MaxPending)
	}
	if r.Protocol == packet.UDP {
		e.server.Verify(r.Client)
	}
	return 0, nil
}

func (e *Engine) listens(f netif.Family) bool {
	for _, a := range e.server.addrs() {
		if netif.FamilyOf(a.Addr()) == f {
			return true
		}
	}
	return false
}

// Stop implements splittunnel.Engine. TCP sessions are reset.
func (e *Engine) Stop(t packet.Tuple) {
	r := requestOf(t)
	e.mu.Lock()
	e.pending.remove(r)
	entry, live := e.live[r]
	if live {
		entry.stopped = true
		e.live[r] = entry
	}
	e.mu.Unlock()
	if live {
		e.server.Reset(r)
	}
}

// Figures implements splittunnel.Engine: EngineFigures.
func (e *Engine) Figures() any {
	f := EngineFigures{Stats: e.server.Stats()}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending.expire(time.Now())
	f.Paths, f.Pending, f.Expired = len(e.paths), e.pending.len(), e.pending.expired
	return f
}

func requestOf(t packet.Tuple) Request {
	return Request{Protocol: t.Protocol, Client: t.Local, Destination: t.Remote}
}

// director is the side of an Engine that its Server sees.
type director Engine

var _ Keeper = (*director)(nil)

// Direct answers from what Take announced.
func (d *director) Direct(r Request) (Egress, error) {
	d.mu.Lock()
	key, announced := d.pending.find(r, time.Now())
	d.mu.Unlock()
	if !announced && d.cfg.Known != nil {
		// Not under the lock: it is foreign code.
		if p, ok := d.cfg.Known(packet.Tuple{Local: r.Client, Remote: r.Destination, Protocol: r.Protocol}); ok {
			key, announced = keyOf(p), true
		}
	}
	if !announced {
		return Egress{}, ErrUnknown
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.paths[key]
	if !ok {
		return Egress{}, fmt.Errorf("proxy: interface %d for %v: %w", key.index, key.family, splittunnel.ErrNotReady)
	}
	d.pending.remove(r)
	d.live[r] = liveEntry{key: key, sessions: d.live[r].sessions + 1}
	return Egress{Interface: p.Interface.Name, Index: p.Interface.Index, Source: p.Source, Mark: d.cfg.Mark}, nil
}

// Keep lets a session go on unless it was announced anew with another path. That announcement then waits for Direct.
func (d *director) Keep(r Request, e Egress) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	key, announced := d.pending.find(r, time.Now())
	if !announced {
		return true
	}
	if key != (pathKey{e.Index, netif.FamilyOf(e.Source)}) {
		return false
	}
	d.pending.remove(r)
	return true
}

// Done forgets a session. A UDP exchange may go on after a pause, without a new announcement: it stays announced for a while.
func (d *director) Done(r Request, u Usage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	entry := d.live[r]
	if entry.sessions--; entry.sessions > 0 {
		d.live[r] = entry
		return
	}
	delete(d.live, r)
	if r.Protocol == packet.UDP && !entry.stopped && !errors.Is(u.Err, ErrStopped) {
		d.pending.putBack(r, entry.key, time.Now())
	}
}
