package naming

// bounded is a map of which the oldest entries go when there are too many.
type bounded[K comparable, V any] struct {
	m map[K]V
	// ring has the keys in the order in which they came, from at on; some are gone.
	ring []K
	at   int
}

func (b *bounded[K, V]) init(limit int) {
	b.m, b.ring = make(map[K]V), make([]K, limit)
}

func (b *bounded[K, V]) get(k K) (V, bool) {
	v, ok := b.m[k]
	return v, ok
}

func (b *bounded[K, V]) put(k K, v V) {
	if _, there := b.m[k]; !there {
		delete(b.m, b.ring[b.at])
		b.ring[b.at] = k
		b.at = (b.at + 1) % len(b.ring)
	}
	b.m[k] = v
}

// drop reports whether there was one.
func (b *bounded[K, V]) drop(k K) bool {
	_, there := b.m[k]
	delete(b.m, k)
	return there
}
