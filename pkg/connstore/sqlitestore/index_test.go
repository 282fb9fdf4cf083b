package sqlitestore

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
)

// The index against a map, with rows that come late, in the middle and before all others.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same ones each time
	var x index
	model := map[conn.ID]uint64{}
	check := func() {
		t.Helper()
		var want []conn.ID
		for id := range model {
			want = append(want, id)
		}
		slices.Sort(want)
		slices.Reverse(want)
		var got []conn.ID
		x.backwards(func(r *row) bool { got = append(got, r.id); return true })
		if !slices.Equal(got, want) || x.n != len(want) {
			t.Fatalf("got %d rows, counted %d; want %d", len(got), x.n, len(want))
		}
		slices.Reverse(want)
		got = nil
		numbers := map[netip.Addr]uint32{}
		x.forwards(func(r *row) bool {
			got = append(got, r.id)
			if n, ok := numbers[r.addr()]; r.address == 0 || ok && n != r.address {
				t.Fatalf("%v has the numbers %d and %d", r.addr(), n, r.address)
			}
			numbers[r.addr()] = r.address
			return true
		})
		if !slices.Equal(got, want) {
			t.Fatalf("forwards: got %d rows; want %d", len(got), len(want))
		}
		if distinct := len(slices.Compact(slices.Sorted(maps.Values(numbers)))); distinct != len(numbers) {
			t.Fatalf("%d addresses have %d numbers", len(numbers), distinct)
		}
		if n := len(want); n > 0 && x.at(n-1).id != want[n-1] || x.at(n) != nil {
			t.Fatalf("at %d: got %+v", n, x.at(n))
		}
	}
	next := conn.ID(1000)
	for n := range 60_000 {
		id := next
		switch r.IntN(10) {
		case 0:
			id -= conn.ID(r.IntN(500))
		case 1:
			id = conn.ID(1 + r.IntN(int(next)))
		default:
			next += conn.ID(1 + r.IntN(2))
		}
		x.put(&row{id: id, sent: uint64(n), remote: netip.AddrFrom4([4]byte{10, 0, byte(id >> 12), byte(id >> 4)}).As16(), v4: id%2 == 0})
		model[id] = uint64(n)
		if n%20_000 == 7_000 {
			check()
			before := conn.ID(r.IntN(int(next)))
			x.removeBefore(before)
			for id := range model {
				if id < before {
					delete(model, id)
				}
			}
			check()
		}
	}
	check()
	for id, sent := range model {
		if got := x.get(id); got == nil || got.sent != sent {
			t.Fatalf("row %d: got %+v; want %d", id, got, sent)
		}
	}
	for id := range conn.ID(200) {
		if _, ok := model[id]; !ok && x.get(id) != nil {
			t.Fatalf("row %d is there", id)
		}
	}
	x.removeBefore(next + 1000)
	if len(x.addresses) != 0 {
		t.Errorf("%d addresses have numbers, and no row", len(x.addresses))
	}
	if x.n != 0 || x.get(next) != nil || x.at(0) != nil {
		t.Errorf("got %d rows; want none", x.n)
	}
}
