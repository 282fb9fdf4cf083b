package testnet_test

import (
	"testing"

	"github.com/weirfw/weir/internal/testnet"
)

func TestDiff(t *testing.T) {
	for _, test := range []struct{ name, before, after, want string }{
		{"equal", "== a\nx\n", "== a\nx\n", ""},
		{"more", "== a\nx\n", "== a\nx\ny\n", "+ == a: y\n"},
		{"less", "== a\nx\n== b\ny\n", "== a\nx\n== b\n", "- == b: y\n"},
		{"twice", "== a\nx\n", "== a\nx\nx\n", "+ == a: x\n"},
		{"order", "x\ny\n", "y\nx\n", "the same lines in another order\n"},
	} {
		if got := testnet.Diff(test.before, test.after); got != test.want {
			t.Errorf("%s: got %q; want %q", test.name, got, test.want)
		}
	}
}
