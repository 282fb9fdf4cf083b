package kroute

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// state is what outlives the process in Config.StateFile.
type state struct {
	// Boot and Namespace say which host this is about.
	Boot      string `json:"boot"`
	Namespace string `json:"namespace"`
	// SrcValidMark is the sysctl's value before us.
	SrcValidMark string `json:"src_valid_mark"`
	// Span is what was occupied, which a later configuration may not be the same as.
	Span   span         `json:"span"`
	Routes []stateRoute `json:"routes"`
}

type stateRoute struct {
	Number    int    `json:"number"`
	Interface string `json:"interface"`
}

// here names this boot and the network namespace of the calling thread.
func here() (boot, namespace string, err error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", "", fmt.Errorf("kroute: read boot id: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", "", fmt.Errorf("kroute: find network namespace: %w", err)
	}
	return strings.TrimSpace(string(b)), strconv.FormatUint(st.Ino, 10), nil
}

// readState returns nil if there is no file, or if it is about another boot or namespace.
func readState(file string) (*state, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nothing was remembered
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // as above
	}
	if err != nil {
		return nil, fmt.Errorf("kroute: read state: %w", err)
	}
	boot, namespace, err := here()
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil || s.Boot != boot || s.Namespace != namespace || !s.valid() {
		return nil, nil //nolint:nilerr,nilnil // written by a dying machine, or before it died: of no use
	}
	return &s, nil
}

// valid reports whether the state can be one that we wrote.
func (s *state) valid() bool {
	c := Config{Mark: s.Span.Mark, Table: s.Span.Table, Priority: s.Span.Priority, Protocol: s.Span.Protocol, MaxRoutes: s.Span.MaxRoutes}
	return c.check() == nil
}

// write replaces the file at once, so that there is always a whole one.
func (s *state) write(file string) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("kroute: write state: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("kroute: write state: %w", err)
	}
	next := file + ".new"
	if err := os.WriteFile(next, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("kroute: write state: %w", err)
	}
	if err := os.Rename(next, file); err != nil {
		return fmt.Errorf("kroute: write state: %w", err)
	}
	return nil
}

// eraseState removes the file: the host is as it was.
func eraseState(file string) error {
	if file == "" {
		return nil
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kroute: remove state: %w", err)
	}
	return nil
}

// srcValidMark is looked up in the network namespace of the thread that opens it.
const srcValidMark = "/proc/sys/net/ipv4/conf/all/src_valid_mark"

func readSysctl() (string, error) {
	b, err := os.ReadFile(srcValidMark)
	if err != nil {
		return "", fmt.Errorf("kroute: read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func writeSysctl(value string) error {
	if err := os.WriteFile(srcValidMark, []byte(value), 0o644); err != nil { //nolint:gosec // the file is there, with its own mode
		return fmt.Errorf("kroute: set sysctl net.ipv4.conf.all.src_valid_mark to %s (answers are dropped where rp_filter is 1): %w", value, err)
	}
	return nil
}

// lock says that an engine uses tables from this one on in this network namespace. It is an abstract socket: the kernel keeps those
// by namespace, and they go with the process.
type lock int

func takeLock(table uint32) (lock, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("kroute: lock: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@weir/kroute/%d", table)})
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w: it has routing table %d: stop it, or set Config.Mark and Config.Table to others", ErrInUse, table)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("kroute: lock: %w", err), unix.Close(fd))
	}
	return lock(fd), nil
}

func (l lock) release() error {
	if err := unix.Close(int(l)); err != nil {
		return fmt.Errorf("kroute: unlock: %w", err)
	}
	return nil
}
