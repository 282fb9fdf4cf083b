package names

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/netscope"
)

// Defaults of Config.
const (
	DefaultFloor    = 5 * time.Minute
	DefaultCeiling  = 24 * time.Hour
	DefaultMaxAddrs = 1 << 16
	DefaultMaxNames = 32
)

// Config of a Table. The zero value has the defaults.
type Config struct {
	// Floor is how long a name is kept at least, whatever its TTL. Default 5 minutes.
	Floor time.Duration
	// Ceiling is how long it is kept at most. Default 24 hours.
	Ceiling time.Duration
	// MaxAddrs is how many addresses have names at once. Default 65,536; 64 at least.
	MaxAddrs int
	// MaxNames is how many names one address has at once, those that different processes asked for counted each: the oldest
	// goes. Default 32.
	MaxNames int
}

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("names: bad configuration")

// Asker is who looked a name up: a process. The zero value is nobody in particular: the source does not tell.
type Asker struct {
	PID int `json:"pid"`
	// Start tells processes with the same PID apart, such as the time since boot.
	Start uint64 `json:"start,omitempty"`
}

// Entry is a name of an address.
type Entry struct {
	Domain string `json:"domain"`
	// CNAMEs are the aliases between Domain and the address. They must not be changed.
	CNAMEs []string `json:"cnames,omitempty"`
	Source Source   `json:"source"`
	// Asker is who looked it up.
	Asker Asker `json:"asker,omitzero"`
	// Seen is when it was looked up last.
	Seen    time.Time `json:"seen"`
	Expires time.Time `json:"expires"`
}

// Table maps addresses to names. Create it with New.
type Table struct {
	cfg    Config
	shards [numShards]shard
}

// New returns an empty Table. The error wraps ErrConfig.
func New(cfg Config) (*Table, error) {
	cfg.Floor = cmp.Or(cfg.Floor, DefaultFloor)
	cfg.Ceiling = cmp.Or(cfg.Ceiling, DefaultCeiling)
	cfg.MaxAddrs = cmp.Or(cfg.MaxAddrs, DefaultMaxAddrs)
	cfg.MaxNames = cmp.Or(cfg.MaxNames, DefaultMaxNames)
	if cfg.Floor < 0 || cfg.Ceiling < cfg.Floor || cfg.MaxAddrs < numShards || cfg.MaxNames < 1 {
		return nil, fmt.Errorf("%w: Floor must not be negative nor above Ceiling, MaxAddrs at least %d and MaxNames at least 1",
			ErrConfig, numShards)
	}
	t := &Table{cfg: cfg}
	for i := range t.shards {
		t.shards[i].init(cfg.MaxAddrs / numShards)
	}
	return t, nil
}

// Add notes what somebody looked up, and wakes who waits for it. The same name of an address replaces what is known of it.
func (t *Table) Add(source Source, who Asker, lookups ...Lookup) {
	now := time.Now()
	for _, l := range lookups {
		addr, domain := plain(l.Addr), dnsmon.CanonicalName(l.Domain)
		if domain == "" || !nameable(addr) {
			continue
		}
		keep := min(max(l.TTL, t.cfg.Floor), t.cfg.Ceiling)
		t.shardOf(addr).add(addr, Entry{
			Domain: domain, CNAMEs: canonicalNames(l.CNAMEs), Source: source, Asker: who, Seen: now, Expires: now.Add(keep),
		}, t.cfg.MaxNames)
	}
}

// plain returns an address as connections have it: without a zone, and IPv4 as such.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// nameable reports whether an address can be that of a remote host.
func nameable(a netip.Addr) bool {
	switch netscope.Of(a) {
	case netscope.Link, netscope.Site, netscope.Global:
		return !a.Is4() || a.As4()[0] != 0 // 0.0.0.0/8 is this network (RFC 1122 section 3.2.1.3)
	case netscope.Unknown, netscope.Host, netscope.LocalMulticast, netscope.GlobalMulticast, netscope.Broadcast:
	}
	return false
}

// Find returns the name that an address was looked up by last: by who, else by nobody in particular. It does not allocate.
func (t *Table) Find(a netip.Addr, who Asker) (Entry, bool) {
	a = plain(a)
	return t.shardOf(a).find(a, who, time.Now())
}

// All returns the names of an address, the latest first, of whoever asked.
func (t *Table) All(a netip.Addr) []Entry {
	a = plain(a)
	now := time.Now()
	return slices.DeleteFunc(slices.Clone(t.shardOf(a).all(a)), func(e Entry) bool { return !e.holds(now) })
}

// Addrs returns the addresses that a domain leads to, of whoever asked, in their order. It looks at the whole table: it is for
// people's questions.
func (t *Table) Addrs(domain string) (list []netip.Addr) {
	domain = dnsmon.CanonicalName(domain)
	now := time.Now()
	t.each(func(a netip.Addr, names []Entry) {
		if slices.ContainsFunc(names, func(e Entry) bool { return e.Domain == domain && e.holds(now) }) {
			list = append(list, a)
		}
	})
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// Len returns how many addresses have names, some of which may have expired.
func (t *Table) Len() (n int) {
	t.each(func(netip.Addr, []Entry) { n++ })
	return n
}

func (t *Table) each(f func(netip.Addr, []Entry)) {
	for i := range t.shards {
		for _, r := range t.shards[i].records() {
			f(r.addr, *r.names.Load())
		}
	}
}

func (e *Entry) holds(now time.Time) bool { return now.Before(e.Expires) }
