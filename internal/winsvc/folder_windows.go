package winsvc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// folderACL lets administrators and the system have a folder and what is in it, and nobody else: in SDDL, a protected list.
const folderACL = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"

// ProtectFolder makes a folder that only administrators and the system may read and write, or makes one that is there such. Every user
// may make folders and files where the data of all programs is: one that belongs to somebody else, and files in it that do, are an
// error, which wraps ErrForeign. They would say what runs with the rights of the system.
func ProtectFolder(dir string, files ...string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("winsvc: make a folder: %w", err)
	}
	for _, path := range append([]string{dir}, files...) {
		if err := checkOwner(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	sd, err := windows.SecurityDescriptorFromString(folderACL)
	if err != nil {
		return fmt.Errorf("winsvc: access list: %w", err)
	}
	acl, _, err := sd.DACL()
	if err != nil {
		return fmt.Errorf("winsvc: access list: %w", err)
	}
	err = windows.SetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION,
		nil, nil, acl, nil)
	if err != nil {
		return fmt.Errorf("winsvc: protect %s: %w", dir, err)
	}
	return nil
}

// checkOwner wants a file to be an administrator's, the system's, or that of whoever runs this.
func checkOwner(path string) error {
	sd, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("winsvc: whose %s is: %w", path, err)
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return fmt.Errorf("winsvc: whose %s is: %w", path, err)
	}
	me, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return fmt.Errorf("winsvc: who this process is: %w", err)
	}
	return trusted(path, owner, me.User.Sid)
}

func trusted(path string, owner, me *windows.SID) error {
	if owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) || owner.IsWellKnown(windows.WinLocalSystemSid) || owner.Equals(me) {
		return nil
	}
	return fmt.Errorf("%w: %s belongs to %v: remove it, or make an administrator its owner", ErrForeign, path, owner)
}
