package sqlitestore

import (
	"math/rand/v2"
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
		if n := len(want); n > 0 && x.at(n-1).id != want[0] || x.at(n) != nil {
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
		x.put(&row{id: id, sent: uint64(n)})
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
	if x.n != 0 || x.get(next) != nil || x.at(0) != nil {
		t.Errorf("got %d rows; want none", x.n)
	}
}
