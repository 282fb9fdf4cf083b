package ivpn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Role is what a Client says it is.
type Role uint8

const (
	// Neutral is any other program: the daemon does as ever.
	Neutral Role = iota
	// Firewall makes the daemon switch off its own split tunnel, and show its
	// user that a firewall is in charge.
	Firewall
)

// clientType is the number in Hello.
func (r Role) clientType() int {
	if r == Firewall {
		return 2
	}
	return 3
}

// Defaults of ClientConfig.
const (
	DefaultName           = "weir"
	DefaultConnectTimeout = 2 * time.Second
	DefaultAnswerTimeout  = 10 * time.Second
	DefaultPoll           = 500 * time.Millisecond
)

// How long to wait before a connection that failed or ended is tried again,
// although nothing happened that would give hope: doubled each time.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// ErrConfig is wrapped by errors about a configuration.
var ErrConfig = errors.New("ivpn: bad configuration")

// ClientConfig describes a Client. All fields are optional.
type ClientConfig struct {
	// Folder is where the daemon writes its files. Empty is where it does on this
	// system; that folder may appear later.
	Folder string
	// Role is Neutral by default.
	Role Role
	// Name and Version are told to the daemon; default "weir" and "0".
	Name, Version string
	// ConnectTimeout bounds connecting, AnswerTimeout each answer; defaults 2 s
	// and 10 s.
	ConnectTimeout, AnswerTimeout time.Duration
	// Poll is how often to look whether port.txt changed, default 500 ms. One
	// look is one system call: cheaper than a watch that also has to wait for
	// folders to appear.
	Poll time.Duration
	// On is told what happens, one call at a time and in order. It must not wait
	// for the Client.
	On func(Event)
	// Logger is silent if nil.
	Logger *slog.Logger
}

// Client is connected to IVPN's daemon whenever there is one. Build it with
// NewClient, run it with Run; its other methods may be called from any goroutine
// at any time.
type Client struct {
	cfg    ClientConfig
	log    *slog.Logger
	poke   chan struct{}
	now    atomic.Pointer[session] // nil unless the daemon has answered
	listen sync.Mutex              // makes calls of cfg.On take turns
	// of Run alone:
	last  os.FileInfo // port.txt as it was when last used; nil if there was none
	next  time.Time   // when to try again
	pause time.Duration
}

// NewClient returns a client that does not run yet. Errors wrap ErrConfig.
func NewClient(cfg ClientConfig) (*Client, error) {
	for _, d := range []time.Duration{cfg.ConnectTimeout, cfg.AnswerTimeout, cfg.Poll} {
		if d < 0 {
			return nil, fmt.Errorf("%w: negative time %v", ErrConfig, d)
		}
	}
	if cfg.Role > Firewall {
		return nil, fmt.Errorf("%w: unknown role %d", ErrConfig, cfg.Role)
	}
	cfg.Name, cfg.Version = cmp.Or(cfg.Name, DefaultName), cmp.Or(cfg.Version, "0")
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, DefaultConnectTimeout)
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, DefaultAnswerTimeout)
	cfg.Poll = cmp.Or(cfg.Poll, DefaultPoll)
	if cfg.On == nil {
		cfg.On = func(Event) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, log: cfg.Logger, poke: make(chan struct{}, 1), pause: firstRetry}, nil
}

// Ping makes a client that is not connected try at once. The daemon says so when
// it starts.
func (c *Client) Ping() { kick(c.poke) }

// kick puts a token into a channel of one, if there is none.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Connected reports whether the daemon has answered and the connection lasts.
func (c *Client) Connected() bool { return c.now.Load() != nil }

// Run connects, and connects again whenever port.txt appears or changes, on
// Ping, and now and then, until ctx is done; then it returns nil. ready is
// called when the first attempt is over, whether it succeeded, failed or there
// was nobody to connect to.
func (c *Client) Run(ctx context.Context, ready func()) error {
	settled := sync.OnceFunc(ready)
	tick := time.NewTicker(c.cfg.Poll)
	defer tick.Stop()
	for again := false; ctx.Err() == nil; {
		again = c.look(ctx, again, settled)
		settled()
		if again {
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-c.poke:
			again = true
		}
	}
	return nil
}

// look connects if there is reason to. It returns, when that connection is over,
// whether there is reason to try once more at once.
func (c *Client) look(ctx context.Context, asked bool, settled func()) (again bool) {
	folder, info := c.portFile()
	switch {
	case info == nil:
		if c.last != nil {
			c.tell(Absent{})
		}
		c.last, c.pause = nil, firstRetry
		return false
	case !sameFile(info, c.last):
		c.pause = firstRetry
	case !asked && time.Now().Before(c.next):
		return false
	}
	c.last = info
	addr, err := ReadAddress(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.last = nil // it went between the two looks, or is about to be written
		return false
	case err != nil:
		c.tell(Refused{err})
	default:
		// a ping from before is for this attempt
		select {
		case <-c.poke:
		default:
		}
		c.tell(Found{addr.Port})
		var lasted bool
		lasted, again, err = c.connect(ctx, folder, addr, settled)
		c.tell(Disconnected{err})
		if lasted {
			c.pause = firstRetry
		}
	}
	c.next = time.Now().Add(c.pause)
	c.pause = min(2*c.pause, lastRetry)
	return again
}

