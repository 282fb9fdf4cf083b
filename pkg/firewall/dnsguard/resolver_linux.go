package dnsguard

import (
	"bytes"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/weirfw/weir/internal/hostfile"
	"github.com/weirfw/weir/pkg/conn"
)

// accounts are the resolvers, and the accounts that packages of distributions make for each.
//
//nolint:gochecknoglobals // a table that nobody writes
var accounts = map[string][]string{
	"systemd-resolved": {"systemd-resolve"},
	"dnsmasq":          {"dnsmasq", "libvirt-dnsmasq"},
	"unbound":          {"unbound"},
	"nscd":             {"nscd"},
}

func isSystemResolver(p *conn.Process) bool {
	if isService(p) {
		return true
	}
	owners, ok := accounts[path.Base(p.Path)]
	return ok && hostfile.New("/proc").RootRuns(p.PID, p.Path) && isOneOf(p.UID, owners)
}

// isService reports whether a process is of a resolver's systemd unit.
func isService(p *conn.Process) bool {
	unit, ok := strings.CutPrefix(p.Cgroup, "/system.slice/")
	name, is := strings.CutSuffix(unit, ".service")
	return ok && is && accounts[name] != nil
}

// isOneOf reports whether an account is root's or has one of these names. It reads the file: other sources of accounts (NSS) may need the
// network, which may be waiting for us.
func isOneOf(uid uint32, names []string) bool {
	if uid == 0 {
		return true
	}
	b, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return false
	}
	number := strconv.FormatUint(uint64(uid), 10)
	for line := range bytes.Lines(b) {
		fields := strings.SplitN(string(line), ":", 4) // passwd(5): name, password, number
		if len(fields) == 4 && fields[2] == number && slices.Contains(names, fields[0]) {
			return true
		}
	}
	return false
}
