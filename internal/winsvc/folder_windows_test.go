package winsvc_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/internal/winsvc"
)

func TestProtectFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "weir")
	file := filepath.Join(dir, "refd.yaml")
	for range 2 { // made, and there already
		if err := winsvc.ProtectFolder(dir, file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatalf("we ourselves may not: %v", err)
		}
	}
	if err := winsvc.ProtectFolder(filepath.Join(dir, "none", "weir")); err == nil {
		t.Error("in a folder that does not exist: got no error")
	}
}

func TestProtectedFolderIsForNobodyElse(t *testing.T) {
	winerig.SkipUnderWine(t, "the access list of a file is kept as a Unix mode: everyone may read")
	dir := filepath.Join(t.TempDir(), "weir")
	if err := winsvc.ProtectFolder(dir); err != nil {
		t.Fatal(err)
	}
	sd, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := sd.String(), "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"; got != want && got != "D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)" {
		t.Errorf("got %s; want %s", got, want)
	}
}
