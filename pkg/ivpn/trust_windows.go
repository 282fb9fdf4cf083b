package ivpn

import (
	"fmt"
	"io/fs"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

// writing are the rights by which somebody could change or replace a file, or
// put others into a folder (winnt.h; the generic ones contain them).
const writing = windows.FILE_WRITE_DATA | windows.FILE_APPEND_DATA | windows.FILE_WRITE_EA | windows.FILE_WRITE_ATTRIBUTES |
	0x40 /* FILE_DELETE_CHILD */ | windows.DELETE | windows.WRITE_DAC | windows.WRITE_OWNER | windows.GENERIC_WRITE | windows.GENERIC_ALL

// moving are those by which somebody could replace what is in a folder.
const moving = 0x40 /* FILE_DELETE_CHILD */ | windows.DELETE | windows.WRITE_DAC | windows.WRITE_OWNER | windows.GENERIC_ALL

// trustedInstaller is the service that owns the system's files.
const trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

// trusted says whether only administrators can write something.
func trusted(path string, _ fs.FileInfo) error { return onlyAdministrators(path, writing) }

// keepsEntries reports whether only administrators can move what a folder
// contains. The roots of drives let everybody make folders, for example.
func keepsEntries(path string, _ fs.FileInfo) bool { return onlyAdministrators(path, moving) == nil }

// onlyAdministrators says whether nobody else has any of these rights.
func onlyAdministrators(path string, rights windows.ACCESS_MASK) error {
	sd, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("%w: %s: read its access list: %w", ErrUntrusted, path, err)
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return fmt.Errorf("%w: %s: read its owner: %w", ErrUntrusted, path, err)
	}
	if !administrator(owner) {
		return untrusted(path, "belongs to "+owner.String()+"; want an administrator")
	}
	list, _, err := sd.DACL()
	if err != nil {
		return fmt.Errorf("%w: %s: read its access list: %w", ErrUntrusted, path, err)
	}
	if list == nil {
		return untrusted(path, "has no access list: everybody may write it")
	}
	for i := range uint32(list.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(list, i, &ace); err != nil {
			return fmt.Errorf("%w: %s: read its access list: %w", ErrUntrusted, path, err)
		}
		if ace.Header.AceType == windows.ACCESS_DENIED_ACE_TYPE || ace.Header.AceFlags&windows.INHERIT_ONLY_ACE != 0 || ace.Mask&rights == 0 {
			continue
		}
		if ace.Header.AceType != windows.ACCESS_ALLOWED_ACE_TYPE {
			return untrusted(path, fmt.Sprintf("has an entry of type %d in its access list that is not understood", ace.Header.AceType))
		}
		if sid := (*windows.SID)(unsafe.Pointer(&ace.SidStart)); !administrator(sid) {
			return untrusted(path, "can be written by "+sid.String())
		}
	}
	return nil
}

// administrator reports whether this is the system, an administrator or the
// user that this process runs as.
func administrator(sid *windows.SID) bool {
	if sid.IsWellKnown(windows.WinLocalSystemSid) || sid.IsWellKnown(windows.WinBuiltinAdministratorsSid) {
		return true
	}
	known := []string{trustedInstaller}
	if user, err := windows.GetCurrentProcessToken().GetTokenUser(); err == nil {
		known = append(known, user.User.Sid.String())
	}
	return slices.Contains(known, sid.String())
}

// privileged is true: the path of a process is the system's word.
func privileged(uint32) bool { return true }
