package netif

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/winerig"
)

// servers makes the list that an adapter has.
func servers(t *testing.T, addrs ...string) (first *windows.IpAdapterDnsServerAdapter) {
	t.Helper()
	for _, addr := range slices.Backward(addrs) {
		raw := socket6
		if netip.MustParseAddr(addr).Is4() {
			raw = socket4
		}
		first = &windows.IpAdapterDnsServerAdapter{Address: at(raw(t, addr)), Next: first}
	}
	return first
}

func TestNameserversOfAdapters(t *testing.T) {
	adapter := func(index, status uint32, addrs ...string) *windows.IpAdapterAddresses {
		return &windows.IpAdapterAddresses{Ipv6IfIndex: index, OperStatus: status, FirstDnsServerAddress: servers(t, addrs...)}
	}
	first := adapter(7, windows.IfOperStatusUp, "192.168.1.1", "fe80::1", "fec0:0:0:ffff::1", "2001:db8::53")
	first.Next = adapter(8, windows.IfOperStatusDown, "10.0.0.1")
	first.Next.Next = adapter(9, windows.IfOperStatusUp, "192.168.1.1", "fe80::1")
	const want = "[192.168.1.1 fe80::1%7 2001:db8::53 fe80::1%9]"
	if got := fmt.Sprint(nameserversOf(first)); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	if got := nameserversOf(nil); got != nil {
		t.Errorf("no adapters: got %v", got)
	}
}

// Wine takes them from the file of the system below it.
func TestNameservers(t *testing.T) {
	got, err := Nameservers()
	if err != nil {
		t.Fatal(err)
	}
	if !winerig.UnderWine() {
		t.Logf("got %v", got)
		return
	}
	b, err := os.ReadFile(`Z:\etc\resolv.conf`)
	if err != nil {
		t.Fatal(err)
	}
	var want []netip.Addr
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "nameserver" && !slices.Contains(want, netip.MustParseAddr(f[1])) {
			want = append(want, netip.MustParseAddr(f[1]))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v; want %v, which the file says", got, want)
	}
}
