package proxy

// slab holds the sessions of a loop by number, so that an event of the kernel leads to its session without a map. A number is
// used again, but with another generation: an event that was on its way when its session ended leads nowhere.
type slab[T any] struct {
	slots []slot[T]
	free  []int32
}

type slot[T any] struct {
	v   *T
	gen uint32
}

// maxGen is what fits into an event beside the kind.
const maxGen = 1<<29 - 1

func (s *slab[T]) put(v *T) (index int32, gen uint32) {
	if n := len(s.free); n > 0 {
		index = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		index = int32(len(s.slots))
		s.slots = append(s.slots, slot[T]{})
	}
	s.slots[index].v = v
	return index, s.slots[index].gen
}

// get returns nil if that session has ended.
func (s *slab[T]) get(index int32, gen uint32) *T {
	if int(index) >= len(s.slots) || s.slots[index].gen != gen {
		return nil
	}
	return s.slots[index].v
}

func (s *slab[T]) remove(index int32) {
	s.slots[index].v = nil
	s.slots[index].gen = (s.slots[index].gen + 1) & maxGen
	s.free = append(s.free, index)
}

func (s *slab[T]) len() int { return len(s.slots) - len(s.free) }

// each calls f for every session; f may remove it.
func (s *slab[T]) each(f func(*T)) {
	for i := range s.slots {
		if v := s.slots[i].v; v != nil {
			f(v)
		}
	}
}
