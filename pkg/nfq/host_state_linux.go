package nfq

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// probeTimeout bounds finding out how rules can work.
	probeTimeout = 30 * time.Second
	// undoTimeout bounds taking back what failed, which the end of a context must not stop.
	undoTimeout = 30 * time.Second
)

// lockDir holds one lock for each network namespace and chain prefix. Only root writes to it.
const lockDir = "/run/weir"

// hostLock says that this process owns the chains with a prefix in this network namespace. It ends with the process.
type hostLock struct{ f *os.File }

// takeLock returns an error that wraps ErrInUse if another process holds it.
func takeLock(prefix string) (*hostLock, error) {
	ns, err := namespaceID()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(lockDir, 0o755); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	path := filepath.Join(lockDir, fmt.Sprintf("nfq-%s-%s.lock", ns, prefix))
	for deadline := time.Now().Add(orphanTimeout); ; {
		l, err := tryLock(path)
		if errors.Is(err, errOrphan) && time.Now().Before(deadline) {
			time.Sleep(orphanPause)
			continue
		}
		if l != nil || err != nil {
			return l, err
		}
	}
}

// errOrphan tells that a lock outlives its process. A program that the process had begun to start when it was killed has the lock
// until it executes, which takes a moment.
var errOrphan = errors.New("that process is gone, and another still holds its lock")

// orphanTimeout is how long that is waited for, and orphanPause how long between two looks.
const (
	orphanTimeout = 2 * time.Second
	orphanPause   = 2 * time.Millisecond
)

// tryLock returns nil and no error if the file was removed meanwhile.
func tryLock(path string) (*hostLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := "(unknown)"
		if pid := readPID(f); pid > 0 {
			holder = strconv.Itoa(pid)
			if unix.Kill(pid, 0) == unix.ESRCH {
				err = fmt.Errorf("%w: %w", errOrphan, err)
			}
		}
		err = errors.Join(err, f.Close())
		return nil, &HostError{
			Kind: ErrInUse, What: "process " + holder + " filters packets here", Err: err,
			Remedy: "stop it, or give this one another chain prefix, queues and marks",
		}
	}
	var mine, there unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &mine); err != nil {
		return nil, errors.Join(fmt.Errorf("lock: %w", err), f.Close())
	}
	if err := unix.Stat(path, &there); err != nil || mine.Ino != there.Ino {
		// Removed by the one that had it: there may be another by now.
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		return nil, nil //nolint:nilnil // see above
	}
	l := &hostLock{f: f}
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock: %w", err), l.release())
	}
	return l, nil
}

// readPID returns 0 if there is none.
func readPID(f *os.File) int {
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0) //nolint:errcheck // a short read is the normal case, and the number is a hint
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0
	}
	return pid
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	if err != nil {
		return fmt.Errorf("write process id: %w", err)
	}
	return nil
}

// release removes the lock.
func (l *hostLock) release() error {
	return errors.Join(os.Remove(l.f.Name()), l.f.Close())
}

// checkNamespace returns an error that wraps ErrNamespace unless the calling thread and the rest of the process are in one network
// namespace. Rules, their watch and their removal are the work of programs and goroutines, which are in the process's, while
// sockets are opened in the thread's: half of a firewall would be in each.
func checkNamespace() error {
	var mine, others, process unix.Stat_t
	if err := statThreadNamespace(&mine); err != nil {
		return err
	}
	errc := make(chan error)
	// Another thread than this one, if this one is locked. The first thread of the process may be the one that left.
	go func() { errc <- statThreadNamespace(&others) }()
	err := <-errc
	if err == nil {
		err = unix.Stat("/proc/self/ns/net", &process)
	}
	switch {
	case err != nil:
		return fmt.Errorf("find network namespace: %w", err)
	case mine.Ino == others.Ino && mine.Dev == others.Dev && mine.Ino == process.Ino && mine.Dev == process.Dev:
		return nil
	}
	return &HostError{
		Kind: ErrNamespace, What: "rules cannot be loaded from a thread that changed its network namespace",
		Remedy: "run the whole process there (ip netns exec NAME PROGRAM), or load rules of your own and set SkipRuleset",
	}
}

func statThreadNamespace(st *unix.Stat_t) error {
	if err := unix.Stat("/proc/thread-self/ns/net", st); err != nil {
		return fmt.Errorf("find network namespace of the thread: %w", err)
	}
	return nil
}

// namespaceID tells network namespaces apart: the one of the process, whatever thread asks.
func namespaceID() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return "", fmt.Errorf("find network namespace: %w", err)
	}
	return strconv.FormatUint(st.Ino, 10), nil
}

