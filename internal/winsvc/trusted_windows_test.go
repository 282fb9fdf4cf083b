package winsvc

import (
	"errors"
	"testing"

	"golang.org/x/sys/windows"
)

// Wine knows no files of other owners than the user it runs as: the rule is tested without files.
func TestTrustedOwners(t *testing.T) {
	sid := func(text string) *windows.SID {
		s, err := windows.StringToSid(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const me = "S-1-5-21-1-2-3-1001"
	for owner, want := range map[string]error{
		"S-1-5-32-544": nil, "S-1-5-18": nil, me: nil, // administrators, the system
		"S-1-5-21-1-2-3-1002": ErrForeign, "S-1-5-32-545": ErrForeign, "S-1-1-0": ErrForeign, // somebody, users, everyone
	} {
		if got := trusted("x", sid(owner), sid(me)); !errors.Is(got, want) || (want == nil) != (got == nil) {
			t.Errorf("owner %s: got %v; want %v", owner, got, want)
		}
	}
}
