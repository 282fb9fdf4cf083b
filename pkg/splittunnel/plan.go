package splittunnel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netif"
)

// plan says what each selector means for each family. It does not change, apart from what its ways learn.
type plan struct {
	ways map[wayKey]*way
}

type wayKey struct {
	selector netif.Selector
	family   netif.Family
}

// way is one meaning: a path, or the reason why there is none.
type way struct {
	path Path
	err  error
	// ctx is what connections on this way have in common; nil before the first.
	ctx atomic.Pointer[conn.SplitTunContext]
}

// context returns what connections with a route number have in common. It is the same pointer as long as the number is.
func (w *way) context(engine string, route uint8) *conn.SplitTunContext {
	if c := w.ctx.Load(); c != nil && c.Route == route {
		return c
	}
	c := &conn.SplitTunContext{Interface: w.path.Interface.Name, Source: w.path.Source, Engine: engine, Route: route}
	w.ctx.Store(c)
	return c
}

// equal reports whether two ways are the same for connections.
func (w *way) equal(o *way) bool {
	if w.err != nil || o.err != nil {
		return w.err != nil && o.err != nil && w.err.Error() == o.err.Error()
	}
	a, b := &w.path, &o.path
	return a.Family == b.Family && a.Source == b.Source && a.Default == b.Default && a.Interface.Index == b.Interface.Index &&
		a.Interface.Name == b.Interface.Name && slices.Equal(a.Interface.Networks, b.Interface.Networks)
}

func newPlan(selectors []netif.Selector, links *netif.Snapshot) *plan {
	p := &plan{ways: make(map[wayKey]*way, 2*len(selectors))}
	for _, s := range selectors {
		for _, f := range [...]netif.Family{netif.IPv4, netif.IPv6} {
			c, err := links.Select(s, f)
			p.ways[wayKey{s, f}] = &way{path: Path{Family: f, Choice: c}, err: err}
		}
	}
	return p
}

// errUnplanned is a Policy that contradicts itself.
var errUnplanned = errors.New("splittunnel: the policy did not name this interface beforehand")

func (p *plan) way(s netif.Selector, f netif.Family) *way {
	if w := p.ways[wayKey{s, f}]; w != nil {
		return w
	}
	return &way{err: fmt.Errorf("%w: %q", errUnplanned, s)}
}

// keep takes over the ways of an older plan that are the same, with what they learnt, and reports whether anything differs.
func (p *plan) keep(old *plan) (differs bool) {
	differs = len(p.ways) != len(old.ways)
	for k, w := range p.ways {
		if o := old.ways[k]; o != nil && w.equal(o) {
			p.ways[k] = o
		} else {
			differs = true
		}
	}
	return differs
}

// paths returns the paths of all ways, one per interface and family, sorted.
func (p *plan) paths() []Path {
	var paths []Path
	for _, w := range p.ways {
		if w.err == nil {
			paths = append(paths, w.path)
		}
	}
	// several selectors may mean the same interface, with different source addresses
	slices.SortFunc(paths, func(a, b Path) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Interface.Index, b.Interface.Index), a.Source.Compare(b.Source))
	})
	return slices.CompactFunc(paths, func(a, b Path) bool { return a.Family == b.Family && a.Interface.Index == b.Interface.Index })
}

// path returns the path that leaves by an interface with an address.
func (p *plan) path(f netif.Family, c *conn.SplitTunContext) (Path, bool) {
	for k, w := range p.ways {
		if k.family == f && w.err == nil && w.path.Interface.Name == c.Interface && w.path.Source == c.Source {
			return w.path, true
		}
	}
	return Path{}, false
}

func (p *plan) selections() []Selection {
	list := make([]Selection, 0, len(p.ways))
	for k, w := range p.ways {
		s := Selection{Selector: k.selector.String(), Family: k.family.String()}
		switch {
		case w.err != nil:
			s.Problem = w.err.Error()
		default:
			s.Interface, s.Source = w.path.Interface.Name, w.path.Source.String()
			if w.path.Default.Gateway.IsValid() {
				s.Gateway = w.path.Default.Gateway.String()
			}
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Selection) int {
		return cmp.Or(cmp.Compare(a.Selector, b.Selector), cmp.Compare(a.Family, b.Family))
	})
	return list
}
