package proxy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
)

func request(n int) Request {
	return Request{
		Protocol: packet.TCP, Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(n)),
		Destination: netip.MustParseAddrPort("203.0.113.1:80"),
	}
}

func TestPending(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	key, other := pathKey{2, netif.IPv4}, pathKey{3, netif.IPv4}
	var p pendingTable
	p.init(30*time.Second, 2)
	want := func(step string, n int, at time.Time, wantKey pathKey, wantOK bool) {
		t.Helper()
		if got, ok := p.find(request(n), at); got != wantKey || ok != wantOK {
			t.Errorf("%s: got %v, %v; want %v, %v", step, got, ok, wantKey, wantOK)
		}
	}
	put := func(step string, n int, k pathKey, at time.Time, wantOK bool) {
		t.Helper()
		if ok := p.put(request(n), k, at); ok != wantOK {
			t.Errorf("%s: got %v; want %v", step, ok, wantOK)
		}
	}
	put("first", 1, key, now, true)
	want("first", 1, now, key, true)
	want("unknown", 2, now, pathKey{}, false)
	want("in time", 1, now.Add(30*time.Second), key, true)
	want("too late", 1, now.Add(31*time.Second), pathKey{}, false)
	put("second", 2, key, now.Add(time.Second), true)
	put("full", 3, key, now.Add(time.Second), false)
	put("again, by another path, although full", 1, other, now.Add(10*time.Second), true)
	want("the newest counts", 1, now.Add(35*time.Second), other, true)
	p.putBack(request(1), key, now.Add(11*time.Second))
	want("putBack does not replace", 1, now.Add(11*time.Second), other, true)
	put("room after the second expired", 3, key, now.Add(32*time.Second), true)
	if p.expired != 1 || p.len() != 2 {
		t.Errorf("got %d expired, %d left; want 1, 2", p.expired, p.len())
	}
	p.remove(request(1))
	p.remove(request(3))
	p.expire(now.Add(time.Hour))
	if p.expired != 1 || p.len() != 0 || len(p.queue) != 0 {
		t.Errorf("got %d expired, %d left, %d queued; want 1, 0, 0", p.expired, p.len(), len(p.queue))
	}
}

// TestPendingBounded claims connections by the thousand while one waits: memory must not grow with their number.
func TestPendingBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var p pendingTable
	p.init(time.Hour, 8)
	p.put(request(0), pathKey{2, netif.IPv4}, now)
	for n := range 10_000 {
		p.put(request(n%60_000+1), pathKey{2, netif.IPv4}, now)
		p.remove(request(n%60_000 + 1))
		if len(p.queue) > 32 {
			t.Fatalf("after %d connections %d are queued; want at most 32", n, len(p.queue))
		}
	}
	if _, ok := p.find(request(0), now); !ok {
		t.Error("the one that waits is gone")
	}
}
