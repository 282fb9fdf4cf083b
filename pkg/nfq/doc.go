// Package nfq intercepts the packets of a Linux host with NFQUEUE, asks a
// handler about them, and makes the kernel carry out what it decides.
//
// It is the Linux backend of package intercept: Source implements
// intercept.Source, intercept.Updater and intercept.Cutter. By default it also
// loads the iptables rules that feed its queues, keeps them in place while it
// runs, and takes them away at the end; with Config.SkipRuleset that is up to the
// caller.
//
// # Usage
//
// A handler decides in two steps. Lookup answers at once for connections that
// are decided already; every other packet goes to Handle, which gives its verdict
// when it likes. Run blocks until its context is done:
//
//	source, err := nfq.New(nfq.Config{Host: nfq.HostConfig{Mode: nfq.Observe}})
//	if err != nil {
//		return err
//	}
//	return source.Run(ctx, handler, func() { log.Print("intercepting") })
//
// Most programs do not write a handler: package firewall is one, with
// connections, processes and rules. A program that has its own NFQUEUE rules sets
// SkipRuleset, ReadQueues and StylePlain. Package gonfqueue is a smaller Source
// for programs that use github.com/florianl/go-nfqueue already.
//
// # Privileges
//
// Reading a queue takes CAP_NET_ADMIN in the user namespace that owns the network
// namespace; the rules take root, because the iptables programs want it. The
// kernel needs nfnetlink_queue and, for the rules, the iptables modules they name.
// A queue has one reader: while another program has it, Run returns an error that
// wraps ErrQueueTaken. What is missing is said by an error that wraps
// intercept.ErrNotInterceptable, before a rule was loaded. On other systems than
// Linux, New returns an error that wraps errors.ErrUnsupported.
//
// The network namespace is the process's, because programs that load rules are in
// it: from a thread that has left it, Run and Cleanup return an error that wraps
// ErrNamespace. With SkipRuleset it is the one of the thread that calls Run
// (runtime.LockOSThread, setns), for the queues and for Cut.
//
// # Verdicts
//
// A verdict is a mark on the packet (Marks) that the ruleset acts on, or saves to
// the connection if the verdict is permanent: from then on the kernel decides by
// itself and no more packets of that connection come here. A packet that carries a
// mark of other software, such as a VPN's, leaves with that mark if it is
// accepted.
//
// Every packet gets exactly one verdict. It is the handler's, or the default: to
// drop in Enforce, to accept in Observe. The default is for packets that make no
// sense, that come when too many wait already, whose handler is too slow, and that
// wait when Run ends. A packet that the handler's verdict comes too late for
// answers packet.ErrAlreadyDecided. Nothing that the network or other programs do
// ends Run: packets that do not fit into a queue are dropped and counted
// (Stats.KernelDrops, Stats.UserDrops). If a verdict cannot be sent, Run ends with
// an error rather than letting packets wait for ever.
//
// # Beside VPNs
//
// wg-quick gives each address of a full tunnel a kill switch, which drops what
// arrives for that address by any other interface, as replies of redirected
// connections (Redirects) do: they come over loopback. While there are redirects, a
// Source puts one exception in front of each such kill switch, in the nftables
// tables wg-quick-* and in the raw tables of both variants of iptables: for what
// arrives over loopback for that very address from an address that is not this
// host's. Exceptions carry the comment "WEIR-redirect-replies" (with
// HostConfig.ChainPrefix), follow tunnels that come and go, and leave with Run,
// even with ExitClosed, or by Cleanup. If one cannot be made, the Logger is told
// and it is tried again; the connection does not work meanwhile, and nothing else
// passes.
//
// # Split routes
//
// With Redirects.RouteSplitTun a connection with verdict.ActionRerouteToSplitTun
// keeps the mark of its route, Marks.SplitTun plus its number, on every packet of
// both directions, and leaves with the address of the interface that it leaves by
// (MASQUERADE). Our rules let it pass before those of a VPN's kill switch in mangle
// POSTROUTING. This package does not route. It takes somebody, such as package
// kroute, who:
//
//   - keeps an `ip rule` for each mark, for IPv4 and IPv6, and a table behind it
//     that ends in an unreachable default;
//   - sets the sysctl net.ipv4.conf.all.src_valid_mark to 1, without which a strict
//     rp_filter drops the answers;
//   - says by Source.AllowRoutes which interface each route has, before connections
//     take it and whenever that changes. Run may begin before or after.
//
// AllowRoutes is what the guard goes by: an nftables table, named by the chain
// prefix in lower case and "-split", that drops packets with the mark of a route
// which are about to leave by another interface than the route's, or whose route
// nobody named. So nothing leaks in the milliseconds in which a rule of other
// software, such as wg-quick's, stands in front of the engine's. The guard takes
// nf_tables in the kernel; without, the Logger is told and there is none. Splitting
// by a proxy (Redirects.SplitTun) is the other way, and excludes this one.
//
// # Concurrency
//
// Run starts one reader a queue, locked to a thread: out and in, IPv4 and IPv6.
// Readers call Lookup and Handle, so both are called by several goroutines at once
// and must not block: while they do, no other packet of that queue is decided. The
// Info that Lookup gets is valid during the call only. A packet that Handle gets
// belongs to the handler, which may decide from any goroutine and keep the packet
// as long as it likes. All methods of Source may be called from any goroutine; a
// Source runs once at a time.
//
// # Cost
//
// A reader receives up to 32 packets with one system call, parses them by hand
// into memory that is reused, and sends the verdicts of that burst with one system
// call. A packet that Lookup decides costs no allocation, no goroutine and no
// timer; a packet for Handle is copied into one object of its own.
// docs/benchmarks.md has measurements.
package nfq
