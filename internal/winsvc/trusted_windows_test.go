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

// Access lists in SDDL: BU are users, AU are all that logged in, WD is everyone, CO is who makes a file.
func TestWhoMayChange(t *testing.T) {
	const me = "S-1-5-21-1-2-3-1001"
	mine, err := windows.StringToSid(me)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]error{
		"O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)":                                    nil,
		"O:BAD:(A;;FA;;;SY)(A;;FA;;;BA)(A;;0x1200a9;;;BU)(A;OICIIO;GA;;;CO)":         nil, // as C:\Program Files
		"O:" + trustedInstaller + "D:(A;;FA;;;" + trustedInstaller + ")(A;;FR;;;BU)": nil,
		"O:" + me + "D:(A;;FA;;;" + me + ")":                                         nil,
		"O:BAD:(A;;FA;;;BA)(A;;FA;;;BU)":                                             ErrForeign,
		"O:BAD:(A;;FA;;;BA)(A;;0x1301bf;;;AU)":                                       ErrForeign, // as a new folder in C:\
		"O:BAD:(A;;FA;;;BA)(A;;DC;;;WD)":                                             ErrForeign, // 0x2: to write, or to add a file
		"O:BAD:(A;;WD;;;BU)":                                                         ErrForeign, // to change the list
		"O:BUD:(A;;FA;;;BA)":                                                         ErrForeign,
	} {
		sd, err := windows.SecurityDescriptorFromString(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := checkDescriptor("x", sd, mine); !errors.Is(got, want) || (want == nil) != (got == nil) {
			t.Errorf("%s: got %v; want %v", text, got, want)
		}
	}
	// Not in SDDL (NO_ACCESS_CONTROL), of which Wine makes an empty list.
	open, err := windows.NewSecurityDescriptor()
	if err == nil {
		err = errors.Join(open.SetOwner(mine, false), open.SetDACL(nil, true, false))
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := checkDescriptor("x", open, mine); !errors.Is(got, ErrForeign) {
		t.Errorf("without an access list: got %v; want %v", got, ErrForeign)
	}
}
