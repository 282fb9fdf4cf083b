package splittunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
)

// Wish is what a Policy wants for a connection.
type Wish struct {
	// Use asks for the split tunnel.
	Use bool
	// Interface is the interface to leave by.
	Interface netif.Selector
}

// Policy says which connections shall leave by which interface. Its methods may be called from any goroutine.
type Policy interface {
	// Wish is asked about each accepted outbound connection, on the packet path: it must not block, and should not allocate.
	Wish(s *conn.Snapshot) Wish
	// Interfaces are all that Wish may name now. A wish for another one fails.
	Interfaces() []netif.Selector
}

// Links are the interfaces of this host: a *netif.Watcher or, in tests, a *netif.Feed.
type Links interface {
	Snapshot() *netif.Snapshot
	Subscribe(fn func(*netif.Snapshot)) (unsubscribe func())
}

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("splittunnel: bad configuration")

// Config of a Splitter. New copies it.
type Config struct {
	// Engine is required.
	Engine Engine
	// Links is required, and has to be followed (netif.Watcher.Run) while the Splitter runs.
	Links Links
	// Policy is required. When its answers change, call Splitter.Refresh.
	Policy Policy
	// OnChange is told that connections may have to leave by another way than the one they were given, or can leave again:
	// re-evaluate those that are split, and those that failed for want of their interface. It is called after the engine knows,
	// and calls do not overlap; while one runs, new connections take the newest way already, and several changes become one
	// more call. Optional.
	OnChange func(ctx context.Context)
	// Logger is silent if nil.
	Logger *slog.Logger
}

// Splitter decides which connections leave by an interface of their own. It is a firewall.SplitTunneler. Create it with New.
type Splitter struct {
	cfg Config
	// off is set while the split tunnel is switched off.
	off atomic.Bool
	// plan is what SplitTun answers by.
	plan atomic.Pointer[plan]
	// mu guards the making of plans: there is one at a time, and the engine gets them in order.
	mu sync.Mutex
	// took and refused count connections.
	took, refused atomic.Uint64
}

// New returns a Splitter. Errors wrap ErrConfig.
func New(cfg Config) (*Splitter, error) {
	if cfg.Engine == nil || cfg.Links == nil || cfg.Policy == nil {
		return nil, fmt.Errorf("%w: Engine, Links and Policy are required", ErrConfig)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func(context.Context) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Splitter{cfg: cfg}
	s.plan.Store(&plan{})
	return s, nil
}

// Run runs the engine and follows the interfaces until ctx is done; then it returns nil. It calls ready, if that is not nil, when
// connections can leave by the interfaces that are there. Connections that come earlier fail.
func (s *Splitter) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// An engine takes paths before it runs: so it is ready with them.
	if _, err := s.replan(ctx); err != nil {
		s.cfg.Logger.Warn("prepare paths", "err", err)
	}
	ended := make(chan error, 1)
	up := make(chan struct{})
	go func() { ended <- s.cfg.Engine.Run(ctx, func() { close(up) }) }()
	select {
	case err := <-ended:
		return wrapEngine(s.cfg.Engine, err)
	case <-up:
	}
	changed := make(chan struct{}, 1)
	var telling sync.WaitGroup
	telling.Go(func() { s.tell(ctx, changed) })
	unsubscribe := s.cfg.Links.Subscribe(func(*netif.Snapshot) { s.follow(ctx, changed) })
	s.follow(ctx, changed)
	if ready != nil {
		ready()
	}
	err := <-ended
	unsubscribe()
	cancel()
	telling.Wait()
	return wrapEngine(s.cfg.Engine, err)
}

// tell calls OnChange for what follow sees. Looking at thousands of running connections takes its time, and new ones must not
// be judged by an old plan meanwhile.
func (s *Splitter) tell(ctx context.Context, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			s.cfg.OnChange(ctx)
		}
	}
}

func wrapEngine(e Engine, err error) error {
	if err != nil {
		return fmt.Errorf("split tunnel engine %s: %w", e.Name(), err)
	}
	return nil
}

// follow brings the plan up to date, and marks that anything changed.
func (s *Splitter) follow(ctx context.Context, changed chan<- struct{}) {
	if ctx.Err() != nil {
		return
	}
	did, err := s.replan(ctx)
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("some path of the split tunnel does not work", "err", err)
	}
	if did {
		select {
		case changed <- struct{}{}:
		default: // the next call is about this change, too
		}
	}
}

// Refresh looks at the policy and the interfaces anew, and returns when connections leave by what they say now. It does not call
// OnChange: whoever changed the policy re-evaluates by what changed. The error is that of Engine.Use: some path does not work.
func (s *Splitter) Refresh(ctx context.Context) error {
	_, err := s.replan(ctx)
	return err
}

// Needer is a Policy to which names matter.
type Needer interface {
	// NeedsName reports whether Wish could answer something else if the connection's domain, which is not known, were. The same
	// holds for it as for Wish.
	NeedsName(s *conn.Snapshot) bool
}

