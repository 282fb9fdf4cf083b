package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirfw/weir/pkg/nameserver"
)

// Nameserver configures the nameserver of refd. Without upstreams there is none.
type Nameserver struct {
	// Upstreams are asked in this order, the later ones when earlier ones do not answer. They are written as in
	// nameserver.ParseUpstream.
	Upstreams []string `yaml:"upstreams"`
	// Listen are the addresses to listen on. DNS is redirected to the first one of its family.
	Listen []netip.AddrPort `yaml:"listen"`
	// Routes are domains with servers of their own.
	Routes []NameserverRoute `yaml:"routes"`
	// Blocked is how blocked names are answered: nxdomain or sinkhole.
	Blocked BlockedAnswer `yaml:"blocked"`
	// Stale is how long expired answers may be given where no server answers; 0 is not at all.
	Stale time.Duration `yaml:"stale"`
	// Seamless redirects DNS to other hosts to the nameserver.
	Seamless bool `yaml:"seamless"`
	// Canary answers the domain by which browsers ask whether they may use DNS over HTTPS: they may not.
	Canary bool `yaml:"canary"`
	// RebindProtection removes local addresses from what servers with global addresses answer, but for RebindAllow.
	RebindProtection bool     `yaml:"rebind_protection"`
	RebindAllow      []string `yaml:"rebind_allow"`
	// AnyClient also answers other hosts.
	AnyClient bool `yaml:"any_client"`
}

// NameserverRoute gives domains, with all names below them, servers of their own.
type NameserverRoute struct {
	Domains   []string `yaml:"domains"`
	Upstreams []string `yaml:"upstreams"`
}

// BlockedAnswer is nxdomain or sinkhole.
type BlockedAnswer string

// How blocked names are answered.
const (
	NXDOMAIN BlockedAnswer = "nxdomain"
	Sinkhole BlockedAnswer = "sinkhole"
)

func defaultNameserver() Nameserver {
	return Nameserver{
		Upstreams: []string{}, Listen: nameserver.DefaultListen(), Routes: []NameserverRoute{},
		Blocked: NXDOMAIN, Seamless: true, Canary: true, RebindAllow: []string{},
	}
}

// Enabled reports whether there are servers to ask.
func (n *Nameserver) Enabled() bool { return len(n.Upstreams) > 0 }

// Target is the address of a family that DNS is redirected to; not valid if there is none.
func (n *Nameserver) Target(over4 bool) netip.AddrPort { //nolint:revive // says which family
	i := slices.IndexFunc(n.Listen, func(a netip.AddrPort) bool { return a.Addr().Is4() == over4 })
	if i < 0 {
		return netip.AddrPort{}
	}
	return n.Listen[i]
}

// Settings returns what the nameserver needs of a configuration that was checked.
func (n *Nameserver) Settings() nameserver.Settings {
	s, _ := n.settings()
	return s
}

// settings returns also what is wrong.
func (n *Nameserver) settings() (s nameserver.Settings, found []value) {
	s = nameserver.Settings{
		StaleFor: n.Stale, RefuseCanary: n.Canary, RebindProtection: n.RebindProtection, RebindAllow: n.RebindAllow, AnyClient: n.AnyClient,
	}
	if n.Blocked == Sinkhole {
		s.Blocked = nameserver.BlockedSinkhole
	}
	const path = "dns.nameserver"
	s.Upstreams, found = parseUpstreams(path, n.Upstreams)
	for i, r := range n.Routes {
		us, bad := parseUpstreams(fmt.Sprintf("%s.routes[%d]", path, i), r.Upstreams)
		found = append(found, bad...)
		s.Routes = append(s.Routes, nameserver.Route{Domains: r.Domains, Upstreams: us})
	}
	return s, found
}

func parseUpstreams(path string, texts []string) (list []nameserver.Upstream, found []value) {
	for i, text := range texts {
		u, err := nameserver.ParseUpstream(text)
		if err != nil {
			msg := strings.TrimPrefix(err.Error(), fmt.Sprintf("%v %q: ", nameserver.ErrUpstream, text))
			msg, hint, _ := strings.Cut(msg, "; ")
			found = append(found, bad(fmt.Sprintf("%s.upstreams[%d]", path, i), text, msg, hint))
			continue
		}
		list = append(list, u)
	}
	return list, found
}

// check finds what the types cannot.
func (n *Nameserver) check() (found []value) {
	const path = "dns.nameserver"
	if n.Blocked != NXDOMAIN && n.Blocked != Sinkhole {
		found = append(found, bad(path+".blocked", string(n.Blocked), "unknown value", fmt.Sprintf("use one of %q", []BlockedAnswer{NXDOMAIN, Sinkhole})))
	}
	if n.Stale < 0 {
		found = append(found, bad(path+".stale", n.Stale.String(), "too short", "use at least 0s"))
	}
	if len(n.Listen) == 0 {
		found = append(found, value{path + ".listen", "no address to listen on", "take the line out, or write [127.0.0.17:53]"})
	}
	for i, a := range n.Listen {
		if a.Port() == 0 || a.Addr().Zone() != "" {
			found = append(found, bad(fmt.Sprintf("%s.listen[%d]", path, i), a.String(), "not an address with a port and without a zone", "write it like 127.0.0.17:53"))
		}
	}
	if len(n.Routes) > 0 && !n.Enabled() {
		found = append(found, value{path + ".routes", "nobody is asked for all other names", "write upstreams, too, or take the routes out"})
	}
	s, wrong := n.settings()
	if found = append(found, wrong...); len(found) > 0 {
		return found
	}
	if _, err := nameserver.New(nameserver.Config{Listen: n.Listen, Settings: s}); err != nil {
		msg := strings.TrimPrefix(err.Error(), nameserver.ErrConfig.Error()+": ")
		hint := "see dns.nameserver in docs/configuration.md"
		if errors.Is(err, nameserver.ErrUpstream) {
			hint = "name another server"
		}
		found = append(found, value{path, msg, hint})
	}
	return found
}

// circular finds servers on this host: what they ask themselves is redirected back.
func (n *Nameserver) circular() (found []value) {
	if !n.Seamless {
		return nil
	}
	own := ownAddrs()
	look := func(path string, upstreams []string) {
		for i, text := range upstreams {
			if u, err := nameserver.ParseUpstream(text); err == nil && (u.Addr.Addr().IsLoopback() || own[u.Addr.Addr().WithZone("")]) {
				found = append(found, value{
					fmt.Sprintf("%s.upstreams[%d]", path, i), text + " is on this host: what it asks other hosts by plain DNS is redirected back to refd",
					"write seamless: false, or name a server elsewhere",
				})
			}
		}
	}
	look("dns.nameserver", n.Upstreams)
	for i, r := range n.Routes {
		look(fmt.Sprintf("dns.nameserver.routes[%d]", i), r.Upstreams)
	}
	return found
}

// ownAddrs are the addresses that this host has now; none if the system does not tell: it is only for a note.
func ownAddrs() map[netip.Addr]bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	own := map[netip.Addr]bool{}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	return own
}

// sameListen reports whether both listen on the same addresses, if at all.
func (n *Nameserver) sameListen(next *Nameserver) bool {
	return !n.Enabled() && !next.Enabled() || slices.Equal(n.Listen, next.Listen)
}
