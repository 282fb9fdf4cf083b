// Package ebpf tells which process a connection belongs to by what the kernel told when the connection was made.
//
// A Tracker attaches small programs to the kernel's own places for them: when a socket is made, connects or sends, when a process
// executes, forks or ends. They only note; none refuses anything. It is a procinfo.SocketOwner: give it to a procinfo.Finder, which
// goes on to ask inet_diag and /proc about what the Tracker does not know.
//
//	tracker, err := ebpf.New(ebpf.Config{})
//	if err != nil {
//		return err // go on without it: slower, and blind for processes that have ended
//	}
//	finder, err := procinfo.New(procinfo.Config{First: []procinfo.SocketOwner{tracker}})
//
// # What it knows that others do not
//
// The process that connected or sent, and not whoever holds the socket when somebody looks; processes that have ended by then, with
// their path, command line, control group and parents; connections of other network namespaces (containers) on their way through
// this one, see Forwarded. A lookup is one system call, whatever the number of processes and descriptors.
//
// # What it does not know
//
// Who gets connections that come in: inet_diag finds the listening socket. Connections that the kernel makes itself, such as
// further subflows of MPTCP. A socket that several processes send on at the same time belongs to nobody in particular, and neither
// does a connected datagram socket of another namespace that was handed to a process that is no child of its maker. Unknown is an
// answer; a guess is none.
//
// # Kernels
//
// Each feature is tried by itself: what the kernel refuses is left out, and Status says what is lost. By the functions that the programs
// call, those for TCP and for datagrams with an address take Linux 5.15 (bpf_get_netns_cookie in sockops), those for connected ones 6.4
// (netfilter programs); 6.18 is what the tests have run on. They take CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, a kernel with
// BTF (/sys/kernel/btf/vmlinux) and a cgroup v2 hierarchy, whose root they attach to: everything below is seen. They go with the
// process, however it ends.
//
// # The objects
//
// bpf/attr.bpf.c is compiled for amd64 and arm64 by scripts/bpf.sh and the result committed; `scripts/bpf.sh check` compares. Their
// licence is MIT or GPL-2.0, as the kernel wants it for some of the functions that they call.
package ebpf
