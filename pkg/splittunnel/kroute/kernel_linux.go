package kroute

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/netif"
)

const (
	// askTimeout bounds one question; the kernel answers in far less than a millisecond.
	askTimeout = 5 * time.Second
	// maxReads is how often a list is read again because it changed meanwhile.
	maxReads = 8
)

// errInterrupted is a list during whose reading the kernel's table changed.
var errInterrupted = errors.New("state changed while it was read")

// kernel is a socket for questions and orders. It belongs to one goroutine.
type kernel struct {
	conn     *netlink.Conn
	protocol uint8
}

func openKernel(protocol uint8) (*kernel, error) {
	// The strict option makes the kernel filter; before 4.20 it does not exist, and we filter anyway.
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Strict: true})
	if errors.Is(err, unix.ENOPROTOOPT) {
		conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("kroute: open netlink socket: %w", err)
	}
	return &kernel{conn: conn, protocol: protocol}, nil
}

func (k *kernel) close() error {
	if err := k.conn.Close(); err != nil {
		return fmt.Errorf("kroute: close netlink socket: %w", err)
	}
	return nil
}

// ask sends one message and returns the answers.
func (k *kernel) ask(typ netlink.HeaderType, flags netlink.HeaderFlags, body []byte) ([]netlink.Message, error) {
	if err := k.conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	msgs, err := k.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | flags},
		Data:   body,
	})
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return msgs, nil
}

// list reads a whole list.
func (k *kernel) list(typ netlink.HeaderType, body []byte) (msgs []netlink.Message, err error) {
	for range maxReads {
		msgs, err = k.ask(typ, netlink.Dump, body)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(msgs, func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }) {
			return msgs, nil
		}
	}
	return nil, errInterrupted
}

// rules lists those of a family, everybody's.
func (k *kernel) rules(f netif.Family) ([]seenRule, error) {
	body := make([]byte, sizeofRuleHdr)
	body[0] = addressFamily(f)
	msgs, err := k.list(unix.RTM_GETRULE, body)
	if err != nil {
		return nil, fmt.Errorf("kroute: list rules of %v: %w", f, err)
	}
	var found []seenRule
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWRULE {
			continue
		}
		s, err := decodeRule(m.Data)
		if err != nil {
			return nil, fmt.Errorf("kroute: list rules of %v: %w", f, err)
		}
		if s.family == f {
			found = append(found, s)
		}
	}
	return found, nil
}

// routes lists a table, everybody's routes included.
func (k *kernel) routes(f netif.Family, table uint32) ([]seenRoute, error) {
	body, err := message(make([]byte, unix.SizeofRtMsg), func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.RTA_TABLE, table) })
	if err != nil {
		return nil, fmt.Errorf("kroute: list table %d of %v: %w", table, f, err)
	}
	body[0] = addressFamily(f)
	msgs, err := k.list(unix.RTM_GETROUTE, body)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // there is no such table yet
	}
	if err != nil {
		return nil, fmt.Errorf("kroute: list table %d of %v: %w", table, f, err)
	}
	var found []seenRoute
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWROUTE {
			continue
		}
		s, err := decodeRoute(m.Data)
		if err != nil {
			return nil, fmt.Errorf("kroute: list table %d of %v: %w", table, f, err)
		}
		if !s.cloned && s.table == table && s.family() == f {
			found = append(found, s)
		}
	}
	return found, nil
}

// link returns what the link with the index is now, and whether there is one.
func (k *kernel) link(index int) (l link, ok bool, err error) {
	msgs, err := k.ask(unix.RTM_GETLINK, 0, linkRequest(index))
	if errors.Is(err, unix.ENODEV) {
		return link{}, false, nil
	}
	if err != nil {
		return link{}, false, fmt.Errorf("kroute: look at link %d: %w", index, err)
	}
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		if l, err = decodeLink(m.Data); err != nil {
			return link{}, false, fmt.Errorf("kroute: look at link %d: %w", index, err)
		}
		return l, l.index == index, nil
	}
	return link{}, false, nil
}

// addrs returns the addresses of a link, of both families.
func (k *kernel) addrs(index int) (found []netip.Addr, err error) {
	msgs, err := k.list(unix.RTM_GETADDR, addrRequest(index))
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("kroute: list addresses of link %d: %w", index, err)
	}
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWADDR {
			continue
		}
		i, a, err := decodeAddr(m.Data)
		if err != nil {
			return nil, fmt.Errorf("kroute: list addresses of link %d: %w", index, err)
		}
		if i == index && a.IsValid() {
			found = append(found, a)
		}
	}
	return found, nil
}

// addRule puts a rule behind those with the same priority. That it is there already is fine.
func (k *kernel) addRule(r rule) error {
	body, err := r.encode(k.protocol)
	if err == nil {
		_, err = k.ask(unix.RTM_NEWRULE, netlink.Acknowledge|netlink.Create|netlink.Excl, body)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("kroute: add %v: %w", r, err)
	}
	return nil
}

// deleteRule deletes one of ours. That it is gone already is fine.
func (k *kernel) deleteRule(r rule) error {
	body, err := r.encode(k.protocol)
	if err == nil {
		_, err = k.ask(unix.RTM_DELRULE, netlink.Acknowledge, body)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("kroute: delete %v: %w", r, err)
	}
	return nil
}

// errTaken is a route that somebody else has put where ours belongs.
var errTaken = errors.New("somebody else has a route there")

// addRoute adds a route where there is none with its key.
func (k *kernel) addRoute(r route) error { return k.putRoute(r, netlink.Create|netlink.Excl) }

// replaceRoute exchanges a route of ours for another one with its key, at once.
func (k *kernel) replaceRoute(r route) error { return k.putRoute(r, netlink.Create|netlink.Replace) }

func (k *kernel) putRoute(r route, how netlink.HeaderFlags) error {
	body, err := r.encode(k.protocol, r.scope())
	if err == nil {
		_, err = k.ask(unix.RTM_NEWROUTE, netlink.Acknowledge|how, body)
	}
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("kroute: add %v: %w", r, errTaken)
	case err != nil:
		return fmt.Errorf("kroute: add %v: %w", r, err)
	}
	return nil
}

// deleteRoute deletes one of ours. That it, or its link, is gone already is fine.
func (k *kernel) deleteRoute(r route) error {
	body, err := r.encode(k.protocol, unix.RT_SCOPE_NOWHERE)
	if err == nil {
		_, err = k.ask(unix.RTM_DELROUTE, netlink.Acknowledge, body)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("kroute: delete %v: %w", r, err)
	}
	return nil
}

// tableInUse is the error for routes of others in a table.
func tableInUse(f netif.Family, table uint32, others []seenRoute) error {
	var list []string
	for _, o := range others[:min(len(others), 3)] {
		list = append(list, fmt.Sprintf("%v proto %d", o.route, o.protocol))
	}
	flag := ""
	if f == netif.IPv6 {
		flag = " -6"
	}
	return fmt.Errorf("%w: table %d of %v has routes of others (%s): set Config.Table to tables that nobody uses, or remove them: ip%s route show table %d",
		ErrTableInUse, table, f, strings.Join(list, "; "), flag, table)
}
