package ivpntest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// Config describes a Daemon.
type Config struct {
	// Folder is where port.txt and eaa are written. Required.
	Folder string
	// Version is told in HelloResp; default 3.15.1 of an Old daemon, else 3.16.0.
	Version string
	// Old makes a daemon that does not know its executable and remote endpoint, as those up to 3.15.
	Old bool
	// ServiceBinary is the path of the daemon's executable, told by new versions.
	ServiceBinary string
	// AppSecret is what privileged requests must carry ("enhanced app authentication"); it is written to eaa.
	AppSecret string
	// Secret is what clients must know; default a random one.
	Secret uint64
}

// Server is a DNS server that a client asked for.
type Server struct {
	Address    string
	Encryption int
	Template   string
}

// Request is a message of a client, as much of it as any has.
type Request struct {
	Command        string
	Idx            uint32
	ProtocolSecret string

	Secret                  uint64
	ClientType              int
	Version                 string
	GetStatus               bool
	GetServiceBinaryPath    bool
	GetActiveRemoteEndpoint bool

	Dns struct { //nolint:revive,staticcheck // the protocol's name
		Servers []Server
	}
	Description string
}

// Daemon is a running double. All methods may be called from any goroutine.
type Daemon struct {
	cfg  Config
	ln   net.Listener
	busy sync.WaitGroup

	mu       sync.Mutex // guards what follows
	clients  map[*client]bool
	endpoint map[string]any // ConnectionStarting, nil if there is none
	status   map[string]any // ConnectedResp, nil if not connected
	dns      []Server
	dnsSets  int
	refusals int
	deaf     bool
	requests []Request
	stopped  bool
}

type client struct {
	conn    net.Conn
	writing sync.Mutex
	greeted bool // guarded by Daemon.mu
	dns     bool // it has set DNS servers; guarded by Daemon.mu
}

// Start starts a daemon: when it returns, port.txt is there.
func Start(cfg Config) (*Daemon, error) {
	version := "3.16.0"
	if cfg.Old {
		version = "3.15.1"
	}
	cfg.Version = cmp.Or(cfg.Version, version)
	if cfg.Secret == 0 {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("make secret: %w", err)
		}
		cfg.Secret = binary.BigEndian.Uint64(b[:])
	}
	if cfg.AppSecret != "" {
		if err := os.WriteFile(filepath.Join(cfg.Folder, "eaa"), []byte(cfg.AppSecret+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("write eaa: %w", err)
		}
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := Known(ln); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	d := &Daemon{cfg: cfg, ln: ln, clients: map[*client]bool{}}
	d.busy.Go(d.accept)
	if err := d.WritePortFile(fmt.Sprintf("%d:%x", d.Port(), cfg.Secret)); err != nil {
		return nil, errors.Join(err, d.Crash())
	}
	return d, nil
}

// Port is where it listens.
func (d *Daemon) Port() uint16 { return uint16(d.ln.Addr().(*net.TCPAddr).Port) } //nolint:errcheck // it listens by TCP

// WritePortFile replaces the content of port.txt, in one step.
func (d *Daemon) WritePortFile(content string) error {
	path := filepath.Join(d.cfg.Folder, "port.txt")
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return fmt.Errorf("write port.txt: %w", err)
	}
	// On Windows a file cannot be replaced while somebody reads it.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		err := os.Rename(path+".new", path)
		if err == nil {
			return nil
		}
		if runtime.GOOS != "windows" || !errors.Is(err, fs.ErrPermission) || time.Now().After(deadline) {
			return fmt.Errorf("write port.txt: %w", err)
		}
	}
}

