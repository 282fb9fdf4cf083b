package names

import (
	"slices"
	"strings"
	"time"

	"net/netip"

	"github.com/weirfw/weir/pkg/dnsmon"
)

// Bounds of Resolve.
const (
	// MaxChain is how many aliases lead from a name to its address at most. Resolvers give up earlier.
	MaxChain = 50
	// maxLookups bounds what one answer adds.
	maxLookups = 1024
)

// Lookup tells that a name leads to an address.
type Lookup struct {
	// Domain is the name that was asked for.
	Domain string
	// CNAMEs are the aliases in between, in order: the last one is the name that has the address.
	CNAMEs []string
	Addr   netip.Addr
	// TTL is the shortest on the way.
	TTL time.Duration
}

// Resolve returns the addresses that the name asked for leads to, by at most MaxChain aliases. A chain that leads back to itself
// is cut there. Records that do not follow from the question are left out: whoever answers must not name addresses that he was
// not asked about.
func Resolve(a *dnsmon.Answer) []Lookup {
	r := resolver{records: make(map[string][]dnsmon.Record, len(a.Records)), seen: make(map[string]bool)}
	for _, rec := range a.Records {
		rec.Name, rec.Target = dnsmon.CanonicalName(rec.Name), dnsmon.CanonicalName(rec.Target)
		r.records[rec.Name] = append(r.records[rec.Name], rec)
	}
	asked := canonicalNames(a.Asked)
	if len(asked) == 0 {
		return nil
	}
	for i, name := range asked[1:] {
		r.records[asked[i]] = append(r.records[asked[i]], dnsmon.Record{Name: asked[i], Target: name})
	}
	starts := asked[:1]
	if len(r.records[asked[0]]) == 0 {
		starts = r.completed(asked[0], a.Records)
	}
	for _, s := range starts {
		r.follow(s)
	}
	return r.found
}

// canonicalNames returns what can be a name, each once.
func canonicalNames(list []string) []string {
	var out []string
	for _, s := range list {
		if s = dnsmon.CanonicalName(s); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

type resolver struct {
	records map[string][]dnsmon.Record
	seen    map[string]bool
	found   []Lookup
}

// completed returns the names that a short one stands for, which the resolver completed by its search domains.
func (r *resolver) completed(short string, records []dnsmon.Record) (full []string) {
	for _, rec := range records {
		name := dnsmon.CanonicalName(rec.Name)
		if strings.HasPrefix(name, short+".") && !slices.Contains(full, name) {
			full = append(full, name)
		}
	}
	return full
}

// place is a name on the way from the first one.
type place struct {
	name string
	path []string
	ttl  time.Duration
}

// follow goes from a name to all its addresses, the nearest first. Each name is looked at once.
func (r *resolver) follow(domain string) {
	for next := []place{{name: domain}}; len(next) > 0; next = next[1:] {
		at := next[0]
		if r.seen[at.name] {
			continue
		}
		r.seen[at.name] = true
		for _, rec := range r.records[at.name] {
			ttl := shorter(at.ttl, rec.TTL)
			switch {
			case rec.Addr.IsValid() && len(r.found) < maxLookups:
				r.found = append(r.found, Lookup{Domain: domain, CNAMEs: at.path, Addr: rec.Addr, TTL: ttl})
			case rec.Target != "" && len(at.path) < MaxChain:
				next = append(next, place{rec.Target, append(slices.Clip(at.path), rec.Target), ttl})
			}
		}
	}
}

// shorter returns the shorter of two times of which 0 is not known.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
