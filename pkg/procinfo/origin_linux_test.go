package procinfo

import (
	"fmt"
	"net"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

func wantOrigin(t *testing.T, f *Finder, info packet.Info, want packet.Direction) {
	t.Helper()
	if d, ok := f.FindOrigin(&info); !ok || d != want {
		t.Errorf("%v: got %v, %v; want %v", info.Tuple, d, ok, want)
	}
}

func wantNoOrigin(t *testing.T, f *Finder, info packet.Info) {
	t.Helper()
	if d, ok := f.FindOrigin(&info); ok {
		t.Errorf("%v: got %v; want unknown", info.Tuple, d)
	}
}

// TestIntegrationOrigin has both ends of each connection on this host: what is
// outbound for one is inbound for the other.
func TestIntegrationOrigin(t *testing.T) {
	for _, test := range []struct{ name, network, listen, dial string }{
		{"v4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"v4 wildcard", "tcp4", "0.0.0.0:0", "127.0.0.1"},
		{"v6", "tcp6", "[::1]:0", "::1"},
		{"v6 wildcard", "tcp6", "[::]:0", "::1"},
		{"v4 over dual stack", "tcp", "[::]:0", "127.0.0.1"},
		{"v6 over dual stack", "tcp", "[::]:0", "::1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ways(t, func(t *testing.T, f *Finder) {
				l, err := listenTCP(test.network, test.listen)
				must(t, err)
				defer l.Close()
				c, err := net.Dial("tcp", net.JoinHostPort(test.dial, fmt.Sprint(addrPort(l.Addr()).Port())))
				must(t, err)
				defer c.Close()
				out := packet.Info{Tuple: packet.Tuple{
					Local: addrPort(c.LocalAddr()), Remote: addrPort(c.RemoteAddr()), Protocol: packet.TCP,
				}}
				wantOrigin(t, f, out, packet.Outbound)
				wantOrigin(t, f, reversed(out), packet.Inbound) // though nobody has accepted it yet
				accepted, err := l.Accept()
				must(t, err)
				defer accepted.Close()
				wantOrigin(t, f, reversed(out), packet.Inbound)

				// who only claims to be connected is not taken for a server that answers
				stranger := reversed(out)
				stranger.Remote = ap(net.JoinHostPort(test.dial, "1"))
				wantNoOrigin(t, f, stranger)
				stranger.Local = ap(net.JoinHostPort(test.dial, "2"))
				wantNoOrigin(t, f, stranger)
				datagram := out
				datagram.Protocol = packet.UDP
				wantNoOrigin(t, f, datagram)

				// only the port's own address counts
				other, err := listenTCP("tcp4", net.JoinHostPort("127.0.0.2", fmt.Sprint(out.Local.Port())))
				must(t, err)
				defer other.Close()
				wantOrigin(t, f, out, packet.Outbound)
				must(t, f.Close())
				wantNoOrigin(t, f, out)
			})
		})
	}
}

// TestIntegrationOriginMapped is an IPv6 socket that talks IPv4.
func TestIntegrationOriginMapped(t *testing.T) {
	ways(t, func(t *testing.T, f *Finder) {
		to := listener(t, "tcp4", "127.0.0.1:0")
		p := python(t, `
s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM); s.connect(("::ffff:127.0.0.1", int(sys.argv[1])))
plain = lambda a: addr(a).replace("::ffff:", "").replace("[", "").replace("]", "")
print(plain(s.getsockname()), plain(s.getpeername()), flush=True); wait()
`, fmt.Sprint(to.Port()))
		info := p.socket(packet.TCP)
		wantOrigin(t, f, info, packet.Outbound)
		wantOrigin(t, f, reversed(info), packet.Inbound)
	})
}
