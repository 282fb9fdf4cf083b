package netif

import (
	"net"
	"net/netip"
	"strings"
)

// Choice is an interface with what is needed to send through it.
type Choice struct {
	// Interface is the interface. Its slices are shared: read them only.
	Interface Interface
	// Source is the address to send from: a usable address of the family, on this interface.
	Source netip.Addr
	// Default is the interface's best default route of the family; the zero value if the main table has none, as for an
	// interface whose only default lives in a VPN's own table or that reaches its neighbours only.
	Default DefaultRoute
}

// Pick parses the selector and selects: [ParseSelector], then [Snapshot.Select].
func (s *Snapshot) Pick(selector string, f Family) (Choice, error) {
	sel, err := ParseSelector(selector)
	if err != nil {
		return Choice{}, err
	}
	return s.Select(sel, f)
}

// Select finds the interface that sel means and its source address and default route for the family; the package
// documentation says how. Errors are a [*SelectError]: [ErrNotFound], [ErrDown], [ErrNoAddress], or [ErrBadSelector] if
// the family is neither IPv4 nor IPv6. It never chooses another interface than the one meant.
func (s *Snapshot) Select(sel Selector, f Family) (Choice, error) {
	if f != IPv4 && f != IPv6 {
		return Choice{}, sel.fail(f, ErrBadSelector, "ask for IPv4 or IPv6")
	}
	if sel.IsDefault() {
		return s.selectDefault(sel, f)
	}
	var first error
	for _, i := range s.ifaces {
		if !sel.matches(i) {
			continue
		}
		c, err := s.choose(sel, f, i)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return Choice{}, first
	}
	return Choice{}, sel.fail(f, ErrNotFound, "connect it, or use one of: "+s.names())
}

// choose completes the choice of an interface that matches.
func (s *Snapshot) choose(sel Selector, f Family, i Interface) (Choice, error) {
	if !i.Usable() {
		return Choice{}, sel.fail(f, ErrDown, "switch "+i.Name+" on, or connect it")
	}
	c := Choice{Interface: i}
	for d := range s.Defaults(f) {
		if d.Index == i.Index {
			c.Default = d
			break
		}
	}
	var ok bool
	if c.Source, ok = source(sel, f, i, c.Default); !ok {
		return Choice{}, sel.fail(f, ErrNoAddress, "give "+i.Name+" an address, or do not use "+f.String()+" there")
	}
	return c, nil
}

// source returns the address to send from: the one that the user gave, then the one that the route prefers, then the
// interface's best.
func source(sel Selector, f Family, i Interface, d DefaultRoute) (netip.Addr, bool) {
	for _, want := range [...]netip.Addr{plain(sel.addr), plain(d.Source)} {
		for _, a := range i.Addrs {
			if FamilyOf(want) == f && a.Addr() == want && a.Usable() {
				return want, true
			}
		}
		if want.IsValid() && FamilyOf(want) == f && want == plain(sel.addr) {
			// The user asked for this very address: no other will do.
			return netip.Addr{}, false
		}
	}
	return i.Addr(f)
}

func (s *Snapshot) selectDefault(sel Selector, f Family) (Choice, error) {
	noAddress := ""
	for d := range s.Defaults(f) {
		i := s.ifaces[s.byIndex[d.Index]]
		if !i.Usable() || i.Kind == KindTunnel || i.Kind == KindLoopback {
			continue
		}
		if !d.Gateway.IsValid() && i.Flags&net.FlagPointToPoint == 0 {
			continue
		}
		if src, ok := source(sel, f, i, d); ok {
			return Choice{Interface: i, Source: src, Default: d}, nil
		}
		if noAddress == "" {
			noAddress = i.Name
		}
	}
	if noAddress != "" {
		return Choice{}, sel.fail(f, ErrNoAddress, "give "+noAddress+" an address of this family")
	}
	return Choice{}, sel.fail(f, ErrNotFound,
		"no default route leaves by a connected interface that is no tunnel; connect one, or name one of: "+s.names())
}

func (s Selector) fail(f Family, err error, remedy string) error {
	return &SelectError{Selector: s.text, Family: f, Err: err, Remedy: remedy}
}

// names lists interfaces for an error's remedy; a container host may have thousands.
func (s *Snapshot) names() string {
	const most = 10
	var names []string
	for n, i := range s.ifaces {
		if n == most {
			names = append(names, "...")
			break
		}
		names = append(names, i.Name)
	}
	if names == nil {
		return "(there are none)"
	}
	return strings.Join(names, ", ")
}
