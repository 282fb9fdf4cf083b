package winsvc

import (
	"errors"
	"fmt"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/windows"
)

// trustedInstaller owns what Windows itself installs, and the folder of all programs.
const trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

// fileDeleteChild is the right to delete what is in a folder (winnt.h).
const fileDeleteChild = 0x40

// change are the rights by which what a file does, or what a folder has in it, can be changed.
const change = windows.FILE_WRITE_DATA | windows.FILE_APPEND_DATA | fileDeleteChild | windows.DELETE | windows.WRITE_DAC |
	windows.WRITE_OWNER | windows.GENERIC_WRITE | windows.GENERIC_ALL

// CheckTrusted wants files and folders that only administrators and the system can change, and whoever runs this: what a service runs
// or reads has the rights of the system. The error wraps ErrForeign, or fs.ErrNotExist.
func CheckTrusted(paths ...string) error {
	me, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return fmt.Errorf("winsvc: who this process is: %w", err)
	}
	for _, path := range paths {
		const parts = windows.OWNER_SECURITY_INFORMATION | windows.DACL_SECURITY_INFORMATION
		sd, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, parts)
		if errors.Is(err, windows.ERROR_FILE_NOT_FOUND) || errors.Is(err, windows.ERROR_PATH_NOT_FOUND) {
			return fmt.Errorf("winsvc: who may change %s: %w", path, fs.ErrNotExist)
		}
		if err != nil {
			return fmt.Errorf("winsvc: who may change %s: %w", path, err)
		}
		if err := checkDescriptor(path, sd, me.User.Sid); err != nil {
			return err
		}
	}
	return nil
}

// checkDescriptor is CheckTrusted for one file.
func checkDescriptor(path string, sd *windows.SECURITY_DESCRIPTOR, me *windows.SID) error {
	owner, _, err := sd.Owner()
	if err != nil {
		return fmt.Errorf("winsvc: whose %s is: %w", path, err)
	}
	if owner.String() != trustedInstaller {
		if err := trusted(path, owner, me); err != nil {
			return err
		}
	}
	acl, _, err := sd.DACL()
	if err != nil {
		return fmt.Errorf("%w: %s has no access list, so that everybody may change it: %w", ErrForeign, path, err)
	}
	if acl == nil {
		return fmt.Errorf("%w: %s has no access list, so that everybody may change it", ErrForeign, path)
	}
	for i := range uint32(acl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(acl, i, &ace); err != nil {
			return fmt.Errorf("winsvc: access list of %s: %w", path, err)
		}
		if ace.Header.AceType != windows.ACCESS_ALLOWED_ACE_TYPE || ace.Header.AceFlags&windows.INHERIT_ONLY_ACE != 0 || ace.Mask&change == 0 {
			continue
		}
		who := (*windows.SID)(unsafe.Pointer(&ace.SidStart))
		if who.String() != trustedInstaller && trusted(path, who, me) != nil {
			return fmt.Errorf("%w: %v may change %s", ErrForeign, who, path)
		}
	}
	return nil
}
