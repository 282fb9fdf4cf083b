//go:build unix

package ivpn_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/ivpn"
)

// stranger is a user that is neither root nor the one of this test.
const stranger = 12345

// Whoever could have written port.txt, or could replace it, must be trusted.
func TestTrust(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, top, folder, file string) error
		why  string // part of the refusal; empty if it is good
		root bool
	}{
		{name: "good", do: func(*testing.T, string, string, string) error { return nil }},
		{name: "readable for all", do: func(_ *testing.T, _, folder, file string) error {
			return errors.Join(os.Chmod(folder, 0o755), os.Chmod(file, 0o644))
		}},
		{name: "file writable for all", do: func(_ *testing.T, _, _, file string) error { return os.Chmod(file, 0o646) }, why: "port.txt can be written by others"},
		{name: "file writable for a group", do: func(_ *testing.T, _, _, file string) error { return os.Chmod(file, 0o660) }, why: "port.txt can be written by others"},
		{name: "folder writable for all", do: func(_ *testing.T, _, folder, _ string) error { return os.Chmod(folder, 0o777) }, why: "ivpn can be written by others"},
		{name: "folder like /tmp", do: func(_ *testing.T, _, folder, _ string) error { return os.Chmod(folder, 0o777|fs.ModeSticky) }, why: "ivpn can be written by others"},
		{name: "folder above writable for all", do: func(_ *testing.T, top, _, _ string) error { return os.Chmod(top, 0o777) }, why: "top can be written by others"},
		{name: "folder above like /tmp", do: func(_ *testing.T, top, _, _ string) error { return os.Chmod(top, 0o777|fs.ModeSticky) }},
		{name: "link to a good file", do: func(t *testing.T, _, folder, file string) error {
			other := filepath.Join(t.TempDir(), "elsewhere")
			return errors.Join(os.Mkdir(other, 0o700), os.Rename(file, filepath.Join(other, "port.txt")), os.Symlink(filepath.Join(other, "port.txt"), file))
		}},
		{name: "link to a bad file", do: func(t *testing.T, _, folder, file string) error {
			other := filepath.Join(t.TempDir(), "elsewhere")
			return errors.Join(os.Mkdir(other, 0o700), os.Chmod(other, 0o777), os.Rename(file, filepath.Join(other, "port.txt")),
				os.Symlink(filepath.Join(other, "port.txt"), file))
		}, why: "elsewhere can be written by others"},
		{name: "folder instead of a file", do: func(_ *testing.T, _, _, file string) error {
			return errors.Join(os.Remove(file), os.Mkdir(file, 0o700))
		}, why: "no regular file"},
		{name: "file of another user", root: true, do: func(_ *testing.T, _, _, file string) error { return os.Chown(file, stranger, 0) }, why: "belongs to user 12345"},
		{name: "folder of another user", root: true, do: func(_ *testing.T, _, folder, _ string) error { return os.Chown(folder, stranger, 0) }, why: "belongs to user 12345"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.root {
				testutil.RequireRoot(t)
			}
			top := filepath.Join(t.TempDir(), "top")
			dir := filepath.Join(top, "ivpn")
			file := filepath.Join(dir, "port.txt")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, file, "51234:a")
			if err := test.do(t, top, dir, file); err != nil {
				t.Fatal(err)
			}
			got, err := ivpn.ReadAddress(dir)
			switch {
			case test.why == "" && (err != nil || got != ivpn.Address{Port: 51234, Secret: 10}):
				t.Errorf("got %+v, %v; want it read", got, err)
			case test.why != "" && (!errors.Is(err, ivpn.ErrUntrusted) || !strings.Contains(fmt.Sprint(err), test.why) || got != ivpn.Address{}):
				t.Errorf("got %+v, %v; want ErrUntrusted: %q", got, err, test.why)
			}
		})
	}
}

func TestPortFile(t *testing.T) {
	f := folder(t)
	if _, err := ivpn.ReadAddress(f); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: got %v; want fs.ErrNotExist", err)
	}
	path := filepath.Join(f, "port.txt")
	write(t, path, "")
	if _, err := ivpn.ReadAddress(f); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty: got %v; want fs.ErrNotExist", err)
	}
	for _, content := range []string{"garbage", strings.Repeat("1", 1<<20)} {
		write(t, path, content)
		if _, err := ivpn.ReadAddress(f); !errors.Is(err, ivpn.ErrPortFile) {
			t.Errorf("%.9q: got %v; want ErrPortFile", content, err)
		}
	}
}
