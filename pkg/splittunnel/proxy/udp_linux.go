package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
)

// udpShortIdle is the limit for exchanges that are no streams, as conntrack has it: a question and its answer. Sessions must not
// outlive their conntrack entry by much, because an answer sent then would come from the proxy's own address.
const udpShortIdle = 30 * time.Second

// udpStream is how long an exchange lasts before it counts as a stream, also as in conntrack.
const udpStream = 2 * time.Second

// udpSession relays the datagrams between one client socket and one destination.
type udpSession struct {
	index      int32
	gen        uint32
	req        Request
	egress     Egress
	listener   *listener
	peer       netip.AddrPort // the client as we see it
	peerSA     sockaddr
	up         outlet // towards the destination
	born       time.Duration
	fromClient time.Duration // when the last datagram came
	fromServer time.Duration // 0 if none did
	sent       uint64
	received   uint64
	sentN      uint64
	receivedN  uint64

	// A session belongs to a port of the client only until conntrack gives that port away. It is looked at again when one of
	// these has changed: mark for a client with its own port, epoch for one whose port was chosen by conntrack, because such
	// a port may go to any client.
	mark      *atomic.Uint32
	markSeen  uint32
	epochSeen uint32
}

func listenUDP(addr netip.AddrPort) (int, error) {
	fd, err := bindListen(addr, unix.SOCK_DGRAM, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"})
	if err != nil {
		return -1, err
	}
	if err := udpOptions(fd); err != nil {
		return -1, errors.Join(err, closeFD(fd))
	}
	return fd, nil
}

// idleLimit is shorter for what is no stream.
func (s *udpSession) idleLimit(stream time.Duration) time.Duration {
	if min(s.fromClient, s.fromServer)-s.born > udpStream {
		return stream
	}
	return min(stream, udpShortIdle)
}

// fromClients relays a batch from the socket to which all clients are redirected.
func (l *loop) fromClients(n *listener) {
	b := l.batch
	got, errno := b.recv(n.udp, true)
	if errno != 0 {
		return // the socket has no errors of its own to lose, and is watched by level
	}
	l.runCommands()
	for i := 0; i < got; {
		peer := addrPort(&b.name[i])
		j := i + 1
		for j < got && addrPort(&b.name[j]) == peer {
			j++
		}
		if s := l.sessionOf(n, peer, uint64(j-i)); s != nil {
			s.fromClient = l.now
			packets, bytes, broken := l.relay(i, j, &s.up, nil)
			s.sentN += packets
			s.sent += bytes
			l.stats.udpSentPackets.Add(packets)
			l.stats.udpSent.Add(bytes)
			if broken != 0 {
				l.endUDP(s, fmt.Errorf("send by %s: %w", s.egress.Interface, broken))
			}
		}
		i = j
	}
}

// fromServer relays a batch of answers.
func (l *loop) fromServer(s *udpSession) {
	b := l.batch
	got, errno := b.recv(s.up.fd, false)
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		// An ICMP error for something sent before. It is gone by being told; the session goes on.
		l.stats.udpICMP.Add(1)
		return
	}
	if got <= 0 {
		return
	}
	quiet := l.now - max(s.fromClient, s.fromServer)
	if (quiet > l.srv.cfg.VerifyAfter) && !l.stillOurs(s) {
		// Sent without a conntrack entry, the answer would come from the proxy's own address.
		l.stats.udpDropped.Add(uint64(got))
		return
	}
	s.fromServer = l.now
	packets, bytes, _ := l.relay(0, got, &s.listener.dgrams, &s.peerSA)
	s.receivedN += packets
	s.received += bytes
	l.stats.udpReceivedPackets.Add(packets)
	l.stats.udpReceived.Add(bytes)
}

// sessionOf returns the session for n datagrams of a peer, a new one if need be; nil if they are to be dropped.
func (l *loop) sessionOf(n *listener, peer netip.AddrPort, datagrams uint64) *udpSession {
	if s := n.peers[peer]; s != nil && l.stillGood(s) {
		return s
	}
	s, counter := l.openUDP(n, peer)
	if s == nil {
		counter.Add(datagrams)
	}
	return s
}

