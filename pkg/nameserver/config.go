package nameserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
)

// ErrConfig is wrapped by the errors of New and Configure about what they were given.
var ErrConfig = errors.New("nameserver: bad configuration")

// Port is the port of DNS.
const Port = 53

// Canary is the domain by which networks tell browsers not to use a DNS over HTTPS of their own.
const Canary = "use-application-dns.net"

// Defaults of Config and Settings.
const (
	DefaultCacheBytes    = 80 << 20
	DefaultMaxQueries    = 4096
	DefaultMaxTCP        = 512
	DefaultTCPIdle       = 10 * time.Second
	DefaultTimeout       = 4 * time.Second
	DefaultFailoverAfter = 300 * time.Millisecond
	DefaultBlockTTL      = time.Second
	DefaultMaxTTL        = 24 * time.Hour
	DefaultMaxNegative   = time.Hour
	maxListen            = 16
	maxUpstreams         = 64
)

// Config is what does not change while a Server lives.
type Config struct {
	// Listen are the addresses to listen on, by UDP and TCP. They must be exact: an answer sent from an unspecified address
	// would come from another one than was asked. IPv6 addresses are left out on hosts without IPv6. Optional; the default
	// is DefaultListen.
	Listen []netip.AddrPort
	// Settings are those to begin with; see Server.Configure. Optional; without upstreams the Server is disabled.
	Settings Settings
	// Decider says what happens to queries. Optional; without it all are accepted.
	Decider Decider
	// Recorder stores queries. Optional.
	Recorder Recorder
	// OnAnswer is told of each reply that has addresses or names and was let through, also those from the cache, before the
	// client gets it: whoever learns names from it knows them before the client can connect. It must not block, and is called
	// from any goroutine. Optional.
	OnAnswer func(Query, Reply)
	// OnListen is told where the Server listens, whenever that changes; an empty list is nowhere. The first query is answered
	// after it returned. Optional.
	OnListen func(addrs []netip.AddrPort)
	// Own answers queries that this program answers itself, such as those of a self-check, before any Decider is asked. An
	// empty list is a name without addresses of that type. It must not block. Optional.
	Own func(Query) (addrs []netip.Addr, ok bool)
	// Announce is told of each socket that asks an upstream server, after it has its local port and before it sends: a
	// firewall can let it through then. An error keeps the socket from being used. Optional.
	Announce func(p packet.Protocol, localPort uint16) error
	// Withdraw is told when such a socket is about to be closed, or could not be connected: its port may be anybody's from then
	// on. Optional.
	Withdraw func(p packet.Protocol, localPort uint16)
	// IsLocal reports whether an address is this host's, for Settings.AnyClient. Optional; the default asks the system, and
	// again after 5 s.
	IsLocal func(netip.Addr) bool
	// IsServer reports whether a client is the very program that answers at an upstream server's address, which is one of this
	// host's: what that program asks, redirected here, would go round. It may wait until ctx is done. Optional; without it, such
	// a circle is not noticed, and ends with Settings.Timeout.
	IsServer func(ctx context.Context, q Query, u Upstream) bool
	// HostName is the name of this host, which is answered with what HostAddrs returns; by default that is the loopback
	// addresses. Optional.
	HostName  string
	HostAddrs func() []netip.Addr
	// RootCAs are the authorities that certificates of servers must be signed by. Optional; nil is the system's.
	RootCAs *x509.CertPool
	// CacheBytes bounds the memory of the cache. Optional; 0 is DefaultCacheBytes, which is enough for 100,000 names; less
	// than 0 is no cache.
	CacheBytes int64
	// MaxQueries bounds the queries that wait for a Decider or a server. Further ones are answered with SERVFAIL. Optional;
	// 0 is DefaultMaxQueries.
	MaxQueries int
	// MaxTCP bounds the TCP connections of clients. Optional; 0 is DefaultMaxTCP.
	MaxTCP int
	// TCPIdle is how long a client's connection may carry nothing. Optional; 0 is DefaultTCPIdle.
	TCPIdle time.Duration
	// States gets what is wrong with upstream servers, and what to do about it. Optional.
	States *module.States
	// Log gets what is worth knowing and has no other place. Optional; nil is silence.
	Log *slog.Logger
}

