package firewall_test

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
)

var _ firewall.OriginFinder = (*procinfo.Finder)(nil)

// An answer to a connection that this host has begun is known by its socket
// already while that waits for it; one that nobody waits for is not, whether or
// not the port is listened on.
func TestIntegrationOriginOfAnswer(t *testing.T) {
	client, _ := testnet.New(t).Pair()
	err := client.Do(func() error {
		f, err := procinfo.New(procinfo.Config{})
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // nothing to lose
		for _, tt := range []struct{ name, network, local, nobody string }{
			{"v4", "tcp4", testnet.ClientV4, "10.77.0.99"},
			{"v6", "tcp6", testnet.ClientV6, "fd77::99"},
		} {
			answers(t, f, tt.name, tt.network, tt.local, tt.nobody)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// answers has a socket that connects to an address that nobody has. It runs on a
// thread of the namespace.
func answers(t *testing.T, f *procinfo.Finder, name, network, local, nobody string) {
	t.Helper()
	l, err := net.Listen(network, net.JoinHostPort(local, "0"))
	if err != nil {
		t.Error(err)
		return
	}
	defer l.Close() //nolint:errcheck // nothing to lose
	remote := netip.AddrPortFrom(netip.MustParseAddr(nobody), 443)
	own, closeOwn, err := connecting(netip.MustParseAddr(local), remote)
	if err != nil {
		t.Error(err)
		return
	}
	defer closeOwn()
	listening, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		t.Error(err)
		return
	}
	for _, c := range []struct {
		name string
		to   netip.AddrPort
		ok   bool
	}{
		{"that is waited for", own, true},
		{"to a port that is listened on", listening, false},
		{"to a port that nobody has", netip.AddrPortFrom(own.Addr(), 1), false},
	} {
		i := packet.Info{
			Tuple:     packet.Tuple{Local: c.to, Remote: remote, Protocol: packet.TCP},
			Direction: packet.Inbound, TCPFlags: packet.TCPSyn | packet.TCPAck,
		}
		if d, ok := f.FindOrigin(&i); ok != c.ok || ok && d != packet.Outbound {
			t.Errorf("%s: an answer %s: got %v, %t; want outbound: %t", name, c.name, d, ok, c.ok)
		}
	}
}

// connecting returns the local end of a socket that has sent a SYN and waits.
func connecting(local netip.Addr, remote netip.AddrPort) (own netip.AddrPort, closeIt func(), err error) {
	family := unix.AF_INET
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(remote.Addr().AsSlice()), Port: int(remote.Port())}
	if local.Is6() {
		family = unix.AF_INET6
		to = &unix.SockaddrInet6{Addr: remote.Addr().As16(), Port: int(remote.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return own, nil, err
	}
	closeIt = func() { unix.Close(fd) } //nolint:errcheck,gosec // nothing to lose
	if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
		closeIt()
		return own, nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		closeIt()
		return own, nil, err
	}
	switch n := name.(type) {
	case *unix.SockaddrInet4:
		own = netip.AddrPortFrom(netip.AddrFrom4(n.Addr), uint16(n.Port))
	case *unix.SockaddrInet6:
		own = netip.AddrPortFrom(netip.AddrFrom16(n.Addr), uint16(n.Port))
	}
	return own, closeIt, nil
}
