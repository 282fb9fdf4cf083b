package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// Request is a connection that arrived at the proxy, as the client made it: before any address translation. It is comparable.
type Request struct {
	Protocol    packet.Protocol `json:"protocol"`    // TCP or UDP
	Client      netip.AddrPort  `json:"client"`      // the client's own address and port
	Destination netip.AddrPort  `json:"destination"` // where the client wants to go
}

// Egress says how a connection leaves the host. It is comparable.
type Egress struct {
	// Interface is the name of the interface, for people, and what sockets are bound to if Index is 0.
	Interface string `json:"interface"`
	// Index is the system's number of the interface. Sockets are bound to it rather than to the name, because an interface
	// that comes back under the same name is another one. Required if there is no name.
	Index int `json:"index"`
	// Source is the address to send from; it must belong to the host, and be of the destination's family. Required.
	Source netip.Addr `json:"source"`
	// Mark is the firewall mark (SO_MARK) of the proxy's own packets, by which the packet filter recognises them and lets
	// them through; 0 is none.
	Mark uint32 `json:"mark"`
}

// Usage is what became of a connection.
type Usage struct {
	// Started is when the request was granted, Duration how long the session lasted.
	Started  time.Time
	Duration time.Duration
	// Sent and Received are bytes of payload, towards the destination and towards the client.
	Sent, Received uint64
	// SentPackets and ReceivedPackets count datagrams; they are 0 for TCP.
	SentPackets, ReceivedPackets uint64
	// Err says why the session ended: nil when both sides closed a TCP connection, else it wraps one of ErrIdle, ErrStopped,
	// ErrMoved and ErrStale, or an error of the system (such as ECONNREFUSED from the destination).
	Err error
}

// Director decides by which way connections leave. The Server calls it from its threads, several at a time: the methods must
// not block, and must not call Server.Sessions or Server.Cut, which wait for those threads.
type Director interface {
	// Direct says how the request leaves. An error refuses it: a TCP client is reset, a datagram is dropped and counted. An
	// error that wraps ErrUnknown means that nothing is known of this client; the Server then asks conntrack whether
	// it was given another port on its way, and if so calls Direct once more with the true one. A UDP session that Verify
	// marked is asked about again: if the answer is another Egress or an error other than ErrUnknown, the session ends.
	Direct(Request) (Egress, error)
	// Done tells that the session of a request that Direct granted has ended, or could not begin. It is called exactly once
	// for each time that Direct granted something.
	Done(Request, Usage)
}

// Keeper is a Director that is also asked about running UDP sessions, after Server.Verify marked their client: without it, they
// go on if conntrack says that they are the same.
type Keeper interface {
	Director
	// Keep reports whether the session may go on as it is. Otherwise it ends with ErrMoved, and the client's next
	// datagram, which is at hand, begins another. It must not block, as the methods of Director.
	Keep(Request, Egress) bool
}

// Finder is a Director that knows where clients want to go. A connection that the driver of Windows has redirected arrives without its
// destination, and nobody can be asked for it but who announced it.
type Finder interface {
	Director
	// Find returns the request of a client. It must not block.
	Find(p packet.Protocol, client netip.AddrPort) (Request, bool)
}

// The reasons for which requests are refused and sessions end. They arrive wrapped.
var (
	// ErrUnknown is what a Director returns for a request that nobody announced.
	ErrUnknown = errors.New("proxy: nobody announced this connection")
	// ErrIdle ends sessions that carried nothing for Config.TCPIdle or Config.UDPIdle.
	ErrIdle = errors.New("proxy: idle for too long")
	// ErrStopped ends sessions because of Server.Reset, Server.Cut or the end of Run.
	ErrStopped = errors.New("proxy: stopped")
	// ErrMoved ends UDP sessions that the Keeper does not keep.
	ErrMoved = errors.New("proxy: leaves by another way now")
	// ErrStale ends UDP sessions whose client port belongs to another connection, or to none, according to conntrack.
	ErrStale = errors.New("proxy: no longer tracked")
	// ErrEgress is wrapped when a socket cannot be bound to the interface or address of an Egress.
	ErrEgress = errors.New("proxy: cannot use the interface")
	// ErrRunning is returned by Run while another Run of the same Server is active.
	ErrRunning = errors.New("proxy: already running")
)

