package connstore_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// epoch is when the tests begin: the store takes its time from packets.
func epoch() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func after(d time.Duration) time.Time { return epoch().Add(d) }

// key is the n-th tuple.
func key(n int) packet.Tuple {
	return packet.Tuple{
		Local:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(1024+n%60_000)),
		Remote:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), 443),
		Protocol: packet.TCP,
	}
}

// sameShard returns n keys that share a shard with key(0), whatever the hash:
// they make a store of one connection a shard evict.
func sameShard(t *testing.T, n int) []packet.Tuple {
	t.Helper()
	l := connstore.NewLive(connstore.Config{MaxLive: 64})
	first := key(0)
	found := []packet.Tuple{first}
	for k := 1; len(found) < n; k++ {
		l.GetOrAdd(first, snapshot)
		l.GetOrAdd(key(k), snapshot)
		if l.Get(first) == nil {
			found = append(found, key(k))
		}
	}
	return found
}

func snapshot() *conn.Snapshot { return &conn.Snapshot{Started: epoch()} }

// add adds a connection with a verdict, last seen at a time.
func add(t *testing.T, l *connstore.Live, k packet.Tuple, v verdict.Verdict, seen time.Time) *conn.Conn {
	t.Helper()
	c, added := l.GetOrAdd(k, func() *conn.Snapshot { return &conn.Snapshot{Started: seen} })
	if !added {
		t.Fatalf("%v is there already", k)
	}
	c.Update(func(s *conn.Snapshot) { s.Decision.Verdict, s.Enforced = v, true })
	return c
}
