package refd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
)

// checkDomain is the domain of the names that the self-check asks for, below one that ICANN has set aside for private use.
const checkDomain = "selfcheck.weir.internal"

// checkPort is where the self-check sends packets to: nobody answers there (discard, RFC 863).
const checkPort = 9

// checkParts are the self-check with what it listens to.
type checkParts struct {
	*selfCheck
	module *module.Service
	// heard are names that the system's resolver tells, asked those that our nameserver is asked for.
	heard, asked sightings
}

// buildSelfCheck builds the self-check; without it, `refd selfcheck` checks all the same.
func (d *Daemon) buildSelfCheck() (err error) {
	c := &d.check
	c.selfCheck = &selfCheck{due: d.checkDue, changed: make(chan struct{}, 1), failed: map[string]int{}, log: d.log.With("module", "self-check")}
	c.checks = []check{
		{
			"interception", "Packets are not intercepted",
			"Something has changed the packet filter: start refd again, and look at `iptables -t mangle -S` if that does not help.", d.checkInterception,
		},
		{
			"monitor", "Names are not heard from " + monitoredResolver, monitorRemedy, d.checkMonitor,
		},
		{
			"nameserver", "Programs do not reach refd's nameserver",
			"Set dns.nameserver.seamless, or " + useNameserver + "; a VPN or a container may redirect DNS elsewhere.", d.checkNameserver,
		},
	}
	c.module, err = module.NewService(module.ServiceConfig{Name: "self-check", Logger: d.log, Run: d.runSelfCheck})
	if err != nil {
		return fmt.Errorf("self-check: %w", err)
	}
	c.states = c.module.States()
	return nil
}

func (d *Daemon) runSelfCheck(ctx context.Context, ready func()) error {
	if !d.opt.Config.DNS.SelfCheck {
		ready()
		<-ctx.Done()
		return nil
	}
	defer d.links.Subscribe(func(*netif.Snapshot) { d.check.networkChanged() })()
	return d.check.run(ctx, ready)
}

// checkDue: not while offline, and not while nothing is intercepted because somebody said so.
func (d *Daemon) checkDue() bool {
	return hasRoute(d.links.Snapshot()) && d.intercepts()
}

// intercepts reports whether packets are intercepted, or are meant to be.
func (d *Daemon) intercepts() bool {
	_, wish := d.interception.Position()
	return wish == module.On
}

// hasRoute reports whether there is a way to other networks.
func hasRoute(s *netif.Snapshot) bool {
	routes := 0
	for _, f := range []netif.Family{netif.IPv4, netif.IPv6} {
		for range s.Defaults(f) {
			routes++
		}
	}
	return routes > 0
}

// SelfCheck implements api.Backend.
func (b backend) SelfCheck(ctx context.Context) ([]api.CheckResult, error) {
	return b.d.check.now(ctx), nil
}

// checkInterception sends a packet to an address of this host that nobody has, over each family, and looks whether it was seen.
func (d *Daemon) checkInterception(ctx context.Context) error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%w: it is not known whether packets within this host are intercepted on %s", errNothingToCheck, runtime.GOOS)
	}
	if !d.intercepts() {
		return fmt.Errorf("%w: interception is paused", errNothingToCheck)
	}
	for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 17, 17, 17}), netip.IPv6Loopback()} {
		if err := d.checkPacket(ctx, netip.AddrPortFrom(a, checkPort)); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) checkPacket(ctx context.Context, to netip.AddrPort) error {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "udp", to.String())
	if err != nil {
		if to.Addr().Is6() {
			return nil // this host has no IPv6
		}
		return fmt.Errorf("send a packet: %w", err)
	}
	defer c.Close() //nolint:errcheck // nothing is lost with it
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return fmt.Errorf("send a packet: %w", err)
	}
	if err := sendTo(c); err != nil {
		return err
	}
	again, look := time.NewTicker(time.Second), time.NewTicker(5*time.Millisecond)
	defer again.Stop()
	defer look.Stop()
	for {
		if d.store.Get(packet.Tuple{Protocol: packet.UDP, Local: local, Remote: to}) != nil {
			return nil
		}
		select {
		case <-look.C:
		case <-again.C: // one can be lost where packets come faster than they can be judged
			if err := sendTo(c); err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("a packet to %v was not seen", to)
		}
	}
}

// sendTo sends a packet that means nothing.
func sendTo(c net.Conn) error {
	if _, err := c.Write([]byte("weir")); err != nil && !isRefused(err) {
		return fmt.Errorf("send a packet: %w", err)
	}
	return nil
}

// isRefused reports whether an earlier packet was answered by the kernel, as is right.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// checkMonitor looks whether the system's resolver tells what it answers.
func (d *Daemon) checkMonitor(ctx context.Context) error {
	m := d.naming.monitor
	if m == nil || !m.Stats().Connected {
		return fmt.Errorf("%w: %s is not listened to", errNothingToCheck, monitoredResolver)
	}
	return d.askResolver(ctx)
}

// checkNameserver asks as programs do, and looks whether our nameserver answers.
func (d *Daemon) checkNameserver(ctx context.Context) error {
	if !d.nameserver.server.Enabled() {
		return fmt.Errorf("%w: there is no nameserver of refd's", errNothingToCheck)
	}
	name := checkName()
	asked, forget := d.check.asked.expect(name)
	defer forget()
	r := net.Resolver{PreferGo: true} // the servers that programs are told to ask, and without a cache of its own
	addrs, err := r.LookupNetIP(ctx, "ip4", name+".")
	switch {
	case err == nil && slices.Contains(addrs, checkAddr(name)):
		return nil
	case err == nil:
		return fmt.Errorf("%s was answered with %v by somebody else", name, addrs)
	}
	select {
	case <-asked:
		return fmt.Errorf("the answer of refd did not come back: %w", err)
	default:
		return fmt.Errorf("a query did not come to refd: %w", err)
	}
}

// ownName answers the names of the self-check, which nobody else knows. It is nameserver.Config.Own.
func (c *checkParts) ownName(q nameserver.Query) (addrs []netip.Addr, ok bool) {
	if !strings.HasSuffix(q.Name, "."+checkDomain) {
		return nil, false
	}
	if c.asked.saw(q.Name) {
		addrs = []netip.Addr{checkAddr(q.Name)}
	}
	return addrs, true
}

// checkAddr is the address that a name of the self-check has: one for documentation (RFC 5737).
func checkAddr(name string) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, name[0]}) }

func checkName() string { return strings.ToLower(rand.Text()) + "." + checkDomain }

// sightings tell when names are seen that somebody waits for.
type sightings struct {
	mu sync.Mutex // guards m
	m  map[string]chan struct{}
}

// expect returns what is closed when the name is seen. It is waited for until forget is called.
func (s *sightings) expect(name string) (seen <-chan struct{}, forget func()) {
	c := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]chan struct{}{}
	}
	s.m[name] = c
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.m, name)
	}
}

// saw reports whether somebody waits for a name.
func (s *sightings) saw(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.m[name]
	if !ok {
		return false
	}
	select {
	case <-c:
	default:
		close(c)
	}
	return true
}

// heardName notes what the system's resolver was asked for.
func (c *checkParts) heardName(a *dnsmon.Answer) {
	for _, name := range a.Asked {
		if name = dnsmon.CanonicalName(name); strings.HasSuffix(name, checkDomain) {
			c.heard.saw(name)
		}
	}
}
