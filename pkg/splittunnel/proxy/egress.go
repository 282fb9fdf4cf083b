package proxy

import (
	"fmt"
	"net/netip"
)

// check reports why a destination cannot be reached with e.
func (e Egress) check(dst netip.AddrPort) error {
	switch {
	case e.Index < 0 || e.Index == 0 && e.Interface == "":
		return fmt.Errorf("%w: the request names none", ErrEgress)
	case !e.Source.IsValid() || e.Source.IsUnspecified() || e.Source.Is4() != dst.Addr().Is4():
		return fmt.Errorf("%w %s: no source address of the family of %v", ErrEgress, e.Interface, dst.Addr())
	}
	return nil
}
