package connstore

import "slices"

// top keeps the first of many, in the order of compare.
type top[T any] struct {
	// room is how many are kept; 0 is all.
	room    int
	compare func(a, b *T) int
	// kept is a heap with the last one on top, once there is no more room.
	kept []T
}

// add keeps v if there are not enough before it.
func (t *top[T]) add(v *T) {
	switch {
	case t.room == 0 || len(t.kept) < t.room:
		t.kept = append(t.kept, *v)
		if len(t.kept) == t.room {
			for i := len(t.kept)/2 - 1; i >= 0; i-- {
				t.down(i)
			}
		}
	case t.compare(v, &t.kept[0]) < 0:
		t.kept[0] = *v
		t.down(0)
	}
}

// after reports whether i comes after k.
func (t *top[T]) after(i, k int) bool { return t.compare(&t.kept[i], &t.kept[k]) > 0 }

func (t *top[T]) down(i int) {
	for {
		child := 2*i + 1
		if child+1 < len(t.kept) && t.after(child+1, child) {
			child++
		}
		if child >= len(t.kept) || !t.after(child, i) {
			return
		}
		t.kept[i], t.kept[child] = t.kept[child], t.kept[i]
		i = child
	}
}

// sorted returns what was kept, in order. It ends t.
func (t *top[T]) sorted() []T {
	slices.SortFunc(t.kept, func(a, b T) int { return t.compare(&a, &b) })
	return t.kept
}
