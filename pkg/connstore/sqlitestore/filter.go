package sqlitestore

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// filter is a query's conditions, made for rows. What is about texts was found out once for each distinct one.
type filter struct {
	q            *connstore.Query
	since, until int64
	apps         condition
	names        condition
	reasons      condition
	ways         condition
	// text holds if any of them does, or if the address has it. Most texts cannot be part of an address.
	text struct {
		on                   bool
		apps, names, reasons set
		address              string
	}
	// ids are the numbers of the query; nil is all.
	ids map[conn.ID]struct{}
	// exactly has the fields that are in the row itself.
	exactly map[connstore.Field]string
	remote  netip.Addr
}

// set is one of numbers of a dimension.
type set []bool

func (s set) has(id uint32) bool { return int(id) < len(s) && s[id] }

// condition is that a number is in all of some sets.
type condition []set

func (c condition) holds(id uint32) bool {
	for _, s := range c {
		if !s.has(id) {
			return false
		}
	}
	return true
}

// choose returns the numbers of values for which is holds.
func choose[T comparable](d *dim[T], is func(T) bool) set {
	chosen := make(set, d.last+1)
	var none T
	chosen[0] = is(none)
	for id, v := range d.all {
		if is(v) {
			chosen[id] = true
		}
	}
	return chosen
}

func newFilter(q *connstore.Query, d *dims) *filter {
	f := &filter{q: q, since: connstore.Stamp(q.Since), until: connstore.Stamp(q.Until), exactly: map[connstore.Field]string{}}
	if len(q.IDs) > 0 {
		f.ids = make(map[conn.ID]struct{}, len(q.IDs))
		for _, id := range q.IDs {
			f.ids[id] = struct{}{}
		}
	}
	has := func(part string) func(string) bool {
		part = strings.ToLower(part)
		return func(s string) bool { return strings.Contains(strings.ToLower(s), part) }
	}
	ofApp := func(part string) func(app) bool {
		in := has(part)
		return func(a app) bool { return a != app{} && (in(a.path) || in(a.script)) }
	}
	if q.App != "" {
		f.apps = append(f.apps, choose(&d.apps, ofApp(q.App)))
	}
	if q.Domain != "" {
		in := has(q.Domain)
		f.names = append(f.names, choose(&d.names, func(n name) bool { return in(n.domain) }))
	}
	if q.Rule != "" {
		f.reasons = append(f.reasons, choose(&d.reasons, func(r verdict.Reason) bool { return r.Rule == q.Rule }))
	}
	if len(q.Without) > 0 {
		f.reasons = append(f.reasons, choose(&d.reasons, func(r verdict.Reason) bool { return !slices.Contains(q.Without, r.Code) }))
	}
	if q.Text != "" {
		in := has(q.Text)
		f.text.on = true
		if address := strings.ToLower(q.Text); strings.IndexFunc(address, notInAddresses) < 0 {
			f.text.address = address
		}
		f.text.apps = choose(&d.apps, ofApp(q.Text))
		f.text.names = choose(&d.names, func(n name) bool { return in(n.domain) || slices.ContainsFunc(aliases(n), in) })
		f.text.reasons = choose(&d.reasons, func(r verdict.Reason) bool { return in(r.Rule) })
	}
	for field, value := range q.Exactly {
		f.restrict(d, field, value)
	}
	return f
}

func aliases(n name) (all []string) {
	if n.cnames == "" || json.Unmarshal([]byte(n.cnames), &all) != nil {
		return nil // a broken row has no names to find it by
	}
	return all
}

// restrict adds a condition of Query.Exactly.
func (f *filter) restrict(d *dims, field connstore.Field, value string) {
	switch field {
	case connstore.ByApp:
		f.apps = append(f.apps, choose(&d.apps, func(a app) bool { return connstore.App(a.path, a.script) == value }))
	case connstore.ByDomain:
		f.names = append(f.names, choose(&d.names, func(n name) bool { return n.domain == value }))
	case connstore.ByRule:
		f.reasons = append(f.reasons, choose(&d.reasons, func(r verdict.Reason) bool { return r.Rule == value }))
	case connstore.ByInterface:
		f.ways = append(f.ways, choose(&d.ways, func(w way) bool { return w.iface == value }))
	case connstore.ByAddress:
		// as text, an address must be written as we write it
		if a, err := netip.ParseAddr(value); err == nil && a.String() == value {
			f.remote = a
		} else {
			f.exactly[field] = value
		}
	case connstore.NoField, connstore.ByPort, connstore.ByVerdict, connstore.ByProtocol, connstore.ByDirection:
		f.exactly[field] = value
	}
}

func (f *filter) matches(r *row) bool {
	return f.matchesKind(r) && f.matchesRemote(r) &&
		f.apps.holds(r.app) && f.names.holds(r.name) && f.reasons.holds(r.reason) && f.ways.holds(r.way) &&
		(!f.text.on || f.matchesText(r)) && (len(f.exactly) == 0 || f.matchesExactly(r))
}

func (f *filter) matchesKind(r *row) bool {
	q := f.q
	if _, wanted := f.ids[r.id]; f.ids != nil && !wanted {
		return false
	}
	return (q.Since.IsZero() || r.started >= f.since) && (q.Until.IsZero() || r.started < f.until) &&
		(len(q.Verdicts) == 0 || slices.Contains(q.Verdicts, r.verdict)) &&
		(len(q.Protocols) == 0 || slices.Contains(q.Protocols, r.protocol)) &&
		(q.Kind == connstore.ConnectionsAndQueries || (q.Kind == connstore.OnlyQueries) == r.query) &&
		(q.Direction == connstore.AnyDirection || (q.Direction == connstore.OnlyInbound) == (r.direction == packet.Inbound)) &&
		(q.Life == connstore.LiveAndEnded || (q.Life == connstore.OnlyEnded) == r.ended) &&
		(q.PID == 0 || int(r.pid) == q.PID)
}

func (f *filter) matchesRemote(r *row) bool {
	q := f.q
	return (q.Port == 0 || r.localPort == q.Port || r.remotePort == q.Port) &&
		(!q.Remote.IsValid() || q.Remote.Contains(r.addr())) &&
		(!f.remote.IsValid() || r.addr() == f.remote)
}

func (f *filter) matchesText(r *row) bool {
	return f.text.apps.has(r.app) || f.text.names.has(r.name) || f.text.reasons.has(r.reason) ||
		f.text.address != "" && strings.Contains(r.addr().String(), f.text.address)
}

func notInAddresses(r rune) bool { return !strings.ContainsRune("0123456789abcdef:.", r) }

func (f *filter) matchesExactly(r *row) bool {
	for field, value := range f.exactly {
		if r.value(field) != value {
			return false
		}
	}
	return true
}

func (r *row) addr() netip.Addr {
	a := netip.AddrFrom16(r.remote)
	if r.v4 {
		return a.Unmap()
	}
	return a
}

// value is Field.Of for fields that are in the row.
func (r *row) value(f connstore.Field) string {
	switch f {
	case connstore.ByAddress:
		return r.addr().String()
	case connstore.ByPort:
		return connstore.PortText(r.remotePort)
	case connstore.ByVerdict:
		return r.verdict.String()
	case connstore.ByProtocol:
		return r.protocol.String()
	case connstore.ByDirection:
		return r.direction.String()
	case connstore.NoField, connstore.ByApp, connstore.ByDomain, connstore.ByRule, connstore.ByInterface:
	}
	return ""
}
