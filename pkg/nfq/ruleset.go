package nfq

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strconv"

	"github.com/weirfw/weir/pkg/intercept"
)

// Errors about a HostConfig that cannot work. Each is wrapped with what is wrong.
var (
	// ErrBadMarks tells that the mark numbers cannot be told apart from each other or from other software's.
	ErrBadMarks = errors.New("nfq: unusable mark numbers")
	// ErrBadConfig tells that a field of a HostConfig has a value that cannot work.
	ErrBadConfig = errors.New("nfq: bad configuration")
)

// Errors about a host on which the rules cannot work. They come wrapped in a HostError, and with
// intercept.ErrNotInterceptable.
var (
	// ErrNoRights tells that the process lacks a capability.
	ErrNoRights = errors.New("nfq: not allowed to change the packet filter")
	// ErrNoTool tells that a program is missing or does not work.
	ErrNoTool = errors.New("nfq: no usable iptables")
	// ErrNoKernelSupport tells that the kernel lacks a feature.
	ErrNoKernelSupport = errors.New("nfq: kernel feature missing")
	// ErrMixedVariants tells that other software uses the other variant of iptables in a way that gets in ours.
	ErrMixedVariants = errors.New("nfq: both variants of iptables are in use")
	// ErrNamespace tells that the calling thread is in another network namespace than its process.
	ErrNamespace = errors.New("nfq: thread in another network namespace than its process")
	// ErrInUse tells that another process owns the chains, the queues or the backstop.
	ErrInUse = errors.New("nfq: another firewall runs here")
)

// HostError tells what is missing on this host and what to do about it.
type HostError struct {
	// What is wrong.
	What string
	// Remedy says what to do.
	Remedy string
	// Kind is one of the errors above.
	Kind error
	// Err is the cause, if there is one.
	Err error
}

// Error returns what is wrong and the remedy.
func (e *HostError) Error() string {
	s := e.Kind.Error() + ": " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s + ": " + e.Remedy
}

// Unwrap returns intercept.ErrNotInterceptable, the kind and the cause.
func (e *HostError) Unwrap() []error {
	errs := []error{intercept.ErrNotInterceptable, e.Kind}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// Queues are the numbers of the NFQUEUE queues, one a direction and family.
type Queues struct {
	Out4, In4, Out6, In6 uint16
}

// DefaultQueues returns the numbers that are used when none are given.
func DefaultQueues() Queues { return Queues{Out4: 17040, In4: 17140, Out6: 17060, In6: 17160} }

func (q Queues) validate() error {
	seen := map[uint16]bool{}
	for _, n := range []uint16{q.Out4, q.In4, q.Out6, q.In6} {
		if seen[n] {
			return fmt.Errorf("%w: queue %d is used twice", ErrBadConfig, n)
		}
		seen[n] = true
	}
	return nil
}

// Mode says what happens to packets that nobody decides about.
type Mode uint8

const (
	// Enforce is the safe default: what is not decided does not pass, not even after a crash.
	Enforce Mode = iota
	// Observe never stops a packet by itself: without a reader everything passes. The rules always go on exit.
	Observe
)

// String returns "enforce" or "observe".
func (m Mode) String() string {
	switch m {
	case Enforce:
		return "enforce"
	case Observe:
		return "observe"
	}
	return "Mode(" + strconv.Itoa(int(m)) + ")"
}

// Variant is one of the two implementations of iptables. Both may be in use on a host.
type Variant uint8

const (
	// VariantAuto takes the one whose rules are on the host already, else the one that the program iptables is.
	VariantAuto Variant = iota
	// VariantNFT is iptables on nf_tables.
	VariantNFT
	// VariantLegacy is iptables on the older kernel interface.
	VariantLegacy
)

// String returns "auto", "nft" or "legacy".
func (v Variant) String() string {
	switch v {
	case VariantAuto:
		return "auto"
	case VariantNFT:
		return "nft"
	case VariantLegacy:
		return "legacy"
	}
	return "Variant(" + strconv.Itoa(int(v)) + ")"
}

// ExitPolicy says what is left on the host when interception ends as it should.
type ExitPolicy uint8

const (
	// ExitClosed leaves the rules: nothing passes until the next start or Cleanup. In Observe it is ExitOpen.
	ExitClosed ExitPolicy = iota
	// ExitOpen removes everything.
	ExitOpen
)

// String returns "closed" or "open".
func (p ExitPolicy) String() string {
	switch p {
	case ExitClosed:
		return "closed"
	case ExitOpen:
		return "open"
	}
	return "ExitPolicy(" + strconv.Itoa(int(p)) + ")"
}

// Redirect is where connections of one kind are sent (DNAT), by address family. The zero value is off.
type Redirect struct {
	To4, To6 netip.AddrPort
}

func (r Redirect) to(f family) netip.AddrPort {
	if f == family6 {
		return r.To6
	}
	return r.To4
}

// Redirects are the ways of the three rerouting verdicts. A packet with a rerouting verdict whose way is off is dropped: it
// must not go where it would have gone.
type Redirects struct {
	// Nameserver takes DNS queries, over UDP and TCP; usually 127.0.0.17:53 and [::1]:53.
	Nameserver Redirect
	// Tunnel takes connections into a tunnel; usually port 717.
	Tunnel Redirect
	// SplitTun is the proxy engine of the split tunnel; usually port 719.
	SplitTun Redirect
	// RouteSplitTun is the kernel engine: packets keep the mark of their route, and replies get it, for `ip rule` to see. They
	// pass only by the interfaces of Source.AllowRoutes.
	RouteSplitTun bool
}

// DefaultRedirects returns the addresses that other software expects, all of them on.
func DefaultRedirects() Redirects {
	to := func(port uint16) Redirect {
		return Redirect{
			To4: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 17}), port),
			To6: netip.AddrPortFrom(netip.IPv6Loopback(), port),
		}
	}
	return Redirects{Nameserver: to(53), Tunnel: to(717), SplitTun: to(719)}
}

