package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// PingPath is where other software on this host says that it has started, by
// GET. Its users know it.
const PingPath = "/api/v1/interop/ping"

const (
	// pingPause is the shortest time between two pings that are passed on.
	pingPause = time.Second
	// maxPingers is how many may be connected at once; more wait.
	maxPingers = 16
)

// ServePing takes pings at addr until ctx is done. Anybody on this host may send
// them: they get an empty answer that depends on nothing, and ping is called,
// at most once a second. ready is called when it listens.
func ServePing(ctx context.Context, addr netip.AddrPort, ping func(), log *slog.Logger, ready func()) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("listen for pings: %w", err)
	}
	srv := &http.Server{
		Handler:           pingHandler(ping),
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       2 * time.Second,
		WriteTimeout:      2 * time.Second,
		MaxHeaderBytes:    4 << 10,
		// whoever sends nonsense here must not fill the log
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	srv.SetKeepAlivesEnabled(false)
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(&limited{Listener: ln, slots: make(chan struct{}, maxPingers), done: ctx.Done()})
	}()
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("serve pings at %v: %w", addr, err)
	case <-ctx.Done():
	}
	err = srv.Close()
	<-served
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("stop serving pings: %w", err)
	}
	return nil
}

// pingHandler answers every ping the same, and passes some on.
func pingHandler(ping func()) http.Handler {
	var last atomic.Int64 // of those passed on, since start
	start := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PingPath, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		now, before := int64(time.Since(start)+pingPause), last.Load()
		if time.Duration(now-before) >= pingPause && last.CompareAndSwap(before, now) {
			ping()
		}
	})
	return mux
}

// limited is a listener that takes no more connections than it has slots.
type limited struct {
	net.Listener
	slots chan struct{}
	done  <-chan struct{}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err //nolint:wrapcheck // net/http looks at it
	}
	return &slotConn{Conn: c, slots: l.slots}, nil
}

// slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	slots  chan struct{}
	closed atomic.Bool
}

// Close implements net.Conn.
func (c *slotConn) Close() error {
	err := c.Conn.Close()
	if !c.closed.Swap(true) {
		<-c.slots
	}
	return err //nolint:wrapcheck // net/http looks at it
}
