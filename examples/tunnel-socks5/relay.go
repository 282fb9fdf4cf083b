package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

const (
	// maxSessions leaves the firewall file descriptors to work with: a session holds up to six, as io.Copy has pipes to splice.
	maxSessions = 1000
	// acceptPause is for when connections cannot be accepted, as without a descriptor to spare.
	acceptPause = 50 * time.Millisecond
)

// Why a connection that reached us is not carried.
var (
	errForeign = errors.New("not a connection that the firewall sent here")
	errStopped = errors.New("stopped: it is over, or goes another way")
	errTooMany = fmt.Errorf("%d connections go through the tunnel already", maxSessions)
)

// session is a connection that goes through the tunnel.
type session struct {
	tuple  packet.Tuple
	cancel context.CancelCauseFunc
}

// serve carries what comes to l, until ctx is done; then it ends what is under way, and waits for it.
func (t *tunnel) serve(ctx context.Context, l *net.TCPListener) {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close() // ends Accept; there is nothing to lose
	})
	defer stop()
	for {
		c, err := l.AcceptTCP()
		switch {
		case err == nil:
			sessions.Go(func() { t.carry(ctx, c) })
		case ctx.Err() != nil:
			return
		default:
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

// carry takes a redirected connection to where it was going.
func (t *tunnel) carry(ctx context.Context, local *net.TCPConn) {
	defer abort(local) // does nothing to what has ended well
	to, err := originalDestination(local)
	if err != nil {
		fmt.Println("refused", local.RemoteAddr(), err)
		return
	}
	tuple := packet.Tuple{Protocol: packet.TCP, Local: addrPort(local.RemoteAddr()), Remote: to}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{tuple, cancel}
	if err := t.begin(s); err != nil {
		fmt.Println("refused", tuple, err)
		return
	}
	defer t.end(s)
	remote, err := t.dial(ctx, to)
	if err != nil {
		fmt.Println("failed", tuple, cmp.Or(context.Cause(ctx), err))
		return
	}
	fmt.Println("tunneled", tuple)
	if err := relay(ctx, local, remote); err != nil {
		fmt.Println("broken", tuple, err)
	}
}

// begin notes the session, if the firewall sent the connection here: any local program can connect to us. Noting comes before
// asking. Should the firewall change its mind in between, then either Stop finds the session, or the store says so already.
func (t *tunnel) begin(s *session) error {
	t.mu.Lock()
	old := t.sessions[s.tuple]
	if old == nil && len(t.sessions) >= maxSessions {
		t.mu.Unlock()
		return errTooMany
	}
	if old != nil {
		old.cancel(errStopped) // the program has closed it, and uses the port again
	}
	t.sessions[s.tuple] = s
	t.mu.Unlock()
	c := t.store.Get(s.tuple)
	if c != nil && c.State().Tunnel != nil && c.State().Tunnel.Provider == provider {
		return nil
	}
	t.end(s)
	return errForeign
}

func (t *tunnel) end(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.tuple] == s {
		delete(t.sessions, s.tuple)
	}
}

// relay copies both ways until both sides have said all. A side that says no more may still listen. When one breaks, or ctx is
// done, both are reset: an orderly end would tell the program that it has got everything.
func relay(ctx context.Context, a, b *net.TCPConn) error {
	defer abort(b)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(ctx, func() { abort(a); abort(b) })()
	var back sync.WaitGroup
	back.Go(func() {
		if err := copyAll(a, b); err != nil {
			fail(err)
		}
	})
	if err := copyAll(b, a); err != nil {
		fail(err)
	}
	back.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// In order: the kernel still delivers what is on its way.
	return errors.Join(a.Close(), b.Close())
}

// copyAll copies until src says no more, and passes that on.
func copyAll(dst, src *net.TCPConn) error {
	if _, err := io.Copy(dst, src); err != nil {
		return err //nolint:wrapcheck // it says which side
	}
	return dst.CloseWrite() //nolint:wrapcheck // as above
}

// abort resets a connection; nothing if it is closed.
func abort(c *net.TCPConn) {
	_ = errors.Join(c.SetLinger(0), c.Close()) // what is closed already needs neither
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}