// Settings may change while a Server runs, by Server.Configure.
type Settings struct {
	// Upstreams are asked in this order, the later ones when earlier ones do not answer. None disables the Server.
	Upstreams []Upstream
	// Routes are domains with servers of their own. Optional.
	Routes []Route
	// Blocked is how blocked names are answered.
	Blocked BlockedAnswer
	// BlockTTL is how long clients may keep such an answer. Optional; 0 is DefaultBlockTTL.
	BlockTTL time.Duration
	// RefuseCanary answers the domain Canary with NXDOMAIN, so that browsers use this server.
	RefuseCanary bool
	// RebindProtection removes addresses of this host, this link and this site from what servers with global addresses answer,
	// unless they are asked because of a Route: web pages of others could reach into the local network by them.
	RebindProtection bool
	// RebindAllow are domains, with all below them, that RebindProtection spares. Optional.
	RebindAllow []string
	// StaleFor is how long expired answers are kept for when no server answers (RFC 8767). Optional; 0 is not at all.
	StaleFor time.Duration
	// AnyClient also answers clients that are not this host.
	AnyClient bool
	// Timeout is how long servers may take for a query, all tries together; the Decider may take as long, once for the question
	// and once for the answer. Optional; 0 is DefaultTimeout.
	Timeout time.Duration
	// FailoverAfter is how long a server may take before the next one is asked, too. Optional; 0 is DefaultFailoverAfter.
	FailoverAfter time.Duration
	// MaxTTL bounds how long answers are kept, MaxNegative the same for answers that say that there is nothing. Optional; 0 is
	// DefaultMaxTTL and DefaultMaxNegative.
	MaxTTL, MaxNegative time.Duration
}

// Route gives domains, with all names below them, servers of their own. No other server is ever asked about those.
type Route struct {
	Domains   []string
	Upstreams []Upstream
}

// BlockedAnswer is how blocked names are answered.
type BlockedAnswer uint8

const (
	// BlockedNXDOMAIN says that the name does not exist.
	BlockedNXDOMAIN BlockedAnswer = iota
	// BlockedSinkhole answers 0.0.0.17 and ::17, which the firewall blocks at once, and says that there is nothing else.
	BlockedSinkhole
)

// SinkholeV4 and SinkholeV6 are the addresses of blocked names.
var (
	SinkholeV4 = netip.AddrFrom4([4]byte{0, 0, 0, 17})
	SinkholeV6 = netip.AddrFrom16([16]byte{15: 0x17})
)

