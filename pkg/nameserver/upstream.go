package nameserver

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrUpstream is wrapped by errors about how an upstream server is written.
var ErrUpstream = errors.New("nameserver: bad upstream")

// Protocol is how a server is asked.
type Protocol uint8

// The protocols.
const (
	// PlainUDP asks by UDP, and by TCP what does not fit (RFC 1035, RFC 7766).
	PlainUDP Protocol = iota
	// PlainTCP asks by TCP only.
	PlainTCP
	// DoT is DNS over TLS (RFC 7858).
	DoT
	// DoH is DNS over HTTPS (RFC 8484), HTTP/2 wherever the server can.
	DoH
)

// protocols are the schemes and usual ports, by Protocol.
//
//nolint:gochecknoglobals // a table that nobody writes
var protocols = [...]struct {
	scheme string
	port   uint16
}{PlainUDP: {"udp", 53}, PlainTCP: {"tcp", 53}, DoT: {"tls", 853}, DoH: {"https", 443}}

// String returns the scheme of the protocol in the text of an Upstream.
func (p Protocol) String() string {
	if int(p) < len(protocols) {
		return protocols[p].scheme
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Upstream is a server that queries are forwarded to. It is comparable.
type Upstream struct {
	Protocol Protocol
	// Addr is where it is. A name would have to be looked up, and by whom, before there is a nameserver?
	Addr netip.AddrPort
	// ServerName is the name in its certificate, for DoT and DoH; empty if the certificate has its address.
	ServerName string
	// Path is that of the URL, for DoH, beginning with a slash.
	Path string
}

// DefaultPath is the path of a DoH server where none is given; all well-known servers use it.
const DefaultPath = "/dns-query"

const upstreamHint = `write an address for plain DNS, "tls://ADDRESS#NAME" for DNS over TLS, "https://ADDRESS/dns-query#NAME" for DNS over HTTPS`

// ParseUpstream reads what String writes:
//
//	9.9.9.9                             udp://, and TCP for big answers
//	tcp://[2620:fe::fe]:53
//	tls://9.9.9.9#dns.quad9.net         the name in the certificate follows #
//	https://9.9.9.9/dns-query#dns.quad9.net
//
// Ports may be left out. Errors wrap ErrUpstream and say how it should be.
func ParseUpstream(s string) (Upstream, error) {
	u, err := parseUpstream(s)
	if err != nil {
		return Upstream{}, fmt.Errorf("%w %q: %w; %s", ErrUpstream, s, err, upstreamHint)
	}
	return u, nil
}

func parseUpstream(s string) (u Upstream, err error) {
	rest := s
	if scheme, after, found := strings.Cut(s, "://"); found {
		rest = after
		if u.Protocol, err = protocolOf(scheme); err != nil {
			return u, err
		}
	}
	rest, u.ServerName, _ = strings.Cut(rest, "#")
	host, path, slash := strings.Cut(rest, "/")
	if slash {
		u.Path = "/" + path
	} else if u.Protocol == DoH {
		u.Path = DefaultPath
	}
	if u.Addr, err = parseAddr(host, protocols[u.Protocol].port); err != nil {
		return u, err
	}
	u.ServerName = strings.ToLower(u.ServerName)
	return u, u.check()
}

func protocolOf(scheme string) (Protocol, error) {
	for p, known := range protocols {
		if scheme == known.scheme {
			return Protocol(p), nil
		}
	}
	return 0, fmt.Errorf("nothing is known of %q", scheme)
}

// parseAddr reads an address with or without a port.
func parseAddr(s string, port uint16) (netip.AddrPort, error) {
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil {
		return netip.AddrPortFrom(a.Unmap(), port), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// check says what is wrong with u.
func (u Upstream) check() error {
	secure := u.Protocol == DoT || u.Protocol == DoH
	switch {
	case int(u.Protocol) >= len(protocols):
		return fmt.Errorf("%v does not exist", u.Protocol)
	case !u.Addr.IsValid() || u.Addr.Port() == 0 || u.Addr.Addr().IsUnspecified() || u.Addr.Addr().IsMulticast():
		return fmt.Errorf("%v is no server's address and port", u.Addr)
	case u.Addr.Addr().Is4In6():
		return fmt.Errorf("%v is an IPv4 address in another form", u.Addr)
	case !secure && u.ServerName != "":
		return fmt.Errorf("%v has no certificate whose name could be checked", u.Protocol)
	case secure && u.ServerName != "" && !plainHost(u.ServerName):
		return fmt.Errorf("%q is no name of a server", u.ServerName)
	case u.Protocol != DoH && u.Path != "":
		return fmt.Errorf("%v has no path", u.Protocol)
	case u.Protocol == DoH && !plainPath(u.Path):
		return fmt.Errorf("%q is no path", u.Path)
	case secure && u.ServerName == "" && u.Addr.Addr().Zone() != "":
		return errors.New("a certificate has no addresses with zones: give its name")
	case strings.ContainsAny(u.Addr.Addr().Zone(), "/#[]:\" "):
		return errors.New("the zone of the address has characters that no interface's name has")
	}
	return nil
}

// plainHost reports whether s is a host name, or an address that a certificate may have.
func plainHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(s) < maxName
}

// plainPath reports whether s can stand in a request line and in front of a "#".
func plainPath(s string) bool {
	if !strings.HasPrefix(s, "/") || len(s) > 1024 {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '#' || c == '"' || c == '%' || c == '\\' {
			return false
		}
	}
	return true
}

// String writes u as ParseUpstream reads it, without what goes without saying.
func (u Upstream) String() string {
	if int(u.Protocol) >= len(protocols) {
		return u.Protocol.String()
	}
	var b strings.Builder
	b.WriteString(protocols[u.Protocol].scheme + "://")
	switch {
	case u.Addr.Port() != protocols[u.Protocol].port:
		b.WriteString(u.Addr.String())
	case u.Addr.Addr().Is6():
		b.WriteString("[" + u.Addr.Addr().String() + "]")
	default:
		b.WriteString(u.Addr.Addr().String())
	}
	b.WriteString(u.Path)
	if u.ServerName != "" {
		b.WriteString("#" + u.ServerName)
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler.
func (u Upstream) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is ParseUpstream.
func (u *Upstream) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUpstream(string(text))
	return err
}

// tlsName is the name that the certificate must have.
func (u Upstream) tlsName() string {
	if u.ServerName != "" {
		return u.ServerName
	}
	return u.Addr.Addr().String()
}