// hostState is what was there before our first start. It outlives the process in a file, so that a clean-up after a crash knows
// what to leave.
type hostState struct {
	// Boot and Namespace say what host this is about.
	Boot      string `json:"boot"`
	Namespace string `json:"namespace"`
	Variant   string `json:"variant"`
	// Tables and Chains of nf_tables that iptables-nft uses, by key.
	Tables []string `json:"tables"`
	Chains []string `json:"chains"`
	// Accounting is net.netfilter.nf_conntrack_acct; empty if nobody knows.
	Accounting string `json:"accounting,omitempty"`
	// Guessed says that our rules were there already, and with them what we made: nothing is taken away.
	Guessed bool `json:"guessed,omitempty"`
}

// iptablesTables are the tables of nf_tables that belong to iptables and that we load.
var iptablesTables = []string{"filter", "mangle", "nat"} //nolint:gochecknoglobals // a table that nobody writes

// noteBefore returns what was there before the first start: what an earlier process noted, or what there is now. It is in the file
// before anything is changed.
func noteBefore(file string, v Variant, takeover bool) (*hostState, error) { //nolint:revive // it is what is noted
	old, err := readState(file)
	if err != nil {
		return nil, err
	}
	if old != nil && old.Variant == v.String() {
		return old, nil
	}
	s, err := currentState()
	if err != nil {
		return nil, err
	}
	s.Variant, s.Guessed = v.String(), takeover
	if !takeover {
		s.Accounting = readAccounting()
	}
	if v == VariantNFT {
		if err := s.list(); err != nil {
			return nil, err
		}
	}
	return s, s.write(file)
}

func currentState() (*hostState, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	ns, err := namespaceID()
	if err != nil {
		return nil, err
	}
	return &hostState{Boot: strings.TrimSpace(string(boot)), Namespace: ns}, nil
}

// readState returns nil if there is no file, or if it is about another boot or namespace.
func readState(file string) (*hostState, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nothing was remembered
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // as above
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	now, err := currentState()
	if err != nil {
		return nil, err
	}
	var s hostState
	if err := json.Unmarshal(b, &s); err != nil || s.Boot != now.Boot || s.Namespace != now.Namespace {
		return nil, nil //nolint:nilerr,nilnil // half written by a dying machine, or of an earlier boot: of no use
	}
	return &s, nil
}

// unclean reports whether a process of ours may have ended here, since the machine was started, without forgetting its verdicts,
// even if somebody has flushed its rules since.
func unclean(cfg *HostConfig) (bool, error) {
	if cfg.StateFile == "" {
		return true, nil // nobody knows
	}
	state, err := readState(cfg.StateFile)
	if err != nil || state != nil {
		return true, err
	}
	for _, name := range []string{cfg.BackstopTable, cfg.guardTable()} {
		own, err := openTable(name)
		if err != nil {
			return true, err
		}
		there, err := own.present()
		if isNoNFT(err) {
			err = nil
		}
		if err := errors.Join(err, own.close()); there || err != nil {
			return true, err
		}
	}
	return false, nil
}

// write replaces the file at once, so that there is always a whole one.
func (s *hostState) write(file string) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	next := file + ".new"
	if err := os.WriteFile(next, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(next, file); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// erase removes the file: the host is as it was.
func (s *hostState) erase(file string) error {
	if file == "" {
		return nil
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}

// list fills in what nf_tables has now.
func (s *hostState) list() error {
	n, err := dialNFT()
	if err != nil {
		return err
	}
	for _, f := range []uint8{nfproto4, nfproto6} {
		tables, chains, listErr := n.iptables(f)
		err = errors.Join(err, listErr)
		for _, t := range tables {
			s.Tables = append(s.Tables, t.key())
		}
		for _, c := range chains {
			s.Chains = append(s.Chains, c.key())
		}
	}
	return errors.Join(err, n.close())
}

// iptables lists the tables and base chains of iptables of one family.
func (n *nftConn) iptables(f uint8) (tables []nftTable, chains []baseChain, err error) {
	tables, err = n.tables(f)
	if err != nil {
		return nil, nil, err
	}
	chains, err = n.baseChains(f)
	tables = slices.DeleteFunc(tables, func(t nftTable) bool { return !slices.Contains(iptablesTables, t.Name) })
	chains = slices.DeleteFunc(chains, func(c baseChain) bool { return !slices.Contains(iptablesTables, c.Table) })
	return tables, chains, err
}