// Stop ends it as a service manager would: clients are told, and port.txt goes.
func (d *Daemon) Stop() error {
	d.Notify(map[string]any{"Command": "ServiceExitingResp"})
	err := os.Remove(filepath.Join(d.cfg.Folder, "port.txt"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.Crash())
}

// Crash ends it without a word: port.txt stays. Once it has ended, it does nothing.
func (d *Daemon) Crash() error {
	d.mu.Lock()
	stopped := d.stopped
	d.stopped = true
	d.mu.Unlock()
	var err error
	if !stopped {
		err = d.ln.Close()
	}
	d.HangUp()
	d.busy.Wait()
	return err //nolint:wrapcheck // of a test's double
}

// HangUp closes the connections of all clients.
func (d *Daemon) HangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.clients {
		_ = c.conn.Close() // its reader ends
	}
}

// SetDeaf makes it take requests and answer none, or answer again.
func (d *Daemon) SetDeaf(deaf bool) { d.locked(func() { d.deaf = deaf }) }

// RefuseDNS makes it refuse the next n wishes for DNS servers.
func (d *Daemon) RefuseDNS(n int) { d.locked(func() { d.refusals = n }) }

// DNS returns the servers that were set last, and how often some were.
func (d *Daemon) DNS() (servers []Server, times int) {
	d.locked(func() { servers, times = append([]Server{}, d.dns...), d.dnsSets })
	return servers, times
}

// Clients is how many have said hello and are connected.
func (d *Daemon) Clients() (n int) {
	d.locked(func() {
		for c := range d.clients {
			if c.greeted {
				n++
			}
		}
	})
	return n
}

// Requests returns what clients have sent so far.
func (d *Daemon) Requests() (list []Request) {
	d.locked(func() { list = append(list, d.requests...) })
	return list
}

func (d *Daemon) locked(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
}

// VPN protocols, as messages have them.
const (
	OpenVPN   = 0
	WireGuard = 1
)

// Starting says that a VPN connection to that endpoint is about to start; protocol is 6 or 17.
func (d *Daemon) Starting(address string, port uint16, protocol uint8) {
	m := map[string]any{"Command": "ConnectionStarting", "Address": address, "Port": port, "Protocol": protocol}
	d.locked(func() { d.endpoint = m })
	d.Notify(m)
}

// Connected says that the VPN works. Fields are those of ConnectedResp that shall not be zero.
func (d *Daemon) Connected(fields map[string]any) {
	m := map[string]any{
		"Command": "ConnectedResp", "VpnType": OpenVPN, "ClientIP": "", "ClientIPv6": "", "ServerIP": "", "ServerPort": 0,
		"IsTCP": false, "Mtu": 0, "IsPaused": false, "PausedTill": "", "TimeSecFrom1970": 0,
	}
	for k, v := range fields {
		m[k] = v
	}
	d.locked(func() { d.status = m })
	d.Notify(m)
}

// Disconnected says that the VPN has ended.
func (d *Daemon) Disconnected() {
	d.locked(func() { d.endpoint, d.status = nil, nil })
	d.Notify(map[string]any{"Command": "ConnectionStopped"})
	d.Notify(map[string]any{"Command": "DisconnectedResp", "Failure": false, "Reason": 2, "ReasonDescription": "", "IsStateInfo": false})
}

// Notify sends a message to all clients that have said hello, as JSON with Idx 0.
func (d *Daemon) Notify(m map[string]any) { d.Raw(line(0, m)) }

// Raw sends these bytes to all clients that have said hello.
func (d *Daemon) Raw(b []byte) {
	var list []*client
	d.locked(func() {
		for c := range d.clients {
			if c.greeted {
				list = append(list, c)
			}
		}
	})
	for _, c := range list {
		c.send(b)
	}
}

// line is a message with its number.
func line(idx uint32, m map[string]any) []byte {
	numbered := map[string]any{"Idx": idx}
	for k, v := range m {
		numbered[k] = v
	}
	b, err := json.Marshal(numbered)
	if err != nil {
		panic(err) // a test made a message that JSON cannot say
	}
	return append(b, '\n')
}

func (c *client) send(b []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.conn.Write(b); err != nil {
		return // a client that is gone is seen by its reader
	}
}
