package ivpn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/extverdict"
)

// HandlerName is the name under which Handle is to be registered, as the one who
// decided about a connection.
const HandlerName = "ivpn"

// leaveLimit is how long giving back what was asked for may take at the end.
const leaveLimit = 2 * time.Second

// Nameserver is our own DNS server, as far as the VPN has to know.
type Nameserver interface {
	// Delegated returns the address at which the host's programs shall ask, at
	// port 53, and true while they shall: while custom servers are configured and
	// packets are intercepted. It must not block.
	Delegated() (listen netip.Addr, ok bool)
}

// Condition is something about the interop that a person should know.
type Condition struct {
	// ID names the kind: one of the Condition constants.
	ID string
	// Text is for people.
	Text string
	// Over is true when the condition, raised before, is no longer so.
	Over bool
}

// IDs of conditions.
const (
	// ConditionDetected: there is a daemon, and it is listened to. No trouble.
	ConditionDetected = "ivpn-detected"
	// ConditionOldVersion: the daemon does not tell its executable.
	ConditionOldVersion = "ivpn-old-version"
	// ConditionUntrusted: port.txt must not be used.
	ConditionUntrusted = "ivpn-untrusted"
	// ConditionServiceBinary: the daemon's executable is not trusted.
	ConditionServiceBinary = "ivpn-service-binary"
	// ConditionUnreachable: there is a daemon, and it does not talk to us.
	ConditionUnreachable = "ivpn-unreachable"
	// ConditionDNS: the daemon refuses to let us have DNS, or to take it back.
	ConditionDNS = "ivpn-dns"
)

// Config describes an Interop. All fields are optional.
type Config struct {
	// Client is the connection to the daemon; its On is told everything first.
	Client ClientConfig
	// Register is called once, with Handle, before the first connection to a
	// daemon: so a host without IVPN has no handler. Nil: the caller registers it.
	Register func(name string, h extverdict.Handler) error
	// Nameserver is ours, if there is one. See Reconsider.
	Nameserver Nameserver
	// Description of our wish for DNS is shown to the VPN's user; default
	// "DNS is configured in weir".
	Description string
	// OnChange is told that Handle may answer differently: connections that
	// Concerns selects have to be decided anew. It may take its time.
	OnChange func(ctx context.Context)
	// Report gets conditions. It must not block.
	Report func(Condition)
}

// Interop keeps a host with IVPN's client and a firewall of ours working. Build
// it with New, run it with Run; its other methods may be called from any
// goroutine at any time.
type Interop struct {
	cfg    Config
	log    *slog.Logger
	client *Client
	view   atomic.Pointer[view]
	kicked chan struct{}
	stale  atomic.Bool // verdicts changed and OnChange was not told

	mu     sync.Mutex        // makes writers of view take turns; guards raised
	raised map[string]string // conditions and what was said about them
	// of the client's callbacks alone:
	tried      chan struct{} // closed when the first attempt is over; nil before it began
	over       bool          // it is
	sessions   uint64        // so far
	registered bool
}

// New returns an interop that does not run yet. Errors wrap ErrConfig.
func New(cfg Config) (*Interop, error) {
	i := &Interop{cfg: cfg, kicked: make(chan struct{}, 1), raised: map[string]string{}}
	i.view.Store(&view{})
	i.cfg.Description = cmp.Or(cfg.Description, "DNS is configured in weir")
	if cfg.OnChange == nil {
		i.cfg.OnChange = func(context.Context) {}
	}
	if cfg.Report == nil {
		i.cfg.Report = func(Condition) {}
	}
	cc := cfg.Client
	cc.On = func(e Event) {
		if cfg.Client.On != nil {
			cfg.Client.On(e)
		}
		i.hear(e)
	}
	var err error
	if i.client, err = NewClient(cc); err != nil {
		return nil, err
	}
	i.log = i.client.log
	return i, nil
}

// State returns what is known now.
func (i *Interop) State() State { return i.view.Load().State }

// Ping makes an interop without a connection try at once.
func (i *Interop) Ping() { i.client.Ping() }

// Reconsider tells that Nameserver has changed.
func (i *Interop) Reconsider() { kick(i.kicked) }

// Run works until ctx is done. Before it returns it gives DNS back. ready is called when the first attempt to reach a daemon is over.
func (i *Interop) Run(ctx context.Context, ready func()) error {
	// the connection outlives ctx: something is left to be said then
	connected, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	ended := make(chan error, 1)
	go func() { ended <- i.client.Run(connected, ready) }()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-i.kicked:
			i.settle(ctx)
		}
	}
	leaving, cancel := context.WithTimeout(connected, leaveLimit)
	defer cancel()
	i.delegate(leaving, netip.Addr{})
	hangUp()
	return <-ended
}

// settle brings the world to what the state asks for. What fails is tried again
// at the next event.
func (i *Interop) settle(ctx context.Context) {
	if i.stale.Swap(false) {
		i.cfg.OnChange(ctx)
	}
	var want netip.Addr
	if i.cfg.Nameserver != nil {
		if addr, ok := i.cfg.Nameserver.Delegated(); ok {
			want = reachable(addr)
		}
	}
	i.delegate(ctx, want)
}

