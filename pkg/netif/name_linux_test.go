package netif_test

import (
	"errors"
	"testing"

	"github.com/weirfw/weir/pkg/netif"
)

func TestParseSelectorKernelNames(t *testing.T) {
	for _, name := range []string{"a/b", "a:b", "a b", "a\u00a0b", ".", "..", "sixteen-bytes-xx"} {
		if _, err := netif.ParseSelector(name); !errors.Is(err, netif.ErrBadSelector) {
			t.Errorf("%q: got %v; want %v", name, err, netif.ErrBadSelector)
		}
	}
	if _, err := netif.ParseSelector("fifteen-bytes-x"); err != nil {
		t.Errorf("15 bytes: got %v; want no error", err)
	}
}