// NeedsName implements firewall.NameNeeder.
func (s *Splitter) NeedsName(c *conn.Snapshot) bool {
	n, ok := s.cfg.Policy.(Needer)
	return ok && !s.off.Load() && s.cfg.Engine.Carries(c.Tuple.Protocol) && n.NeedsName(c)
}

// Switch switches the split tunnel on or off. Off, no connection is split. Running connections have to be re-evaluated by whoever
// calls it. It is on at first.
func (s *Splitter) Switch(on Position) { s.off.Store(on == Off) }

// Position is on or off.
type Position uint8

// The positions.
const (
	On Position = iota
	Off
)

// Position returns what Switch was told last.
func (s *Splitter) Position() Position {
	if s.off.Load() {
		return Off
	}
	return On
}

// SplitTun implements firewall.SplitTunneler. The error says, for people, why the connection cannot leave by its interface.
func (s *Splitter) SplitTun(_ context.Context, c *conn.Snapshot) (*conn.SplitTunContext, bool, error) {
	if s.off.Load() || !s.cfg.Engine.Carries(c.Tuple.Protocol) {
		return nil, false, nil
	}
	wish := s.cfg.Policy.Wish(c)
	if !wish.Use {
		return nil, false, nil
	}
	remote := c.Tuple.Remote.Addr()
	w := s.plan.Load().way(wish.Interface, netif.FamilyOf(remote))
	index, attached := s.cfg.Links.Snapshot().Attached(remote)
	if attached && index != w.path.Interface.Index {
		return nil, false, nil // a neighbour on another interface
	}
	route, err := s.take(c.Tuple, w, attached)
	if err != nil {
		s.refused.Add(1)
		return nil, false, err
	}
	s.took.Add(1)
	return w.context(s.cfg.Engine.Name(), route), true, nil
}

// take asks the engine to take a connection by a way, which leads beyond attached networks only with a route there.
func (s *Splitter) take(t packet.Tuple, w *way, attached bool) (route uint8, err error) {
	switch {
	case w.err != nil:
		return 0, w.err
	case !attached && w.path.Default.Index == 0:
		return 0, fmt.Errorf("%w: %s has no default route for %v: configure a gateway there", ErrNotReady, w.path.Interface.Name, w.path.Family)
	}
	return s.cfg.Engine.Take(t, w.path) //nolint:wrapcheck // the text is for people
}

// PathOf returns the path of a connection that is split, and whether it is, by a path that there still is.
func (s *Splitter) PathOf(c *conn.Snapshot) (Path, bool) {
	if c.SplitTun == nil {
		return Path{}, false
	}
	return s.plan.Load().path(netif.FamilyOf(c.Tuple.Remote.Addr()), c.SplitTun)
}

// Active reports whether any connection may be split now.
func (s *Splitter) Active() bool { return !s.off.Load() && len(s.plan.Load().ways) > 0 }

// Stop implements firewall.SplitTunneler.
func (s *Splitter) Stop(t packet.Tuple) { s.cfg.Engine.Stop(t) }

// replan makes the plan anew and reports whether it changed. Paths that are gone are gone for the engine before anybody is told
// about new ones.
func (s *Splitter) replan(ctx context.Context) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, now := s.plan.Load(), newPlan(s.cfg.Policy.Interfaces(), s.cfg.Links.Snapshot())
	if !now.keep(old) {
		return false, nil
	}
	err = s.cfg.Engine.Use(ctx, now.paths())
	s.plan.Store(now)
	return true, err
}

// Selection is what a selector means at this moment.
type Selection struct {
	// Selector is the user's text; empty is the best physical default.
	Selector string `json:"selector"`
	// Family is "IPv4" or "IPv6".
	Family string `json:"family"`
	// Interface, Source and Gateway are set if connections can leave. Gateway is empty on point-to-point interfaces.
	Interface string `json:"interface,omitempty"`
	Source    string `json:"source,omitempty"`
	Gateway   string `json:"gateway,omitempty"`
	// Problem says why they cannot.
	Problem string `json:"problem,omitempty"`
}

// Status is for people and programs.
type Status struct {
	On     bool   `json:"on"`
	Engine string `json:"engine"`
	// Selections are all that the policy names, sorted.
	Selections []Selection `json:"selections"`
	// Took counts decisions for the split tunnel, Refused those that failed. Re-evaluations count, too.
	Took    uint64 `json:"took"`
	Refused uint64 `json:"refused"`
	// Figures are the engine's.
	Figures any `json:"figures,omitempty"`
}

// Status returns how the split tunnel is.
func (s *Splitter) Status() Status {
	return Status{
		On: s.Position() == On, Engine: s.cfg.Engine.Name(), Selections: slices.Clip(s.plan.Load().selections()),
		Took: s.took.Load(), Refused: s.refused.Load(), Figures: s.cfg.Engine.Figures(),
	}
}
