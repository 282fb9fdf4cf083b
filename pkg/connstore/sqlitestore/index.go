package sqlitestore

import (
	"net/netip"
	"slices"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// row is what of a connection is kept in memory: whatever a query can select, sort and add up by.
type row struct {
	id             conn.ID
	started, seen  int64
	received, sent uint64
	// remote is as netip.Addr.As16 has it; v4 tells which ones are IPv4.
	remote                 [16]byte
	app, name, reason, way uint32
	process                uint32
	pid                    int32
	localPort, remotePort  uint16
	verdict                verdict.Verdict
	protocol               packet.Protocol
	direction              packet.Direction
	v4, ended, query       bool
	// address is the number of the remote address in this index, from 1: rows are put together by it. put sets it.
	address uint32
}

// chunkSize is how many rows are moved at most where one comes late.
const chunkSize = 4096

// index has the rows in the order of their numbers. Most are appended: numbers are given in order, and written about in order.
type index struct {
	chunks [][]row // none is empty
	n      int
	// addresses have a number each. Those that no row has any more go when as many rows have gone as there are.
	addresses map[netip.Addr]uint32
	removed   int
}

// number sets r.address.
func (x *index) number(r *row) {
	a := r.addr()
	n, ok := x.addresses[a]
	if !ok {
		if x.addresses == nil {
			x.addresses = map[netip.Addr]uint32{}
		}
		n = uint32(len(x.addresses)) + 1
		x.addresses[a] = n
	}
	r.address = n
}

// numberAnew forgets addresses that no row has.
func (x *index) numberAnew() {
	x.addresses, x.removed = nil, 0
	x.forwards(func(r *row) bool {
		x.number(r)
		return true
	})
}

// chunk returns the chunk that id belongs into, -1 if there is none.
func (x *index) chunk(id conn.ID) int {
	i, found := slices.BinarySearchFunc(x.chunks, id, func(c []row, id conn.ID) int { return compareIDs(c[0].id, id) })
	if found {
		return i
	}
	return max(i-1, min(0, len(x.chunks)-1))
}

func compareIDs(a, b conn.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func findRow(c []row, id conn.ID) (int, bool) {
	return slices.BinarySearchFunc(c, id, func(r row, id conn.ID) int { return compareIDs(r.id, id) })
}

// get returns the row of a connection, nil if there is none. It is valid until the next put or remove.
func (x *index) get(id conn.ID) *row {
	if i := x.chunk(id); i >= 0 {
		if k, ok := findRow(x.chunks[i], id); ok {
			return &x.chunks[i][k]
		}
	}
	return nil
}

// put adds a row, or replaces the one with the same number.
func (x *index) put(r *row) {
	x.number(r)
	x.insert(r)
}

func (x *index) insert(r *row) {
	i := x.chunk(r.id)
	if i < 0 {
		x.chunks = append(x.chunks, append(make([]row, 0, chunkSize), *r))
		x.n++
		return
	}
	c := x.chunks[i]
	k, ok := findRow(c, r.id)
	switch {
	case ok:
		c[k] = *r
		return
	case len(c) < chunkSize:
		x.chunks[i] = slices.Insert(c, k, *r)
	case k == len(c):
		x.chunks = slices.Insert(x.chunks, i+1, append(make([]row, 0, chunkSize), *r))
	default:
		back := append(make([]row, 0, chunkSize), c[chunkSize/2:]...)
		x.chunks[i] = c[:chunkSize/2]
		x.chunks = slices.Insert(x.chunks, i+1, back)
		x.insert(r)
		return
	}
	x.n++
}

// removeBefore removes rows with lower numbers than id.
func (x *index) removeBefore(id conn.ID) {
	before := x.n
	x.cut(id)
	if x.removed += before - x.n; x.removed > x.n {
		x.numberAnew()
	}
}

func (x *index) cut(id conn.ID) {
	for len(x.chunks) > 0 {
		c := x.chunks[0]
		k, _ := findRow(c, id)
		x.n -= k
		if k < len(c) {
			x.chunks[0] = append(make([]row, 0, chunkSize), c[k:]...)
			return
		}
		x.chunks = x.chunks[1:]
	}
	x.chunks = nil
}

// backwards calls f for every row, the newest first, until it returns false.
func (x *index) backwards(f func(r *row) bool) {
	for i := len(x.chunks) - 1; i >= 0; i-- {
		c := x.chunks[i]
		for k := len(c) - 1; k >= 0; k-- {
			if !f(&c[k]) {
				return
			}
		}
	}
}

// forwards calls f for every row, the oldest first, until it returns false.
func (x *index) forwards(f func(r *row) bool) {
	for _, c := range x.chunks {
		for k := range c {
			if !f(&c[k]) {
				return
			}
		}
	}
}

// at returns the n-th row, from 0.
func (x *index) at(n int) *row {
	for _, c := range x.chunks {
		if n < len(c) {
			return &c[n]
		}
		n -= len(c)
	}
	return nil
}
