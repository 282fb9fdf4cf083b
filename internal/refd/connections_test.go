package refd

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
)

// Connections are found by their numbers while they live, however often they are asked for.
func TestLookups(t *testing.T) {
	store := connstore.NewLive(connstore.Config{})
	tuple := func(n int) packet.Tuple {
		return packet.Tuple{Protocol: packet.UDP, Local: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(n)), Remote: netip.MustParseAddrPort("192.0.2.1:53")}
	}
	add := func(n int) conn.ID {
		c, _ := store.GetOrAdd(tuple(n), func() *conn.Snapshot { return &conn.Snapshot{Started: time.Unix(1, 0)} })
		return c.State().ID
	}
	var l lookups
	find := func(ids ...conn.ID) []conn.ID {
		found := []conn.ID{}
		for _, s := range l.find(store, ids) {
			found = append(found, s.ID)
		}
		return found
	}
	one, two, three := add(1), add(2), add(3)
	store.End(tuple(3), time.Unix(2, 0))
	assert.Equal(t, []conn.ID{two, one}, find(two, one, three, 99))
	assert.Equal(t, []conn.ID{two, one}, find(two, one, three, 99))
	store.End(tuple(2), time.Unix(2, 0))
	again := add(2)
	assert.Equal(t, []conn.ID{one, again}, find(two, one, again))
	for n := range maxLookups {
		find(conn.ID(1000 + n)) // more than there is room for
	}
	assert.Equal(t, []conn.ID{one, again}, find(two, one, again))
}
