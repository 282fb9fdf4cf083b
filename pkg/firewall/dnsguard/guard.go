package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/filterlist"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Codes of reasons. They are stable.
const (
	// CodeSystemDNS accepts the system's DNS in the disabled state.
	CodeSystemDNS verdict.Code = "dns-system"
	// CodeBypass blocks what goes round the system's DNS.
	CodeBypass verdict.Code = "dns-bypass"
	// CodeInspected accepts a packet that is DNS, and CodeNotDNS blocks a connection to port 53 that is used for something else.
	CodeInspected verdict.Code = "dns-inspected"
	CodeNotDNS    verdict.Code = "not-dns"
)

// The ports of DNS (RFC 1035), DNS over TLS and QUIC (RFC 7858, RFC 9250), and HTTPS.
const (
	portDNS    = 53
	portSecure = 853
	portHTTPS  = 443
)

// Kind is a way round the system's DNS.
type Kind string

// The ways.
const (
	Plain Kind = "plain DNS"
	DoT   Kind = "DNS over TLS"
	DoQ   Kind = "DNS over QUIC"
	DoH   Kind = "DNS over HTTPS"
)

// Bypass is an attempt to go round the system's DNS that was refused.
type Bypass struct {
	// Process is nil if it is not known.
	Process *conn.Process
	Kind    Kind
	// Remote is the server; it is not valid where only its name was looked up.
	Remote netip.AddrPort
	// Domain is the server's name; empty if it is not known.
	Domain string
}

// Config of a Guard.
type Config struct {
	// Disabled reports whether no nameserver of ours answers queries. It must be fast. Required.
	Disabled func() bool
	// Prevents reports whether a process, which may be nil, may not go round the system's DNS. It must be fast. Optional; the default
	// is that all may.
	Prevents func(p *conn.Process) bool
	// Endpoints are servers of DNS over HTTPS. Optional; see KnownEndpoints.
	Endpoints *filterlist.List
	// IsResolver reports whether a process is the system's resolver. Optional; the default is SystemResolver.
	IsResolver func(p *conn.Process) bool
	// Prevented is told of what was refused. It must not block, and is called from any goroutine. Optional.
	Prevented func(Bypass)
}

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("dnsguard: bad configuration")

// Guard decides about DNS. Create it with New. Its methods may be called from any goroutine.
type Guard struct{ cfg Config }

var (
	_ firewall.Decider   = (*Guard)(nil)
	_ firewall.Inspector = (*Guard)(nil)
)

// New returns a Guard. The error wraps ErrConfig.
func New(cfg Config) (*Guard, error) {
	if cfg.Disabled == nil {
		return nil, fmt.Errorf("%w: Disabled is required", ErrConfig)
	}
	if cfg.Prevents == nil {
		cfg.Prevents = func(*conn.Process) bool { return false }
	}
	if cfg.IsResolver == nil {
		cfg.IsResolver = SystemResolver
	}
	if cfg.Prevented == nil {
		cfg.Prevented = func(Bypass) {}
	}
	return &Guard{cfg}, nil
}

// Decide implements firewall.Decider. It has no opinion about what is not DNS.
func (g *Guard) Decide(_ context.Context, s *conn.Snapshot) firewall.Outcome {
	if s.Direction != packet.Outbound || s.Tuple.Protocol != packet.TCP && s.Tuple.Protocol != packet.UDP {
		return firewall.Outcome{}
	}
	disabled := g.cfg.Disabled()
	if disabled && g.isSystemDNS(s) {
		return firewall.Outcome{Decided: true, Decision: decide(verdict.Accept, CodeSystemDNS, "the system's own DNS")}
	}
	kind := g.kindOf(s, disabled)
	if kind == "" || !g.cfg.Prevents(s.Process) {
		return firewall.Outcome{}
	}
	return firewall.Outcome{
		Decided: true, Decision: refusal(kind),
		Hit: hit{g, Bypass{Process: s.Process, Kind: kind, Remote: s.Tuple.Remote, Domain: s.Domain}},
	}
}

// DecideName decides about looking up a name, together with the aliases that it led to: that of a server of DNS over HTTPS is of use to
// nobody who may not use it.
func (g *Guard) DecideName(p *conn.Process, name string, cnames []string) firewall.Outcome {
	if !g.has(name, cnames) || !g.cfg.Prevents(p) {
		return firewall.Outcome{}
	}
	return firewall.Outcome{Decided: true, Decision: refusal(DoH), Hit: hit{g, Bypass{Process: p, Kind: DoH, Domain: name}}}
}

func (g *Guard) has(name string, cnames []string) bool {
	return g.cfg.Endpoints.HasName(name) || slices.ContainsFunc(cnames, g.cfg.Endpoints.HasName)
}

// isSystemDNS reports whether a connection is to a nameserver of this host, or one of its resolver's. A resolver that is no service of
// the system has no business but DNS; a service may also ask its neighbours (LLMNR, multicast DNS) and give addresses (DHCP).
func (g *Guard) isSystemDNS(s *conn.Snapshot) bool {
	port := s.Tuple.Remote.Port()
	if isLocal(s) && port == portDNS {
		return true
	}
	isDNS := port == portDNS || port == portSecure || port == portHTTPS
	return s.Process != nil && (isDNS || isService(s.Process)) && g.cfg.IsResolver(s.Process)
}

func isLocal(s *conn.Snapshot) bool {
	return s.Scope == netscope.Host || s.Tuple.Remote.Addr() == s.Tuple.Local.Addr()
}

// kindOf says which way round the system's DNS a connection is; empty if it is none.
func (g *Guard) kindOf(s *conn.Snapshot, disabled bool) Kind { //nolint:revive // says which state
	t := s.Tuple
	if isLocal(s) {
		return "" // its own queries are looked at
	}
	switch t.Remote.Port() {
	case portDNS:
		if disabled && t.Protocol == packet.UDP {
			return "" // it is inspected
		}
		return Plain
	case portSecure:
		if t.Protocol == packet.UDP {
			return DoQ
		}
		return DoT
	case portHTTPS:
		if g.cfg.Endpoints.HasAddr(t.Remote.Addr()) || s.Domain != "" && g.has(s.Domain, s.CNAMEs) {
			return DoH
		}
	}
	return ""
}

// hit tells of a bypass when its refusal takes effect.
type hit struct {
	guard  *Guard
	bypass Bypass
}

// Hit implements firewall.Hitter.
func (h hit) Hit() { h.guard.cfg.Prevented(h.bypass) }

func refusal(k Kind) verdict.Decision {
	return decide(verdict.Block, CodeBypass, string(k)+" goes round the system's DNS, which this app may not")
}

func decide(v verdict.Verdict, code verdict.Code, text string) verdict.Decision {
	return verdict.Decision{Verdict: v, Reason: verdict.Reason{Code: code, Text: text, By: "dnsguard"}}
}