// portFile returns the daemon's folder and port.txt, nil if there is none.
func (c *Client) portFile() (folder string, info os.FileInfo) {
	folder = c.cfg.Folder
	if folder == "" {
		found, err := systemFolder()
		if err != nil {
			return "", nil
		}
		folder = found
	}
	info, err := os.Stat(filepath.Join(folder, portFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Debug("look for the daemon of IVPN", "err", err)
	}
	if err != nil {
		return folder, nil
	}
	return folder, info
}

func sameFile(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// connect holds one connection. lasted says whether the daemon had answered,
// again that another daemon is there already.
func (c *Client) connect(ctx context.Context, folder string, addr Address, settled func()) (lasted, again bool, err error) {
	conn, err := dial(ctx, addr.Port, c.cfg.ConnectTimeout)
	if err != nil {
		return false, false, err
	}
	s := newSession(conn, &c.cfg, folder)
	s.heard = func(m message, err error) {
		if m.Command == cmdHelloResp {
			c.now.Store(s) // whoever is told that it is connected may ask
		}
		c.hear(m, err)
	}
	var reading sync.WaitGroup
	reading.Go(s.read)
	defer func() {
		c.now.Store(nil)
		_ = conn.Close() // nothing is left to be said
		reading.Wait()
		if ctx.Err() != nil {
			err = nil
		}
	}()
	stop := context.AfterFunc(ctx, func() { // ends a greeting that waits
		_ = conn.Close() // nothing is left to be said
	})
	defer stop()
	if err := c.greet(ctx, s, addr.Secret); err != nil {
		return false, false, err
	}
	settled()
	again, err = c.hold(ctx, s, addr)
	return true, again, err
}

// greet says hello.
func (c *Client) greet(ctx context.Context, s *session, secret uint64) error {
	_, err := s.ask(ctx, &hello{
		request: request{header: header{Command: cmdHello}}, Secret: secret, ClientType: c.cfg.Role.clientType(),
		Version:   c.cfg.Version + ":" + c.cfg.Name,
		GetStatus: true, GetServiceBinaryPath: true, GetActiveRemoteEndpoint: true,
	})
	if err != nil {
		return fmt.Errorf("greet the daemon: %w", err)
	}
	return nil
}

// hold waits until the connection ends, or port.txt tells of another daemon.
func (c *Client) hold(ctx context.Context, s *session, addr Address) (again bool, err error) {
	tick := time.NewTicker(c.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-s.ended:
			return false, s.err
		case <-tick.C:
		case <-c.poke: // whoever pings may have started just now
		}
		folder, info := c.portFile()
		if info == nil || sameFile(info, c.last) {
			continue
		}
		if now, err := ReadAddress(folder); err == nil && now != addr {
			return true, fmt.Errorf("%w: the daemon was started again", ErrNotConnected)
		}
	}
}

// hear makes events of messages.
func (c *Client) hear(m message, err error) {
	if err != nil {
		c.log.Debug("a message of the daemon was ignored", "err", err)
		return
	}
	switch b := m.body.(type) {
	case helloResp:
		c.tell(Connected(b))
	case Event:
		c.tell(b)
	}
}

func (c *Client) tell(e Event) {
	c.listen.Lock()
	defer c.listen.Unlock()
	c.cfg.On(e)
}

// Encryption of a DNS server. The numbers are the daemon's.
type Encryption int

// Ways to ask a DNS server.
const (
	PlainDNS Encryption = 0
	DoT      Encryption = 1
	DoH      Encryption = 2
)

// DNSServer is a DNS server that the VPN's host shall use.
type DNSServer struct {
	// Address is asked at port 53, or as Template says.
	Address    netip.Addr
	Encryption Encryption
	// Template is the URI template of a DoH server.
	Template string
}

// SetDNS asks the daemon to have the host use these DNS servers while this
// connection lasts; none gives control back. description is shown to the user.
// Errors wrap ErrNotConnected or ErrTimeout, or are a *DaemonError.
func (c *Client) SetDNS(ctx context.Context, description string, servers ...DNSServer) error {
	s := c.now.Load()
	if s == nil {
		return fmt.Errorf("set DNS servers: %w", ErrNotConnected)
	}
	if servers == nil {
		servers = []DNSServer{} // the daemon wants a list
	}
	_, err := s.ask(ctx, &setDNS{
		request: request{header: header{Command: cmdSetDNS}}, Dns: dnsServers{servers}, Description: description,
	})
	if err != nil {
		return fmt.Errorf("set DNS servers: %w", err)
	}
	return nil
}
