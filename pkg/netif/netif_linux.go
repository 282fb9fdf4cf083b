package netif

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// readTimeout bounds one reading; the kernel answers in a millisecond or so.
	readTimeout = 5 * time.Second
	// maxReads is how often a reading is repeated because something changed while it was made.
	maxReads = 4
	// eventBuffer holds about a thousand events. More are not needed: each means the same, "read again".
	eventBuffer = 1 << 20
)

// eventGroups are the multicast groups to listen to, as the bits that bind(2) wants. A kernel without the last one
// ignores it. IPv4 routes that vanish with their link are not announced, but the link is.
const eventGroups = 1<<(unix.RTNLGRP_LINK-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
	1<<(unix.RTNLGRP_NEXTHOP-1)

// Read returns the present state of the interfaces in the network namespace of the calling thread. It needs no
// privileges.
//
// On systems other than Linux and Windows the error wraps errors.ErrUnsupported.
func Read(ctx context.Context) (*Snapshot, error) {
	q, err := openQueries()
	if err != nil {
		return nil, err
	}
	s, err := q.read(ctx)
	if closeErr := q.close(); closeErr != nil {
		return nil, errors.Join(err, closeErr)
	}
	return s, err
}

// queries is a socket for questions, apart from the one for events so that no answer has to be told from an event.
type queries struct {
	conn *netlink.Conn
}

func openQueries() (*queries, error) {
	// The strict option makes the kernel filter; before 4.20 it does not exist, and we filter anyway.
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Strict: true})
	if errors.Is(err, unix.ENOPROTOOPT) {
		conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("netif: open netlink socket: %w", err)
	}
	return &queries{conn: conn}, nil
}

func (q *queries) close() error {
	if err := q.conn.Close(); err != nil {
		return fmt.Errorf("netif: close netlink socket: %w", err)
	}
	return nil
}

// read asks for links, addresses and routes. These are several answers, so a change may fall between them. Where that
// shows, the reading is repeated; where it does not, the change's event causes another.
func (q *queries) read(ctx context.Context) (s *Snapshot, err error) {
	for range maxReads {
		if err = ctx.Err(); err != nil {
			return nil, fmt.Errorf("netif: read interfaces: %w", err)
		}
		if s, err = q.readOnce(ctx); err == nil || !isPassing(err) {
			return s, err
		}
	}
	return nil, err
}

// errInterrupted is a dump during which the dumped table changed.
var errInterrupted = errors.New("netif: state changed while it was read")

func isPassing(err error) bool {
	return errors.Is(err, errInterrupted) || errors.Is(err, ErrBadSnapshot)
}

func (q *queries) readOnce(ctx context.Context) (*Snapshot, error) {
	deadline := time.Now().Add(readTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := q.conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("netif: set deadline: %w", err)
	}
	var a assembly
	if err := q.dump("links", unix.RTM_GETLINK, linkRequest(), a.addLink); err != nil {
		return nil, err
	}
	if err := q.dump("addresses", unix.RTM_GETADDR, addrRequest(), a.addAddr); err != nil {
		return nil, err
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		add := func(m netlink.Message) error { return a.addRoute(m, family) }
		if err := q.dump("routes", unix.RTM_GETROUTE, routeRequest(family), add); err != nil {
			return nil, err
		}
	}
	return a.snapshot()
}

// dump asks one question and passes each part of the answer to add.
func (q *queries) dump(what string, typ netlink.HeaderType, body []byte, add func(netlink.Message) error) error {
	msgs, err := q.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump},
		Data:   body,
	})
	// A fresh namespace has no main routing table yet, and a kernel may have no IPv6: nothing to list.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("netif: list %s: %w", what, err)
	}
	for _, m := range msgs {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return fmt.Errorf("list %s: %w", what, errInterrupted)
		}
		if err := add(m); err != nil {
			return fmt.Errorf("netif: list %s: %w", what, err)
		}
	}
	return nil
}

// linuxMonitor is queries plus a socket for events.
type linuxMonitor struct {
	queries
	events *netlink.Conn
}

func openMonitor() (monitor, error) {
	return openLinuxMonitor(eventBuffer)
}

func openLinuxMonitor(buffer int) (*linuxMonitor, error) {
	events, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: eventGroups})
	if err != nil {
		return nil, fmt.Errorf("netif: open netlink socket for events: %w", err)
	}
	if err := events.SetReadBuffer(buffer); err != nil {
		return nil, errors.Join(fmt.Errorf("netif: set event buffer: %w", err), events.Close())
	}
	q, err := openQueries()
	if err != nil {
		return nil, errors.Join(err, events.Close())
	}
	return &linuxMonitor{queries: *q, events: events}, nil
}

func (m *linuxMonitor) close() error {
	err := m.queries.close()
	if eventErr := m.events.Close(); eventErr != nil {
		err = errors.Join(err, fmt.Errorf("netif: close netlink socket for events: %w", eventErr))
	}
	return err
}

// receive returns when an event may concern a snapshot.
func (m *linuxMonitor) receive() error {
	for {
		msgs, err := m.events.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// The socket goes on working; only what did not fit is gone.
			return fmt.Errorf("%w: %w", errLost, err)
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		for _, msg := range msgs {
			if concerns(msg) {
				return nil
			}
		}
	}
}

// concerns reports whether an event can change a snapshot. Routes through a gateway that are no default routes cannot,
// and some VPNs and routing daemons change thousands of them. In doubt it says yes.
func concerns(m netlink.Message) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return true
	}
	r, err := decodeRoute(m.Data)
	if err != nil {
		return true
	}
	if r.skip() {
		return false
	}
	if r.dst.Bits() == 0 {
		return true
	}
	for _, h := range r.hops {
		if !h.gateway.IsValid() {
			return true
		}
	}
	return false
}