// DefaultListen returns the addresses listened on unless the configuration says otherwise: those that the packet backend redirects
// queries to. On Windows the driver chooses 127.0.0.1.
func DefaultListen() []netip.AddrPort {
	v4 := netip.AddrFrom4([4]byte{127, 0, 0, 17})
	if runtime.GOOS == "windows" {
		v4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return []netip.AddrPort{netip.AddrPortFrom(v4, Port), netip.AddrPortFrom(netip.IPv6Loopback(), Port)}
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
}

// complete checks c and returns it with its defaults.
func (c Config) complete() (Config, error) {
	if len(c.Listen) == 0 {
		c.Listen = DefaultListen()
	}
	if len(c.Listen) > maxListen {
		return c, bad("%d addresses to listen on; at most %d are possible", len(c.Listen), maxListen)
	}
	c.Listen = slices.Clone(c.Listen)
	for i, a := range c.Listen {
		switch ip := a.Addr(); {
		case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Is4In6():
			return c, bad("listen address %v: it must be an exact address", a)
		case slices.Contains(c.Listen[:i], a) && a.Port() != 0:
			return c, bad("listen address %v: given twice", a)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.MaxQueries < 0 || c.MaxTCP < 0 || c.TCPIdle < 0 {
		return c, bad("MaxQueries, MaxTCP and TCPIdle must not be negative")
	}
	c.MaxQueries = or(c.MaxQueries, DefaultMaxQueries)
	c.MaxTCP = or(c.MaxTCP, DefaultMaxTCP)
	c.TCPIdle = or(c.TCPIdle, DefaultTCPIdle)
	if c.HostName != "" {
		name, err := canonical(c.HostName)
		if err != nil {
			return c, bad("host name %q: %w", c.HostName, err)
		}
		c.HostName = name
	}
	return c, nil
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// complete checks s and returns a copy with its defaults. Upstreams must not be where we listen.
func (s Settings) complete(listen []netip.AddrPort) (Settings, error) {
	if err := s.checkTimes(); err != nil {
		return s, err
	}
	s.BlockTTL = or(s.BlockTTL, DefaultBlockTTL)
	s.Timeout = or(s.Timeout, DefaultTimeout)
	s.FailoverAfter = or(s.FailoverAfter, DefaultFailoverAfter)
	s.MaxTTL = or(s.MaxTTL, DefaultMaxTTL)
	s.MaxNegative = or(s.MaxNegative, DefaultMaxNegative)
	if s.Blocked > BlockedSinkhole {
		return s, bad("there is no way %d to answer blocked names", s.Blocked)
	}
	s.Upstreams = slices.Clone(s.Upstreams)
	if err := checkUpstreams(s.Upstreams, listen); err != nil {
		return s, err
	}
	if len(s.Upstreams) == 0 && len(s.Routes) > 0 {
		return s, bad("routes need upstreams for all other names, too")
	}
	s.Routes = slices.Clone(s.Routes)
	seen := map[string]bool{}
	for i, r := range s.Routes {
		r, err := r.complete(listen, seen)
		if err != nil {
			return s, err
		}
		s.Routes[i] = r
	}
	s.RebindAllow = slices.Clone(s.RebindAllow)
	return s, canonicalAll(s.RebindAllow)
}

func (s *Settings) checkTimes() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"BlockTTL", s.BlockTTL},
		{"StaleFor", s.StaleFor},
		{"Timeout", s.Timeout},
		{"FailoverAfter", s.FailoverAfter},
		{"MaxTTL", s.MaxTTL},
		{"MaxNegative", s.MaxNegative},
	} {
		if d.value < 0 {
			return bad("%s is %v; it must not be negative", d.name, d.value)
		}
	}
	return nil
}

func (r Route) complete(listen []netip.AddrPort, seen map[string]bool) (Route, error) {
	if len(r.Domains) == 0 || len(r.Upstreams) == 0 {
		return r, bad("a route needs domains and upstreams")
	}
	r.Domains, r.Upstreams = slices.Clone(r.Domains), slices.Clone(r.Upstreams)
	if err := canonicalAll(r.Domains); err != nil {
		return r, err
	}
	for _, d := range r.Domains {
		if seen[d] {
			return r, bad("domain %q has two routes", d)
		}
		seen[d] = true
	}
	return r, checkUpstreams(r.Upstreams, listen)
}

// checkUpstreams keeps us from asking ourselves.
func checkUpstreams(list []Upstream, listen []netip.AddrPort) error {
	if len(list) > maxUpstreams {
		return bad("%d upstreams; at most %d are possible", len(list), maxUpstreams)
	}
	for i, u := range list {
		switch {
		case u.check() != nil:
			return bad("upstream %v: %w", u, u.check())
		case slices.Contains(listen, u.Addr):
			return bad("upstream %v: that is this nameserver itself", u)
		case slices.Contains(list[:i], u):
			return bad("upstream %v: given twice", u)
		}
	}
	return nil
}

func canonicalAll(names []string) error {
	for i, n := range names {
		name, err := canonical(n)
		if err != nil {
			return bad("domain %q: %w", n, err)
		}
		names[i] = name
	}
	return nil
}
