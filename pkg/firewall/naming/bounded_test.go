package naming

import "testing"

// A key that was dropped and came again is as new as it is, and not as old as it was.
func TestBoundedAgain(t *testing.T) {
	var b bounded[string, int]
	b.init(3)
	b.put("a", 1)
	b.drop("a")
	b.put("b", 2)
	b.put("a", 3)
	b.put("c", 4) // takes the first place of "a"
	for k, want := range map[string]int{"a": 3, "b": 2, "c": 4} {
		if v, ok := b.get(k); !ok || v != want {
			t.Errorf("%s: got %d, %t; want %d", k, v, ok, want)
		}
	}
	b.put("d", 5)
	if _, ok := b.get("b"); ok || len(b.m) != 3 {
		t.Errorf("got %d; want the oldest gone", len(b.m))
	}
}
