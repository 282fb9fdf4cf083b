package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/winerig"
)

// TestUnicastIf: the bytes that lie in memory, typed from facts/windows.md.
func TestUnicastIf(t *testing.T) {
	if got := unicastIf(0x01020304, netip.MustParseAddr("192.0.2.1")); got != 0x04030201 {
		t.Errorf("IPv4: got %#x; want network byte order, 0x4030201 on a little-endian machine", got)
	}
	if got := unicastIf(0x01020304, netip.MustParseAddr("2001:db8::1")); got != 0x01020304 {
		t.Errorf("IPv6: got %#x; want host byte order, 0x1020304", got)
	}
}

func TestDialRefuses(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:9"), netip.MustParseAddrPort("[2001:db8::1]:9")
	for _, c := range []struct {
		what   string
		egress Egress
		dst    netip.AddrPort
	}{
		{"no interface", Egress{Source: v4.Addr()}, v4},
		{"a name only", Egress{Interface: "Wi-Fi", Source: v4.Addr()}, v4},
		{"no source", Egress{Index: 1}, v4},
		{"source of another family", Egress{Index: 1, Source: v4.Addr()}, v6},
	} {
		if _, err := c.egress.Dial(t.Context(), "tcp", c.dst); !errors.Is(err, ErrEgress) {
			t.Errorf("%s: got %v; want %v", c.what, err, ErrEgress)
		}
	}
}

func uplinks(t *testing.T) winerig.Uplinks {
	t.Helper()
	told := os.Getenv(winerig.UplinkVar)
	if told == "" {
		t.Skip("runs in the Wine rig as root only: make test-windows")
	}
	var u winerig.Uplinks
	if err := json.Unmarshal([]byte(told), &u); err != nil {
		t.Fatal(err)
	}
	return u
}

func dial(t *testing.T, e Egress, network, server string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := e.Dial(ctx, network, netip.MustParseAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask returns the address that the server was asked from.
func ask(t *testing.T, c net.Conn) netip.Addr {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "who?"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	from, err := netip.ParseAddrPort(string(b[:n]))
	if err != nil {
		t.Fatal(err)
	}
	return from.Addr().Unmap()
}

// TestUDPLeavesByTheOtherUplink: each router drops what has another network's source, so an answer proves the way.
func TestUDPLeavesByTheOtherUplink(t *testing.T) {
	u := uplinks(t)
	for _, up := range []winerig.Uplink{u.Default, u.Other} {
		c := dial(t, Egress{Interface: up.Name, Index: up.Index, Source: netip.MustParseAddr(up.Addr4)}, "udp", u.Server4)
		if got := ask(t, c); got.String() != up.Addr4 {
			t.Errorf("%s: the server was asked from %v; want %s", up.Name, got, up.Addr4)
		}
	}
}

// TestTCPIsBound asks the socket: Wine takes the option and does not act on it.
func TestTCPIsBound(t *testing.T) {
	u := uplinks(t)
	e := Egress{Interface: u.Default.Name, Index: u.Default.Index, Source: netip.MustParseAddr(u.Default.Addr4)}
	c := dial(t, e, "tcp", u.Server4)
	if got := ask(t, c); got != e.Source {
		t.Errorf("the server was asked from %v; want %v", got, e.Source)
	}
	if got, ok := c.LocalAddr().(*net.TCPAddr); !ok || got.AddrPort().Addr().Unmap() != e.Source {
		t.Errorf("getsockname: got %v; want %v", c.LocalAddr(), e.Source)
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		t.Fatalf("got a %T; want a syscall.Conn", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	var getErr error
	if err := raw.Control(func(fd uintptr) {
		value, getErr = windows.GetsockoptInt(windows.Handle(fd), windows.IPPROTO_IP, ipUnicastIf)
	}); err != nil || getErr != nil {
		t.Fatal(err, getErr)
	}
	if got := uint32(int32(value)); got != unicastIf(e.Index, e.Source) {
		t.Errorf("getsockopt: got %#x; want %#x", got, unicastIf(e.Index, e.Source))
	}
}

func TestIPv6IsBound(t *testing.T) {
	winerig.SkipUnderWine(t, "IPV6_UNICAST_IF: Wine wants the index big-endian, Windows wants host order")
	u := uplinks(t)
	for _, network := range []string{"tcp", "udp"} {
		e := Egress{Interface: u.Default.Name, Index: u.Default.Index, Source: netip.MustParseAddr(u.Default.Addr6)}
		if got := ask(t, dial(t, e, network, u.Server6)); got != e.Source {
			t.Errorf("%s: the server was asked from %v; want %v", network, got, e.Source)
		}
	}
}

// TestIPv6OptionUnderWine: what Windows takes Wine refuses, so a refusal of the option must not go unnoticed.
func TestIPv6OptionUnderWine(t *testing.T) {
	if !winerig.UnderWine() {
		t.Skip("about Wine")
	}
	u := uplinks(t)
	e := Egress{Interface: u.Other.Name, Index: u.Other.Index, Source: netip.MustParseAddr(u.Other.Addr6)}
	if _, err := e.Dial(t.Context(), "udp", netip.MustParseAddrPort(u.Server6)); !errors.Is(err, ErrEgress) {
		t.Errorf("got %v; want %v", err, ErrEgress)
	}
}
