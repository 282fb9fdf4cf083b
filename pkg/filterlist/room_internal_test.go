package filterlist

import (
	"errors"
	"testing"
)

func TestTooManyEntries(t *testing.T) {
	l := &List{count: MaxEntries - 1}
	if err := l.line(1, "192.0.2.1"); err != nil || l.Len() != MaxEntries {
		t.Errorf("got %v; want room for one more", err)
	}
	for _, text := range []string{"192.0.2.2", "a.test", "0.0.0.0 b.test"} {
		if err := l.line(2, text); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v; want ErrTooLarge", text, err)
		}
	}
}
