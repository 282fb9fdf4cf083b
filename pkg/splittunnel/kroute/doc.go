// Package kroute is the split tunnel engine that has the Linux kernel route the packets: no data passes through this process,
// and TCP, UDP and ICMP echo work alike.
//
// # What is in the kernel
//
// Each interface in use has a route number n, from 0 to Config.MaxRoutes-1. The packet backend (package nfq) gives the packets of
// a connection the mark Mark+n, and there is, for both families:
//
//	ip rule:  P:    from all fwmark Mark+n lookup Table+n
//	          P+1:  from all fwmark Mark+n unreachable
//	table Table+n:  the networks attached to the interface
//	                default via GATEWAY dev IF
//	                unreachable default, with the worst metric
//
// P is Config.Priority, or less: where others have, or put, rules in front of that which could catch our marks, ours move in front
// of them. wg-quick, for one, lets the kernel choose the priority, and the kernel chooses one in front of all rules. What is for this
// host itself (the local table) stays first.
//
// Besides, the sysctl net.ipv4.conf.all.src_valid_mark is 1, without which rp_filter=1 drops the answers. All rules and routes carry
// Config.Protocol, by which they are told from what others made. Source addresses are the packet backend's business: it masquerades.
//
// # Fail closed
//
// A marked packet never takes another way. The kernel drops an interface's routes when the interface, or its last address, goes;
// then the unreachable default remains. If somebody empties the table or deletes the rule, the rule behind it refuses the packets
// until the Engine has repaired both, which takes milliseconds. Both together have to be deleted at once for a gap, as
// `ip rule flush` does, and that ends with the repair.
//
// The number of an interface that is no longer used keeps its rules and its unreachable default, so that old connections get
// nowhere. It is given to another interface only when all numbers are taken, the oldest first.
//
// # Limits
//
// From the moment when somebody puts a rule in front of ours until ours have moved, some milliseconds, marked packets follow that
// rule. Config.Guard is against that. A route that somebody else puts into one of our tables is left alone; paths through that table
// are refused until it is gone.
package kroute
