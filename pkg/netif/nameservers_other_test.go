//go:build !windows

package netif_test

import (
	"errors"
	"testing"

	"github.com/weirfw/weir/pkg/netif"
)

func TestNameserversUnsupported(t *testing.T) {
	if list, err := netif.Nameservers(); !errors.Is(err, errors.ErrUnsupported) || list != nil {
		t.Errorf("got %v, %v; want ErrUnsupported", list, err)
	}
}
