package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/proxy"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
)

const (
	// provider is our name in conn.TunnelContext.
	provider = "socks5"
	// dialLimit is how long the SOCKS5 server may take to reach a destination.
	dialLimit = 10 * time.Second
	// checkLimit is how long it may take to answer at all.
	checkLimit = 3 * time.Second
)

// Why a connection that shall go through the tunnel cannot. Each fails the connection: it never goes another way.
var (
	errTCPOnly = errors.New("the SOCKS5 tunnel carries TCP only")
	errUnknown = errors.New("a connection to the SOCKS5 server by an unknown process: it may be our own, which must not go in circles")
	errUnasked = errors.New("the SOCKS5 server was not asked yet")
)

// tunnel is a firewall.Tunneler.
type tunnel struct {
	socks  netip.AddrPort
	chosen destinations
	store  *connstore.Live // where the firewall writes what it decided

	mu       sync.Mutex // guards what follows
	down     error      // why it is not ready; nil if it is
	sessions map[packet.Tuple]*session
}

func newTunnel(socks netip.AddrPort, chosen destinations, store *connstore.Live) *tunnel {
	return &tunnel{socks: socks, chosen: chosen, store: store, down: errUnasked, sessions: map[packet.Tuple]*session{}}
}

// Tunnel implements firewall.Tunneler. It is asked about accepted outbound TCP and UDP connections, and about those that run
// when they are re-evaluated. It only answers: nothing is prepared, because a preview asks as well.
func (t *tunnel) Tunnel(_ context.Context, s *conn.Snapshot) (*conn.TunnelContext, bool, error) {
	if !t.chosen.has(s.Tuple.Remote) {
		return nil, false, nil
	}
	if s.Tuple.Protocol != packet.TCP {
		return nil, false, errTCPOnly
	}
	if s.Tuple.Remote == t.socks && s.Process == nil {
		return nil, false, errUnknown
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.down != nil {
		return nil, false, fmt.Errorf("SOCKS5 server %v: %w", t.socks, t.down)
	}
	return &conn.TunnelContext{Provider: provider, Detail: "by " + t.socks.String()}, true, nil
}

// Stop implements firewall.Tunneler: the connection is over, or goes another way. It only gives the sign.
func (t *tunnel) Stop(tuple packet.Tuple) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[tuple]; s != nil {
		s.cancel(errStopped)
	}
}

// watch looks every so often whether the server is there, until ctx is done.
func (t *tunnel) watch(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.check(ctx)
		}
	}
}

// check asks the server whether it would serve us.
func (t *tunnel) check(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	err := t.greet(limited)
	if ctx.Err() == nil {
		t.setDown(err)
	}
}

// greet says hello and no more: version 5, one method, which is no authentication (RFC 1928 section 3).
func (t *tunnel) greet(ctx context.Context) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.socks.String())
	if err != nil {
		return err //nolint:wrapcheck // it says all: "dial tcp 192.0.2.1:1080: connection refused"
	}
	defer c.Close() //nolint:errcheck // nothing is under way
	stop := context.AfterFunc(ctx, func() {
		_ = c.Close() // ends a read that waits
	})
	defer stop()
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	var answer [2]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	if answer != [2]byte{5, 0} {
		return fmt.Errorf("greet: got %x; want 0500: it is no SOCKS5 server, or wants to know who we are", answer)
	}
	return nil
}

// setDown notes whether connections can go through, and tells when that changes.
func (t *tunnel) setDown(err error) {
	t.mu.Lock()
	was := t.down
	t.down = err
	t.mu.Unlock()
	switch {
	case err == nil && was != nil:
		fmt.Println("tunnel ready")
	case err != nil && (was == nil || errors.Is(was, errUnasked)):
		fmt.Println("tunnel not ready:", err)
	}
}

// dial connects to a destination through the server. Package proxy wraps the connection in a type that can neither half-close
// nor splice; what is inside can, and nothing is buffered in between.
func (t *tunnel) dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	first := &forward{}
	dialer, err := proxy.SOCKS5("tcp", t.socks.String(), nil, first)
	if err != nil {
		return nil, fmt.Errorf("make a SOCKS5 dialer: %w", err)
	}
	_, err = dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", to.String()) //nolint:errcheck // that one is a ContextDialer
	if first.err != nil && ctx.Err() == nil {
		t.setDown(first.err) // sooner than the next look would
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // it says all: "socks connect tcp 192.0.2.1:1080->198.51.100.2:80: ..."
	}
	return first.conn, nil
}

// forward dials the server itself, for one connection, and keeps what came of it.
type forward struct {
	conn *net.TCPConn
	err  error
}

// Dial implements proxy.Dialer.
func (f *forward) Dial(network, address string) (net.Conn, error) {
	return f.DialContext(context.Background(), network, address)
}

// DialContext implements proxy.ContextDialer.
func (f *forward) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var c net.Conn
	c, f.err = (&net.Dialer{}).DialContext(ctx, network, address)
	if f.err != nil {
		return nil, f.err
	}
	f.conn, _ = c.(*net.TCPConn)
	return c, nil
}