func (r Redirects) validate() error {
	for _, x := range []Redirect{r.Nameserver, r.Tunnel, r.SplitTun} {
		if x.To4.IsValid() && (!x.To4.Addr().Is4() || x.To4.Port() == 0) {
			return fmt.Errorf("%w: redirect to %v: want an IPv4 address and a port", ErrBadConfig, x.To4)
		}
		if x.To6.IsValid() && (!x.To6.Addr().Is6() || x.To6.Addr().Is4In6() || x.To6.Addr().Zone() != "" || x.To6.Port() == 0) {
			return fmt.Errorf("%w: redirect to %v: want an IPv6 address without a zone and a port", ErrBadConfig, x.To6)
		}
	}
	if r.RouteSplitTun && (r.SplitTun.To4.IsValid() || r.SplitTun.To6.IsValid()) {
		return fmt.Errorf("%w: split tunnel is either routed or redirected to a proxy", ErrBadConfig)
	}
	return nil
}

// Families says which address families are filtered.
type Families uint8

const (
	// BothFamilies filters IPv4 and IPv6.
	BothFamilies Families = iota
	// IPv4Only leaves IPv6 alone: unfiltered, not blocked.
	IPv4Only
)

// HostConfig says what the host's packet filter is told. The zero value enforces with the default numbers.
type HostConfig struct {
	// ChainPrefix begins the names of our chains. Default "WEIR"; a letter, then up to 15 letters, digits and "_".
	ChainPrefix string
	// Marks are the mark numbers. Default DefaultMarks.
	Marks Marks
	// Queues are the queue numbers. Default DefaultQueues.
	Queues Queues
	// Mode is Enforce by default.
	Mode Mode
	// Variant of iptables. Default VariantAuto.
	Variant Variant
	// Redirects that are on. Default none.
	Redirects Redirects
	// Families to filter. Default BothFamilies.
	Families Families
	// StateFile remembers what was there before the first start, so that a clean-up after a crash can restore it to the
	// byte. It must be in a directory that only root can write to; one is made if need be. Empty: nothing is remembered
	// beyond the process, a clean-up after a crash keeps empty tables, and every start looks at all tracked connections for
	// verdicts that a crash left.
	StateFile string
	// BackstopTable is the name of the nftables table that holds while other software flushes the rules. Default the
	// chain prefix in lower case and "-backstop". Enforce only.
	BackstopTable string
	// OnExit is ExitClosed by default.
	OnExit ExitPolicy
	// Logger for what does not end in an error: repairs, missing kernel features. Default silence.
	Logger *slog.Logger
}

// validPrefix keeps names under the 28 bytes that a chain name may have, and out of the way of iptables' own parser.
var validPrefix = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,15}$`)

// validTable is what a table may be called in `nft`.
var validTable = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.\\/-]{0,31}$`)

// withDefaults returns c with its defaults filled in. The error wraps ErrBadConfig or ErrBadMarks.
func (c HostConfig) withDefaults() (HostConfig, error) {
	if c.ChainPrefix == "" {
		c.ChainPrefix = "WEIR"
	}
	if !validPrefix.MatchString(c.ChainPrefix) {
		return c, fmt.Errorf("%w: chain prefix %q: use a letter and up to 15 letters, digits and _", ErrBadConfig, c.ChainPrefix)
	}
	if c.BackstopTable == "" {
		c.BackstopTable = lower(c.ChainPrefix) + "-backstop"
	}
	if !validTable.MatchString(c.BackstopTable) {
		return c, fmt.Errorf("%w: backstop table %q: use a letter and up to 31 letters, digits, - and _", ErrBadConfig, c.BackstopTable)
	}
	if c.Marks == (Marks{}) {
		c.Marks = DefaultMarks()
	}
	if c.Queues == (Queues{}) {
		c.Queues = DefaultQueues()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Mode > Observe || c.Variant > VariantLegacy || c.OnExit > ExitOpen || c.Families > IPv4Only {
		return c, fmt.Errorf("%w: %v, %v, %v, families %d: one of them does not exist", ErrBadConfig, c.Mode, c.Variant, c.OnExit, c.Families)
	}
	return c, errors.Join(c.Marks.validate(), c.Queues.validate(), c.Redirects.validate())
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
