package procinfo

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
)

// FindOrigin says who opened the TCP connection that a packet claims to be of:
// another host, or program, if a socket listens on the local port, else this
// one. ok is false if no socket here has that connection, or if that cannot be
// found out.
//
// A program that has stopped to listen, and goes on with those that came, is
// taken for the one that opened them.
func (f *Finder) FindOrigin(info *packet.Info) (d packet.Direction, ok bool) {
	if info.Protocol != packet.TCP || info.Fragment {
		return packet.Outbound, false
	}
	f.life.RLock()
	defer f.life.RUnlock()
	if f.closed {
		return packet.Outbound, false
	}
	connected, listened, err := f.ends(info)
	switch {
	case err != nil || !connected:
		return packet.Outbound, false
	case listened:
		return packet.Inbound, true
	}
	return packet.Outbound, true
}

// ends reports whether a socket here has the connection, and whether one
// listens where its local end is. f.life is held.
func (f *Finder) ends(info *packet.Info) (connected, listened bool, err error) {
	if f.diag == nil || !f.diag.has[packet.TCP] {
		return f.endsListed(info)
	}
	q := query{
		protocol: uint8(packet.TCP), family: unix.AF_INET6, local: info.Local, remote: info.Remote, iface: info.Interface,
	}
	if info.Is4() {
		q.family = unix.AF_INET // finds the IPv6 sockets that serve IPv4, too
	}
	s, err := f.diag.exact(&q)
	if err != nil || s.state == stateListen {
		// The kernel looks for a listening socket if there is no other.
		return false, err == nil, notThere(err)
	}
	q.remote = netip.AddrPortFrom(unspecified(q.family), 0) // nobody is connected to that
	s, err = f.diag.exact(&q)
	return true, err == nil && s.state == stateListen, notThere(err)
}

// notThere is nil for the error that says: no such socket.
func notThere(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// endsListed is for kernels without inet_diag. Their tables do not tell of a
// listening IPv6 socket whether it serves IPv4: it counts as if it did.
func (f *Finder) endsListed(info *packet.Info) (connected, listened bool, err error) {
	look := func(s *sock) bool {
		switch {
		case s.local.Port() != info.Local.Port():
		case s.state == stateListen:
			listened = listened || s.covers(info.Local.Addr())
		default:
			connected = connected || s.local == info.Local && s.remote == info.Remote
		}
		return false // noted, not collected
	}
	for _, name := range [...]string{"tcp", "tcp6"} {
		if _, err := f.net.list(name, nil, look); err != nil {
			return false, false, err
		}
	}
	return connected, listened, nil
}
