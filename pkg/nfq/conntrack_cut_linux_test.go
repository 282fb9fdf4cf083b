package nfq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
)

func TestIntegrationCutBound(t *testing.T) { isolated(t, VariantNFT, testCutBound) }

// bindTo binds a socket to an interface before it does anything else.
func bindTo(name string) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }), err)
	}
}

// wantCut cuts a connection and wants its socket to end.
func wantCut(t *testing.T, x packet.Tuple, c net.Conn) {
	t.Helper()
	start := time.Now()
	if err := cut(x); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v took %v", x, time.Since(start).Round(time.Microsecond))
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("%v: got %v after cut; want ECONNABORTED", x, err)
	}
	if err := cut(x); err != nil {
		t.Errorf("%v: got %v when there is none any more; want nil", x, err)
	}
}

// testCutBound checks that sockets that are bound to an interface end too, and no others.
func testCutBound(r *rig) {
	t := r.t
	r.echoServers()
	dialer := net.Dialer{Control: bindTo("eth0")}
	eachFamily(t, func(t *testing.T, f family) {
		for _, protocol := range []packet.Protocol{packet.TCP, packet.UDP} {
			dial := func() (net.Conn, packet.Tuple) {
				c, err := dialer.DialContext(t.Context(), strings.ToLower(protocol.String()), netip.AddrPortFrom(serverAddr(f), 7).String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				mustExchange(t, c)
				x := udpTuple(c)
				x.Protocol = protocol
				return c, x
			}
			c, x := dial()
			other, _ := dial()
			wantCut(t, x, c)
			mustExchange(t, other)
			other2 := x
			other2.Remote = netip.AddrPortFrom(x.Remote.Addr().Next(), 7)
			if err := cut(other2); err != nil {
				t.Error(err)
			}
			mustExchange(t, other)
		}
	})
	t.Run("link-local", func(t *testing.T) { testCutLinkLocal(t, r) })
	t.Run("listener", func(t *testing.T) { testCutAccepted(t, r) })
}

// testCutLinkLocal: a packet does not say what interface its address is about, and so neither does the tuple.
func testCutLinkLocal(t *testing.T, r *rig) {
	var peer string
	for _, field := range strings.Fields(r.peer.Run(t, "ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")) {
		if strings.HasPrefix(field, "fe80:") {
			peer, _, _ = strings.Cut(field, "/")
		}
	}
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	// by number: package net may remember another namespace's eth0
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", fmt.Sprintf("[%s%%%d]:7", peer, link.Index))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mustExchange(t, c)
	bare := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()) }
	x := udpTuple(c)
	wantCut(t, packet.Tuple{Local: bare(x.Local), Remote: bare(x.Remote), Protocol: packet.TCP}, c)
}

// testCutAccepted checks connections of a listener that is bound, which are IPv6 sockets even for IPv4. The listener goes on.
func testCutAccepted(t *testing.T, r *rig) {
	l, err := (&net.ListenConfig{Control: bindTo("eth0")}).Listen(t.Context(), "tcp", "[::]:4000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	eachFamily(t, func(t *testing.T, f family) {
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out, err := r.peer.Dial(ctx, "tcp", netip.AddrPortFrom(clientAddr(f), 4000).String())
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			in, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			x := udpTuple(out).Reverse()
			x.Protocol = packet.TCP
			wantCut(t, x, in)
		}
	})
}

// cut ends the socket of a connection in this namespace.
func cut(t packet.Tuple) error {
	c, err := openCutter()
	if err != nil {
		return err
	}
	return errors.Join(c.cut(t), c.close())
}

// cut checks that the socket of a UDP connection ends, and one that talks to everybody does not.
func (c conntrackTest) cut(t *testing.T) {
	c.rd.set(all(repeat(DefaultMarks().Accept)))
	sockets, err := openCutter()
	if err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		x := c.udp(t, packet.Outbound, f)
		mustExchange(t, x)
		if err := sockets.cut(udpTuple(x)); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("got %v after cut; want ECONNABORTED", err)
		}
		if err := sockets.cut(udpTuple(x)); err != nil {
			t.Errorf("got %v when there is none any more; want nil", err)
		}
		in := c.udp(t, packet.Inbound, f)
		mustExchange(t, in)
		if err := sockets.cut(tupleOf(in, packet.Inbound)); err != nil {
			t.Fatal(err)
		}
		mustExchange(t, in)
	})
	if err := errors.Join(sockets.close(), sockets.close()); err != nil {
		t.Error(err)
	}
	if err := sockets.cut(packet.Tuple{Protocol: packet.UDP}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v after close; want ErrClosed", err)
	}
}