// reachable is where a server is asked that listens at every address.
func reachable(listen netip.Addr) netip.Addr {
	switch listen = listen.Unmap(); {
	case !listen.IsUnspecified():
		return listen
	case listen.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		return netip.IPv6Loopback()
	}
}

// delegate tells the daemon which nameserver the host shall use, if that is not
// what it was told last.
func (i *Interop) delegate(ctx context.Context, want netip.Addr) {
	before := i.view.Load()
	if !i.client.Connected() || before.DNS == want {
		return
	}
	var servers []DNSServer
	if want.IsValid() {
		servers = []DNSServer{{Address: want}}
	}
	err := i.client.SetDNS(ctx, i.cfg.Description, servers...)
	if errors.Is(err, ErrNotConnected) {
		return // it was told nothing, and forgets what it was told before
	}
	if err != nil {
		i.raise(ConditionDNS, "IVPN does not change the host's DNS as asked: "+err.Error())
		return
	}
	i.clear(ConditionDNS)
	i.change(func(v *view) {
		if v.session == before.session {
			v.DNS = want
		}
	})
}

// change publishes another view.
func (i *Interop) change(do func(v *view)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.view.Load()
	next := *old
	do(&next)
	next.known = next.ServicePort != 0 || next.Endpoint.Address.IsValid() || next.ServiceBinary != "" || next.first != nil
	i.view.Store(&next)
	if !next.sameVerdicts(&old.State) {
		i.stale.Store(true)
	}
}

func (i *Interop) raise(id, text string) {
	i.mu.Lock()
	told := i.raised[id] == text
	i.raised[id] = text
	i.mu.Unlock()
	if !told {
		i.cfg.Report(Condition{ID: id, Text: text})
	}
}

// clear ends conditions that were raised.
func (i *Interop) clear(ids ...string) {
	for _, id := range ids {
		i.mu.Lock()
		_, was := i.raised[id]
		delete(i.raised, id)
		i.mu.Unlock()
		if was {
			i.cfg.Report(Condition{ID: id, Over: true})
		}
	}
}

// hear keeps the state up to date. The client makes one call at a time.
func (i *Interop) hear(e Event) {
	switch e := e.(type) {
	case Found:
		i.found(e.Port)
	case Connected:
		i.connected(e)
	case Disconnected:
		i.disconnected(e.Err)
	case Refused:
		i.raise(ConditionUntrusted, fmt.Sprintf("IVPN is left alone: %v", e.Err))
	case Absent:
		i.clear(ConditionUntrusted, ConditionUnreachable, ConditionOldVersion, ConditionServiceBinary, ConditionDNS)
	case ConnectionStarting:
		i.change(func(v *view) { v.Endpoint = e.Endpoint })
	case ConnectionStopped:
		i.change(func(v *view) { v.Endpoint = Endpoint{} })
	case VPNConnected:
		i.change(func(v *view) { v.VPN = &e })
	case VPNDisconnected:
		i.change(func(v *view) { v.VPN = nil })
	case VPNState, ServiceExiting:
		return // only for people
	}
	kick(i.kicked)
}

// found lets connections to the daemon pass, our own first of all, before one is
// made.
func (i *Interop) found(port uint16) {
	i.clear(ConditionUntrusted)
	if i.tried == nil {
		i.tried = make(chan struct{})
	}
	i.change(func(v *view) {
		i.sessions++
		v.Phase, v.ServicePort, v.session = PhaseConnecting, port, i.sessions
		if !i.over {
			v.first = i.tried
		}
	})
	if i.cfg.Register == nil || i.registered {
		return
	}
	i.registered = true
	if err := i.cfg.Register(HandlerName, i.Handle); err != nil {
		i.log.Error("connections of IVPN are judged like any others", "err", err)
	}
}

func (i *Interop) connected(e Connected) {
	i.clear(ConditionUnreachable, ConditionOldVersion, ConditionServiceBinary)
	binary := ""
	if e.ServiceBinary == "" {
		i.raise(ConditionOldVersion, fmt.Sprintf("IVPN %s is too old to say which program its service is: update it, or allow that program by a rule", e.Version))
	} else if path, err := trustedPath(e.ServiceBinary); err != nil {
		i.raise(ConditionServiceBinary, fmt.Sprintf("the service of IVPN is judged like any other program: %v", err))
	} else {
		binary = path
	}
	i.raise(ConditionDetected, "IVPN is on this host: its VPN and its service are accepted")
	i.change(func(v *view) { v.Phase, v.Version, v.ServiceBinary, v.first = PhaseConnected, e.Version, binary, nil })
	i.firstOver()
}

// disconnected forgets everything.
func (i *Interop) disconnected(err error) {
	i.clear(ConditionDetected, ConditionDNS)
	if err != nil && i.State().Phase == PhaseConnecting {
		i.raise(ConditionUnreachable, fmt.Sprintf("the service of IVPN cannot be talked to, so that its connections are judged like any others: %v", err))
	}
	i.change(func(v *view) { *v = view{} })
	i.firstOver()
}

// firstOver lets go what waited for the first attempt.
func (i *Interop) firstOver() {
	if !i.over {
		i.over = true
		close(i.tried)
	}
}
