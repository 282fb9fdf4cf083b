//go:build !linux && !windows

package procinfo

import "github.com/weirfw/weir/pkg/packet"

// FindOrigin implements the Finder of Linux: here nothing is known.
func (*Finder) FindOrigin(*packet.Info) (d packet.Direction, ok bool) { return packet.Outbound, false }
