package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// maxDatagram is the longest payload of UDP.
const maxDatagram = 1<<16 - 1

// udpSession is what a client sends from one port to one destination, and what comes back.
type udpSession struct {
	bookkeeping
	server net.Conn
	mark   uint32 // of verifyMarks, when the session began or was asked about
}

// stop implements session.
func (s *udpSession) stop(cause error) {
	if s.end(cause) {
		_ = s.server.Close() // it was open: this is the only place
	}
}

// udpTable has the sessions of one socket by their client. It belongs to the goroutine that receives.
type udpTable map[netip.AddrPort]*udpSession

// receiveUDP serves a socket until that is closed.
func (r *relay) receiveUDP(ctx context.Context, c *net.UDPConn) error {
	table, buf := udpTable{}, make([]byte, maxDatagram)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil && err != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("receive: %w", err)
		case err != nil:
			time.Sleep(errorPause) // an ICMP answer to something sent before, or worse
			continue
		}
		s := r.sessionOf(table, c, from)
		if s == nil {
			continue
		}
		s.saw()
		if _, err := s.server.Write(buf[:n]); err != nil {
			r.stats.udpDropped.Add(1)
			continue
		}
		s.sent.Add(uint64(n))
		s.sentPackets.Add(1)
		r.stats.udpSent.Add(uint64(n))
		r.stats.udpSentPackets.Add(1)
	}
}

// sessionOf returns the session of a client, a new one if need be, nil if there may be none.
func (r *relay) sessionOf(table udpTable, c *net.UDPConn, from netip.AddrPort) *udpSession {
	peer := client(from)
	if s := table[peer]; s != nil && !s.over() && r.keeps(s) {
		return s
	}
	delete(table, peer)
	if !r.accepting.Load() {
		return nil
	}
	if r.stats.udpOpen.Load() >= int64(r.srv.cfg.MaxUDP) {
		r.stats.udpLimited.Add(1)
		return nil
	}
	mark := r.srv.marks.bucket(peer).Load()
	req, e, err := r.request(Request{Protocol: packet.UDP, Client: peer})
	if err != nil {
		r.stats.udpRefused.Add(1)
		return nil
	}
	s := &udpSession{bookkeeping: bookkeeping{req: req, egress: e, peer: peer, born: time.Now()}, mark: mark}
	server, err := e.Dial(context.Background(), "udp", req.Destination)
	if err != nil {
		r.stats.udpNoEgress.Add(1)
		s.end(err)
		r.finder.Done(req, s.usage())
		return nil
	}
	s.server = server
	table[peer] = s
	r.forget(table)
	r.stats.udpOpen.Add(1)
	r.stats.udpOpened.Add(1)
	over := r.begin(s)
	r.work.Go(func() {
		s.answer(r, c, from)
		u := s.usage()
		r.stats.udpOpen.Add(-1)
		r.countUDP(u)
		over()
		r.finder.Done(req, u)
	})
	return s
}

// forget drops sessions that are over from a table which has many of them.
func (r *relay) forget(table udpTable) {
	if len(table) < 64 || len(table) < 2*int(r.stats.udpOpen.Load()) {
		return
	}
	for peer, s := range table {
		if s.over() {
			delete(table, peer)
		}
	}
}

// keeps reports whether a session goes on: it does unless its client was marked since, and wants to go elsewhere now.
func (r *relay) keeps(s *udpSession) bool {
	mark := r.srv.marks.bucket(s.peer).Load()
	if mark == s.mark {
		return true
	}
	s.mark = mark
	r.stats.udpVerified.Add(1)
	if found, ok := r.finder.Find(packet.UDP, s.peer); ok && found != s.req {
		s.stop(fmt.Errorf("%w: its client goes to %v now", ErrStale, found.Destination))
		return false
	}
	if k, ok := r.finder.(Keeper); ok && !k.Keep(s.req, s.egress) {
		s.stop(ErrMoved)
		return false
	}
	return true
}

// answer passes on what the server sends, until the session is idle or stopped.
func (s *udpSession) answer(r *relay, c *net.UDPConn, to netip.AddrPort) {
	buf, idle := make([]byte, maxDatagram), r.srv.cfg.UDPIdle
	for {
		if err := s.server.SetReadDeadline(time.Now().Add(idle)); err != nil {
			s.stop(err)
			return
		}
		n, err := s.server.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if s.idle() >= idle {
				s.stop(fmt.Errorf("%w: %v", ErrIdle, idle))
				return
			}
		case errors.Is(err, net.ErrClosed):
			s.stop(err) // stopped already
			return
		case err != nil:
			r.stats.udpICMP.Add(1)
		default:
			s.saw()
			if _, err := c.WriteToUDPAddrPort(buf[:n], to); err != nil {
				r.stats.udpDropped.Add(1)
				continue
			}
			s.received.Add(uint64(n))
			s.receivedPackets.Add(1)
			r.stats.udpReceived.Add(uint64(n))
			r.stats.udpReceivedPackets.Add(1)
		}
	}
}

func (r *relay) countUDP(u Usage) {
	switch {
	case errors.Is(u.Err, ErrStopped):
		r.stats.udpStopped.Add(1)
	case errors.Is(u.Err, ErrIdle):
		r.stats.udpIdle.Add(1)
	case errors.Is(u.Err, ErrStale):
		r.stats.udpStale.Add(1)
	}
}
