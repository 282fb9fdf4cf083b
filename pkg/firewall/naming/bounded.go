package naming

// bounded is a map of which the oldest entries go when there are too many.
type bounded[K comparable, V any] struct {
	m map[K]slotted[V]
	// ring has the keys in the order in which they came, from at on; some are gone.
	ring []K
	at   int
}

// slotted is a value with the place of its key in the ring: a key that was dropped and came again has more than one.
type slotted[V any] struct {
	value V
	slot  int
}

func (b *bounded[K, V]) init(limit int) {
	b.m, b.ring = make(map[K]slotted[V]), make([]K, limit)
}

func (b *bounded[K, V]) get(k K) (V, bool) {
	v, ok := b.m[k]
	return v.value, ok
}

func (b *bounded[K, V]) put(k K, v V) {
	old, there := b.m[k]
	if there {
		b.m[k] = slotted[V]{v, old.slot}
		return
	}
	if oldest := b.ring[b.at]; b.m[oldest].slot == b.at {
		delete(b.m, oldest)
	}
	b.ring[b.at] = k
	b.m[k] = slotted[V]{v, b.at}
	b.at = (b.at + 1) % len(b.ring)
}

// drop reports whether there was one.
func (b *bounded[K, V]) drop(k K) bool {
	_, there := b.m[k]
	delete(b.m, k)
	return there
}
