package dnsmon

import (
	"strings"
	"testing"
)

func TestCanonicalName(t *testing.T) {
	long := strings.Repeat("a.", 126) + "a" // 253 bytes
	for name, want := range map[string]string{
		"Example.TEST": "example.test", "example.test.": "example.test", `dot\..test`: `dot\..test`, `dot\.`: `dot\.`, `back\\.`: `back\\`,
		"": "", ".": "", "..": "", "example.test..": "", long: long, long + ".": long, long + "a": "",
		strings.Repeat("\xff", 253) + "A": "", strings.Repeat("\xff", 100) + "A": "", // grow: each byte becomes U+FFFD
	} {
		got := CanonicalName(name)
		if got != want {
			t.Errorf("%q: got %q; want %q", name, got, want)
		}
		if again := CanonicalName(got); again != got {
			t.Errorf("%q: got %q from its own result %q", name, again, got)
		}
	}
}
