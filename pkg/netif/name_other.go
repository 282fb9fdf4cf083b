//go:build !linux

package netif

import (
	"strings"
	"unicode"
)

// maxName is the length of an interface alias on Windows, the longest of the systems.
const maxName = 256

// badName says what to do about a name that no system allows; "" if the name is fine. Unlike on Linux, names like
// "Wi-Fi 2" are usual elsewhere.
func badName(name string) string {
	if len(name) > maxName || strings.ContainsFunc(name, unicode.IsControl) {
		return "use the name, an IP address, the hardware address or the index of an interface"
	}
	return ""
}
