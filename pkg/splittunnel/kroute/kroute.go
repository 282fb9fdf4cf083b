package kroute

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// Engine is a splittunnel.Engine by kernel routing. Make one with New.
type Engine struct {
	cfg Config
	// view is what Take answers by; nil while the engine does not run.
	view atomic.Pointer[view]
	// kick has one place: there is something in want that Run has not seen.
	kick chan struct{}

	mu      sync.Mutex // guards what follows
	running bool
	want    []splittunnel.Path
	asked   uint64        // how often want was set
	done    uint64        // the value of asked that the kernel agrees with, as far as it can
	result  error         // what became of it
	changed chan struct{} // closed, and made anew, when done or running changes
}

var _ splittunnel.Engine = (*Engine)(nil)

// New returns an engine that Run will start. Errors wrap ErrConfig, and errors.ErrUnsupported on systems other than Linux.
func New(cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := supported(); err != nil {
		return nil, err
	}
	return &Engine{cfg: cfg, kick: make(chan struct{}, 1), changed: make(chan struct{})}, nil
}

// Name implements splittunnel.Engine.
func (e *Engine) Name() string { return "kroute" }

// Carries implements splittunnel.Engine: TCP, UDP and echo of both families.
func (e *Engine) Carries(p packet.Protocol) bool {
	switch p {
	case packet.TCP, packet.UDP, packet.ICMP, packet.ICMPv6:
		return true
	default:
		return false
	}
}

// Run implements splittunnel.Engine. It works in the network namespace of the calling thread: lock the goroutine to its thread if
// that is not the process's. It takes over what an engine with the same configuration left, without a gap.
//
// Errors wrap ErrInUse if such an engine runs, and ErrTableInUse if one of the tables has routes of others. After an error on the
// way the rules stay, and with them the host closed: call Run again, or Cleanup.
func (e *Engine) Run(ctx context.Context, ready func()) error {
	if !e.setRunning() {
		return fmt.Errorf("%w: Run was called twice", ErrInUse)
	}
	defer e.stopped()
	return e.run(ctx, ready)
}

func (e *Engine) setRunning() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return false
	}
	e.running = true
	return true
}

// stopped ends the waiting of those who wait for Run.
func (e *Engine) stopped() {
	e.view.Store(nil)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = false
	close(e.changed)
	e.changed = make(chan struct{})
}

// Use implements splittunnel.Engine. There may be one path for each interface and family, and Config.MaxRoutes interfaces.
func (e *Engine) Use(ctx context.Context, paths []splittunnel.Path) error {
	if err := checkPaths(paths); err != nil {
		return err
	}
	e.mu.Lock()
	e.want = slices.Clone(paths)
	e.asked++
	mine := e.asked
	e.mu.Unlock()
	select {
	case e.kick <- struct{}{}:
	default: // Run has yet to look
	}
	return e.await(ctx, mine)
}

// await waits until the kernel agrees with the call of Use that has this number, or a later one.
func (e *Engine) await(ctx context.Context, mine uint64) error {
	for {
		e.mu.Lock()
		running, done, result, changed := e.running, e.done, e.result, e.changed
		e.mu.Unlock()
		switch {
		case !running:
			return nil // Run does it when it starts
		case done >= mine:
			return result
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("kroute: wait for the kernel: %w", ctx.Err())
		}
	}
}

// checkPaths refuses what the caller got wrong.
func checkPaths(paths []splittunnel.Path) error {
	seen := make(map[pathKey]bool, len(paths))
	for i := range paths {
		p := &paths[i]
		k := pathKey{p.Interface.Name, p.Family}
		switch {
		case p.Family != netif.IPv4 && p.Family != netif.IPv6:
			return fmt.Errorf("%w: a path has %v; use IPv4 or IPv6", ErrConfig, p.Family)
		case p.Interface.Name == "" || p.Interface.Index <= 0:
			return fmt.Errorf("%w: a path has no interface; take it from a netif.Snapshot", ErrConfig)
		case seen[k]:
			return fmt.Errorf("%w: two paths for %v by %s", ErrConfig, k.family, k.name)
		}
		seen[k] = true
	}
	return nil
}

// pathKey is what tells paths apart.
type pathKey struct {
	name   string
	family netif.Family
}

// view is an immutable picture of the paths.
type view struct {
	paths   map[pathKey]*entry
	figures Figures
}

// entry is what Take has to know about a path.
type entry struct {
	number uint8
	index  int
	err    error // why the path cannot be used; nil if it can
	// Without a default route only the networks are reached; beyond is the error for all others.
	beyond   error
	networks []netip.Prefix
}

// errStopped is the answer while the engine does not run.
var errStopped = fmt.Errorf("%w: the engine is not running", splittunnel.ErrNotReady)

// Take implements splittunnel.Engine. It takes no lock, and allocates only for paths that were never given to Use.
func (e *Engine) Take(t packet.Tuple, p splittunnel.Path) (route uint8, err error) {
	v := e.view.Load()
	if v == nil {
		return 0, errStopped
	}
	en := v.paths[pathKey{p.Interface.Name, p.Family}]
	switch {
	case en == nil:
		return 0, fmt.Errorf("%w: %s is not set up for %v", splittunnel.ErrNotReady, p.Interface.Name, p.Family)
	case en.index != p.Interface.Index:
		return 0, fmt.Errorf("%w: %s is another interface than before and being set up anew", splittunnel.ErrNotReady, p.Interface.Name)
	case en.err != nil:
		return 0, en.err
	case netif.FamilyOf(t.Remote.Addr()) != p.Family:
		return 0, fmt.Errorf("%w: the path is for %v, the connection is not", splittunnel.ErrNotReady, p.Family)
	case en.beyond != nil && !contains(en.networks, t.Remote.Addr()):
		return 0, en.beyond
	}
	return en.number, nil
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// Stop implements splittunnel.Engine. The kernel knows by itself when connections end: there is nothing to do.
func (e *Engine) Stop(packet.Tuple) {}

// Figures of an Engine.
type Figures struct {
	// Running says whether Run is active; without it there are no routes here.
	Running bool `json:"running"`
	// Repairs counts how often somebody else's changes were undone since Run began, in rules, tables and the sysctl.
	Repairs uint64 `json:"repairs"`
	// Problem is what else does not work, for people; empty if all is well.
	Problem string `json:"problem,omitempty"`
	// Routes are those with a number, by number.
	Routes []RouteFigures `json:"routes"`
}

// RouteFigures are about the route by one interface.
type RouteFigures struct {
	Number uint8 `json:"number"`
	// Interface has the number; empty if it was taken over from an engine that left no trace of it.
	Interface string `json:"interface"`
	Table     uint32 `json:"table"`
	Mark      uint32 `json:"mark"`
	// IPv4 and IPv6 say whether connections of the family can leave.
	IPv4 bool `json:"ipv4_ready"`
	IPv6 bool `json:"ipv6_ready"`
	// Problems say why not, for the families that are wanted.
	Problems []string `json:"problems,omitempty"`
	// Repairs counts the rules and routes of this number that were put back since Run began.
	Repairs uint64 `json:"repairs"`
}

// Figures implements splittunnel.Engine. It returns a Figures.
func (e *Engine) Figures() any {
	if v := e.view.Load(); v != nil {
		f := v.figures
		f.Routes = slices.Clone(f.Routes)
		return f
	}
	return Figures{Routes: []RouteFigures{}}
}
