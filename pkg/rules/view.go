package rules

import (
	"hash/maphash"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
)

// view is what the app conditions of a Set say about a process.
type view struct {
	// profile is -1 if there is none.
	profile int32
	// matched has a bit for each appTable match.
	matched []uint64
	// sets has the rules whose app condition holds, by block.appSlot: first of
	// the global list, then of the profile's.
	sets []*bitset
}

func (v *view) has(n int32) bool {
	w := int(n >> 6)
	return w < len(v.matched) && v.matched[w]>>(n&63)&1 != 0
}

func (v *view) rules(b *block) *bitset {
	if b.appSlot < len(v.sets) {
		return v.sets[b.appSlot]
	}
	return nil
}

// build works out the view of a process that is known.
func (t *Set) buildView(p *conn.Process) *view {
	v := &view{profile: -1}
	var matched []int32
	t.apps.find(p, func(n int32) {
		matched = append(matched, n)
		if m := t.apps.matches[n]; m.profile >= 0 && (v.profile < 0 || m.profile < v.profile) {
			v.profile = m.profile
		}
	})
	if len(matched) == 0 {
		return v
	}
	v.matched = make([]uint64, (len(t.apps.matches)+63)/64)
	for _, n := range matched {
		v.matched[n>>6] |= 1 << (n & 63)
	}
	v.add(&t.global, matched)
	if v.profile >= 0 {
		v.add(&t.profiles[v.profile].list, matched)
	}
	return v
}

// add appends the sets of a list's blocks.
func (v *view) add(l *list, matched []int32) {
	for _, b := range l.blocks {
		if b.appRules == nil {
			continue
		}
		var set bitBuilder
		for _, n := range matched {
			for _, r := range b.appRules[n] {
				set.set(r)
			}
		}
		v.sets = append(v.sets, set.freeze())
	}
}

// The cache of views has two tables of the same kind. The first finds a process
// by its pointer, the second by what the rules look at, so that a program that
// is started again and again is worked out once. Reading takes no lock; a lost
// race between two writers costs a view that is worked out again.
const (
	cacheBuckets = 512
	cacheWays    = 4
)

// viewCache keeps views of up to cacheBuckets*cacheWays processes.
type viewCache struct {
	slots [cacheBuckets * cacheWays]atomic.Pointer[cachedView]
	// hand chooses whom a new entry replaces.
	hand atomic.Uint32
}

type cachedView struct {
	hash    uint64
	process *conn.Process
	view    *view
}

func (c *viewCache) bucket(hash uint64) []atomic.Pointer[cachedView] {
	i := hash % cacheBuckets * cacheWays
	return c.slots[i : i+cacheWays]
}

func (c *viewCache) put(v *cachedView) {
	bucket := c.bucket(v.hash)
	for i := range bucket {
		if bucket[i].CompareAndSwap(nil, v) {
			return
		}
	}
	bucket[c.hand.Add(1)%cacheWays].Store(v)
}

// viewOf returns the view of a process.
func (t *Set) viewOf(p *conn.Process) *view {
	if !known(p) || len(t.apps.matches) == 0 {
		return t.unknown
	}
	hash := pointerHash(p)
	bucket := t.byPointer.bucket(hash)
	for i := range bucket {
		if e := bucket[i].Load(); e != nil && e.process == p {
			return e.view
		}
	}
	v := t.viewByContent(p)
	t.byPointer.put(&cachedView{hash, p, v})
	return v
}

func (t *Set) viewByContent(p *conn.Process) *view {
	f := &t.apps.fields
	hash := f.hash(t.seed, p)
	bucket := t.byContent.bucket(hash)
	for i := range bucket {
		if e := bucket[i].Load(); e != nil && e.hash == hash && f.equal(e.process, p) {
			return e.view
		}
	}
	v := t.buildView(p)
	t.byContent.put(&cachedView{hash, p, v})
	return v
}

// pointerHash spreads processes by what is cheap to read; whether it is the
// same process is decided by the pointer.
func pointerHash(p *conn.Process) uint64 {
	const prime = 0x9e3779b97f4a7c15
	h := (uint64(p.PID) ^ bits.RotateLeft64(p.StartTicks, 32)) * prime
	return h >> 32
}

// hash is over the facts that matter.
func (f *fields) hash(seed maphash.Seed, p *conn.Process) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	text := func(s string) {
		writeUint(&h, uint64(len(s))) // so that "a","b" is not "ab",""
		mustWrite(h.WriteString(s))
	}
	for range maxAncestors {
		if p == nil {
			break
		}
		if !known(p) {
			writeUint(&h, 0)
		}
		if f.path {
			text(p.Path)
		}
		if f.script {
			text(p.Script)
		}
		if f.cgroup {
			text(p.Cgroup)
		}
		if f.identity {
			text(p.App.ID)
		}
		if f.unit {
			text(p.App.Unit)
		}
		if f.uid {
			writeUint(&h, uint64(p.UID))
		}
		if f.args {
			for _, a := range p.Args {
				text(a)
			}
		}
		if !f.parent {
			break
		}
		p = p.Parent
	}
	return h.Sum64()
}

func writeUint(h *maphash.Hash, n uint64) {
	for range 8 {
		if err := h.WriteByte(byte(n)); err != nil {
			panic(err) // documented never to happen
		}
		n >>= 8
	}
}

// mustWrite is for a hash, which is documented never to fail.
func mustWrite(_ int, err error) {
	if err != nil {
		panic(err)
	}
}

// equal compares the facts that matter.
func (f *fields) equal(a, b *conn.Process) bool {
	for range maxAncestors {
		if a == b {
			return true
		}
		if a == nil || b == nil || known(a) != known(b) ||
			f.path && a.Path != b.Path ||
			f.script && a.Script != b.Script ||
			f.cgroup && a.Cgroup != b.Cgroup ||
			f.identity && a.App.ID != b.App.ID ||
			f.unit && a.App.Unit != b.App.Unit ||
			f.uid && a.UID != b.UID ||
			f.args && !slices.Equal(a.Args, b.Args) {
			return false
		}
		if !f.parent {
			return true
		}
		a, b = a.Parent, b.Parent
	}
	return false // nobody looked at all of it
}
