package ivpn

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Names of the files that the daemon writes into its folder.
const (
	portFile = "port.txt"
	eaaFile  = "eaa"
)

// maxFile bounds what is read of one of them: a few dozen bytes are right.
const maxFile = 4096

// ErrUntrusted is wrapped when somebody other than an administrator could have
// written a file that decides what is accepted, or listens in the daemon's place.
var ErrUntrusted = errors.New("ivpn: not trusted")

// ErrPortFile is wrapped when port.txt has not the form that daemons write.
var ErrPortFile = errors.New("ivpn: bad port file")

// Address is where a daemon listens, and what proves that we may talk to it.
type Address struct {
	// Port on 127.0.0.1.
	Port   uint16
	Secret uint64
}

// ReadAddress reads port.txt in a daemon's folder; an empty folder is that of
// this system. Errors wrap fs.ErrNotExist if there is none or it is empty yet,
// ErrUntrusted or ErrPortFile if it must not be used.
func ReadAddress(folder string) (Address, error) {
	if folder == "" {
		found, err := systemFolder()
		if err != nil {
			return Address{}, err
		}
		folder = found
	}
	text, err := readTrusted(filepath.Join(folder, portFile))
	switch {
	case err != nil:
		return Address{}, err
	case text == "":
		return Address{}, fmt.Errorf("read the daemon's file: still empty: %w", fs.ErrNotExist)
	}
	return parseAddress(text)
}

// parseAddress reads "<port>:<secret in hex>".
func parseAddress(text string) (Address, error) {
	port, secret, ok := strings.Cut(strings.TrimSpace(text), ":")
	if !ok {
		return Address{}, fmt.Errorf("%w: no colon", ErrPortFile)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return Address{}, fmt.Errorf("%w: no port before the colon", ErrPortFile)
	}
	s, err := strconv.ParseUint(secret, 16, 64)
	if err != nil {
		// what was written there stays out of the error: it may be most of a secret
		return Address{}, fmt.Errorf("%w: no secret behind the colon", ErrPortFile)
	}
	return Address{uint16(p), s}, nil
}

// readSecret reads eaa, which is there if privileged requests need its content.
func readSecret(folder string) (string, error) {
	text, err := readTrusted(filepath.Join(folder, eaaFile))
	return strings.TrimSpace(text), err
}

// readTrusted reads a small file that only an administrator could have written.
func readTrusted(path string) (string, error) {
	resolved, err := trustedPath(path)
	if err != nil {
		return "", err
	}
	f, err := os.Open(resolved)
	if err != nil {
		return "", fmt.Errorf("read the daemon's file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the daemon's file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%w: %s is no regular file", ErrUntrusted, resolved)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", fmt.Errorf("read the daemon's file: %w", err)
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("%w: %s has more than %d bytes", ErrPortFile, resolved, maxFile)
	}
	return string(b), nil
}

// trustedPath resolves the symbolic links of a path and returns where it leads,
// if only an administrator could have put there what is there: the file and its
// folder belong to one and nobody else may write them, and nobody else can move
// a folder above out of the way. Then it cannot change between this look and the
// use either. Errors wrap fs.ErrNotExist or ErrUntrusted.
func trustedPath(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("look for the daemon's file: %w", err)
	}
	resolved, err = filepath.Abs(resolved)
	if err != nil {
		return "", fmt.Errorf("look for the daemon's file: %w", err)
	}
	for p, depth := resolved, 0; ; p, depth = filepath.Dir(p), depth+1 {
		info, err := os.Lstat(p)
		if err != nil {
			return "", fmt.Errorf("look at the daemon's file: %w", err)
		}
		if err := trusted(p, info); err != nil && (depth < 2 || !keepsEntries(p, info)) {
			return "", err
		}
		if p == filepath.Dir(p) {
			return resolved, nil
		}
	}
}

// untrusted is an error about a path.
func untrusted(path, why string) error { return fmt.Errorf("%w: %s %s", ErrUntrusted, path, why) }

// firstFolder returns the first of these folders that is there.
func firstFolder(folders ...string) (string, error) {
	for _, f := range folders {
		if info, err := os.Stat(f); err == nil && info.IsDir() {
			return f, nil
		}
	}
	return "", fmt.Errorf("look for IVPN's folder: %s: %w", strings.Join(folders, ", "), fs.ErrNotExist)
}
