package dnsguard

import "github.com/weirfw/weir/pkg/conn"

// SystemResolver reports whether a process is the system's resolver: what it asks for, others want to know. On Linux, that is
// systemd-resolved, dnsmasq, unbound or nscd: as the systemd unit of that name, into which only the administrator can put processes, or
// run by root or by the account that its package makes for it, from a file that belongs to root, that nobody else can write, and that
// really is at the path which the kernel tells. On Windows, it is the service Dnscache. A program of the same name, or with a file system
// of its own in which it has that path, is not; nor is the resolver's own program in the hands of another account, which can make it run
// any code (LD_PRELOAD).
func SystemResolver(p *conn.Process) bool {
	return p != nil && p.PID > 0 && isSystemResolver(p)
}