// stillGood reports whether a session may carry another datagram of its peer; if not, it has ended.
func (l *loop) stillGood(s *udpSession) bool {
	// Read before the questions below: a mark that is made meanwhile is another reason to ask.
	mark, epoch := s.mark.Load(), l.srv.marks.epoch.Load()
	marked := mark != s.markSeen || s.peer != s.req.Client && epoch != s.epochSeen
	if !marked && l.now-s.fromClient <= l.srv.cfg.VerifyAfter {
		return true
	}
	if !l.stillOurs(s) || marked && !l.stillSoDirected(s) {
		return false
	}
	s.markSeen, s.epochSeen = mark, epoch
	return true
}

// stillOurs asks conntrack whether the peer's port still belongs to the client and destination of the session, and ends it if
// not.
func (l *loop) stillOurs(s *udpSession) bool {
	l.stats.udpVerified.Add(1)
	orig, err := l.track.original(ctTuple{packet.UDP, s.listener.addr, s.peer})
	if err == nil && orig.src == s.req.Client && orig.dst == s.req.Destination {
		return true
	}
	l.stats.udpStale.Add(1)
	l.endUDP(s, errors.Join(ErrStale, err))
	return false
}

// stillSoDirected asks the Director whether the session may go on, and ends it if not.
func (l *loop) stillSoDirected(s *udpSession) bool {
	keeper, ok := l.srv.cfg.Director.(Keeper)
	if !ok || keeper.Keep(s.req, s.egress) {
		return true
	}
	l.endUDP(s, ErrMoved)
	return false
}

// openUDP begins a session. Without one it returns the counter of the reason.
func (l *loop) openUDP(n *listener, peer netip.AddrPort) (*udpSession, *atomic.Uint64) {
	if l.stopping || !peer.IsValid() {
		return nil, &l.stats.udpRefused
	}
	s := &udpSession{listener: n, peer: peer, mark: l.srv.marks.bucket(peer), born: l.now, fromClient: l.now}
	s.markSeen, s.epochSeen = s.mark.Load(), l.srv.marks.epoch.Load()
	orig, err := l.track.original(ctTuple{packet.UDP, n.addr, peer})
	if err != nil {
		return nil, &l.stats.udpUntracked
	}
	if l.isOwn(orig.dst) {
		return nil, &l.stats.udpRefused
	}
	if l.srv.impl.openUDP.Add(1) > int64(l.srv.cfg.MaxUDP) {
		l.srv.impl.openUDP.Add(-1)
		return nil, &l.stats.udpLimited
	}
	s.req = Request{Protocol: packet.UDP, Client: orig.src, Destination: orig.dst}
	if s.egress, err = l.srv.cfg.Director.Direct(s.req); err != nil {
		l.srv.impl.openUDP.Add(-1)
		return nil, &l.stats.udpRefused
	}
	if err := l.connectUDP(s); err != nil {
		l.srv.impl.openUDP.Add(-1)
		l.srv.cfg.Director.Done(s.req, l.usage(s.born, err))
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			return nil, &l.stats.udpLimited
		}
		return nil, &l.stats.udpNoEgress
	}
	s.peerSA.set(peer, 0)
	n.peers[peer] = s
	l.udpOf[s.req] = s
	l.stats.udpOpen.Add(1)
	l.stats.udpOpened.Add(1)
	return s, nil
}

func (l *loop) connectUDP(s *udpSession) error {
	fd, err := s.egress.dial(unix.SOCK_DGRAM, s.req.Destination)
	if err != nil {
		return err
	}
	s.up = outlet{fd: fd, segment: true}
	s.index, s.gen = l.udp.put(s)
	if err := l.watch(fd, unix.EPOLLIN, kindUDP, s.index, s.gen, 0); err != nil {
		l.udp.remove(s.index)
		return errors.Join(err, closeFD(fd))
	}
	return nil
}

// endUDP ends a session; s is gone afterwards.
func (l *loop) endUDP(s *udpSession, cause error) {
	l.warn(closeFD(s.up.fd))
	l.udp.remove(s.index)
	if s.listener.peers[s.peer] == s {
		delete(s.listener.peers, s.peer)
	}
	if l.udpOf[s.req] == s {
		delete(l.udpOf, s.req)
	}
	l.srv.impl.openUDP.Add(-1)
	l.stats.udpOpen.Add(-1)
	u := l.usage(s.born, cause)
	u.Sent, u.Received, u.SentPackets, u.ReceivedPackets = s.sent, s.received, s.sentN, s.receivedN
	l.srv.cfg.Director.Done(s.req, u)
}
