package dnsguard

import "github.com/weirfw/weir/pkg/conn"

// SystemResolver reports whether a process is the system's resolver. On Linux, that is systemd-resolved, dnsmasq or unbound: as the
// systemd unit of that name, into which only the administrator can put processes, or run by a system account from a file that belongs to
// root, that nobody else can write, and that really is at the path which the kernel tells. On Windows, it is the service Dnscache. A
// program of the same name, or with a file system of its own in which it has that path, is not.
func SystemResolver(p *conn.Process) bool {
	return p != nil && p.PID > 0 && isSystemResolver(p)
}
