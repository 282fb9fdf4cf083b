package netif

import (
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// badName says what to do about a name that the kernel would refuse (dev_valid_name); "" if the name is fine.
func badName(name string) string {
	switch {
	case len(name) >= unix.IFNAMSIZ:
		return "use a name of at most 15 bytes, an IP address, a hardware address or an index"
	case name == "." || name == "..":
		return "use the name of an interface"
	case strings.ContainsFunc(name, func(r rune) bool {
		return r == '/' || r == ':' || unicode.IsSpace(r) || unicode.IsControl(r)
	}):
		return "a name has no white space, slash or colon, and this is no complete address either"
	default:
		return ""
	}
}
