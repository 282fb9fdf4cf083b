package dnsguard

import (
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/weirfw/weir/pkg/conn"
)

// firstUser is the first number of a person's account, as distributions have it (systemd's SYSTEM_UID_MAX is 999).
const firstUser = 1000

func isSystemResolver(p *conn.Process) bool {
	if unit, ok := strings.CutPrefix(p.Cgroup, "/system.slice/"); ok && isResolver(strings.TrimSuffix(unit, ".service")) {
		return strings.HasSuffix(unit, ".service")
	}
	return isResolver(path.Base(p.Path)) && p.UID < firstUser && isRoots("/proc/"+strconv.Itoa(p.PID)+"/exe", p.Path)
}

func isResolver(name string) bool {
	return name == "systemd-resolved" || name == "dnsmasq" || name == "unbound"
}

// isRoots reports whether a running program is the file at that path here, and root's.
func isRoots(running, at string) bool {
	is, err := os.Stat(running) // the file itself, wherever the process has its root
	if err != nil {
		return false
	}
	here, err := os.Stat(at)
	if err != nil || !os.SameFile(is, here) {
		return false
	}
	st, ok := is.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && is.Mode().Perm()&0o022 == 0
}