// Defaults of Config.
const (
	DefaultMaxSessions    = 16384
	DefaultTCPIdle        = 2 * time.Hour
	DefaultUDPIdle        = 2 * time.Minute
	DefaultConnectTimeout = 30 * time.Second
	DefaultDrain          = 5 * time.Second
	DefaultVerifyAfter    = 5 * time.Second
)

// maxListen bounds Config.Listen.
const maxListen = 16

// Config configures a Server.
type Config struct {
	// Listen are the addresses to which connections are redirected, for TCP and UDP alike. On Linux they must be exact: an
	// answer sent from an unspecified address would come from another one, which conntrack does not recognise. On Windows they
	// must be unspecified: the driver redirects to the address that the connection comes from. Optional; the default is
	// DefaultListen, of which the IPv6 address is left out on hosts without IPv6.
	Listen []netip.AddrPort
	// Director decides. Required. On Windows it must be a Finder.
	Director Director
	// Loops is the number of threads. Optional; 0 is GOMAXPROCS.
	Loops int
	// MaxTCP and MaxUDP limit the sessions at a time. Further TCP clients are reset at once, further datagrams dropped; both
	// are counted. A TCP session needs two descriptors (two more while bulk data flows), a UDP session one: the process's
	// limit (RLIMIT_NOFILE) must allow for them. Optional; 0 is DefaultMaxSessions.
	MaxTCP, MaxUDP int
	// TCPIdle is how long a TCP session may carry nothing; keep-alive probes find dead peers sooner. Optional; 0 is
	// DefaultTCPIdle.
	TCPIdle time.Duration
	// UDPIdle is how long a UDP session may carry nothing; 30 s, or this if it is less, for those that are no streams (traffic
	// in both directions for more than two seconds). More than the conntrack timeout of streams, 120 s unless changed, is
	// of no use. Optional; 0 is DefaultUDPIdle.
	UDPIdle time.Duration
	// ConnectTimeout is how long a destination may take to answer a TCP connection. Optional; 0 is DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// Drain is how long running sessions may go on after Run was told to end. Optional; 0 is DefaultDrain, less than 0 is not
	// at all.
	Drain time.Duration
	// VerifyAfter is the silence of a UDP client after which conntrack is asked again whose port this is. Optional; 0 is
	// DefaultVerifyAfter, less than 0 is for every batch of datagrams: for those who delete conntrack entries without
	// telling Server.Verify.
	VerifyAfter time.Duration
	// Log gets warnings about what Run met and survived. Optional; nil is silence.
	Log *slog.Logger
}

// complete checks c and returns it with its defaults.
func (c Config) complete() (Config, error) {
	if c.Director == nil {
		return c, errors.New("proxy: config: Director is required")
	}
	if err := c.checkDirector(); err != nil {
		return c, err
	}
	if len(c.Listen) > maxListen {
		return c, fmt.Errorf("proxy: config: %d addresses to listen on; at most %d are possible", len(c.Listen), maxListen)
	}
	seen := map[netip.AddrPort]bool{}
	for _, a := range c.Listen {
		if err := checkListen(a); err != nil {
			return c, err
		}
		if seen[a] {
			return c, fmt.Errorf("proxy: config: listen address %v: given twice", a)
		}
		seen[a] = true
	}
	c.Listen = append([]netip.AddrPort(nil), c.Listen...)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, n := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"Loops", &c.Loops, runtime.GOMAXPROCS(0)},
		{"MaxTCP", &c.MaxTCP, DefaultMaxSessions},
		{"MaxUDP", &c.MaxUDP, DefaultMaxSessions},
	} {
		if *n.value < 0 {
			return c, fmt.Errorf("proxy: config: %s is %d; it must not be negative", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.fallback
		}
	}
	return c, c.completeTimes()
}

// completeTimes is the part of complete about durations.
func (c *Config) completeTimes() error {
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"TCPIdle", &c.TCPIdle, DefaultTCPIdle},
		{"UDPIdle", &c.UDPIdle, DefaultUDPIdle},
		{"ConnectTimeout", &c.ConnectTimeout, DefaultConnectTimeout},
	} {
		if *d.value < 0 {
			return fmt.Errorf("proxy: config: %s is %v; it must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	if c.Drain == 0 {
		c.Drain = DefaultDrain
	}
	if c.VerifyAfter == 0 {
		c.VerifyAfter = DefaultVerifyAfter
	}
	return nil
}
