// Package procinfo finds the process behind a connection.
//
// A Finder asks, in this order: the SocketOwners it was given (such as one fed
// by eBPF), the kernel's inet_diag for the one socket and then its process, and
// /proc/net where the kernel lacks inet_diag. Unknown is an answer and a guess
// is none: where the kernel's answer allows more than one process, Find returns
// an error that wraps ErrUnknown and says why.
//
// # What an answer rests on
//
// A Finder keeps the /proc directory of processes it has met open. Such a
// descriptor belongs to that very process: after its death every look through it
// fails, whoever has the number now. It also keeps the process' pagemap open,
// which belongs to the memory image: reading it yields nothing as soon as the
// process has executed another program, and costs less than comparing the
// executable and the command line (which is what happens where pagemap cannot be
// opened). So neither a reused number nor an exec is ever answered with what was
// true before. The user id is read anew for each answer; what else can change
// without an exec (control group, title, parent) is read again after a second,
// or at once when the kernel says that a socket belongs to a new control group.
//
// # Sockets of several processes
//
// A socket that several processes hold belongs to the one that handed it down,
// if the others are its forks and still run the same image, such as a web server
// and its workers. Otherwise the owner is not known and UnknownError lists the
// candidates: a service manager that keeps the listening socket of a service is
// one. How far holders are looked for depends on what it costs:
//   - Of a listening socket all descriptors of all processes are compared, so
//     that one handed over a unix socket is noticed too; and of a datagram socket
//     without a peer, if it is older than our acquaintance with its process or
//     has moved from another one.
//   - Of a connection as old, or moved, all descriptors of the process' ancestors
//     and descendants are compared, and of other processes the descriptor with
//     the same number. While a TCP connection is being made the latter must do.
//   - Of any other socket that the process made under our eyes, the descriptor
//     with the same number of its children. It is not noticed if one is handed on
//     in another way and kept too.
//
// That nobody shares a socket or a port is believed for a second, and for longer
// if finding out took more than 20 milliseconds; the processes are not searched
// again meanwhile.
//
// # Descriptors
//
// Each remembered process costs three descriptors (Config.Processes): its
// directory, that of its descriptors, and its pagemap. Find and Process need some
// for a moment, too. When there are none, or no memory, they return an error that
// does not wrap ErrUnknown but says so (EMFILE, ENFILE, ENOMEM). Nothing is
// remembered of such a lookup: as soon as there are some again, the answer is right.
//
// # Limits
//
// Args and Script are what a process says about itself; of a command line 32 KiB
// are read. Path is what the kernel tells, with " (deleted)" at its end if the
// file is gone, if the host has that file there; for a process in a container
// InnerPath is the path inside the container. Sockets of other network namespaces than the one that New was
// called in are not found, nor those in the private descriptor table of a
// single thread. Without privileges only the processes of the own user can be
// searched: that a stranger shares a socket goes unnoticed then.
//
// # Windows
//
// There the driver tells which process a packet belongs to, and a Finder describes it: path, command line, parents, the SID of its
// account, the family name of a packaged app, and the services that a svchost.exe runs. While it asks it holds the process open, so
// that its number is not used again; what it remembers is known by number and start time. A parent that started after its child is
// somebody else who got the number.
package procinfo
