// Package ivpn lives together with the client of the IVPN service, a VPN, on the
// same host: it talks to that client's daemon, and tells a firewall which
// connections the VPN needs.
//
// It has two parts. Client speaks the daemon's protocol and can be used alone:
// it finds the daemon, connects, tells what it hears as Events, and connects
// again. Interop is built on it: it keeps a State, answers package extverdict
// about connections of the VPN, and hands DNS to a nameserver of ours. What its
// kill switch drops of redirected connections is for the packet source to except
// (package nfq does).
//
//	i, err := ivpn.New(ivpn.Config{})
//	if err != nil {
//		return err
//	}
//	if err := slot.Set("ivpn", i.Handle); err != nil { // of a firewall
//		return err
//	}
//	return i.Run(ctx, func() { log.Print(i.State().Phase) })
//
// # Whom it trusts
//
// The daemon says where it listens, and proves itself, by a file with a port and
// a secret (port.txt, and eaa for privileged requests). What it
// then says decides which connections pass, so nobody but an administrator may
// have written these files, could replace them, or listen in the daemon's place:
// file, folder and all folders above it have to belong to root, or to the user
// that this process runs as, and must not be writable for others; so has the
// socket that answers, on Linux and Windows. On Windows the same is asked of
// access lists, and of the process that listens. The
// executable that the daemon names as its own is checked in the same way. What
// fails the check is not used, and a Condition says why.
//
// # What it accepts
//
// Handle accepts connections to the VPN's endpoint (address, port and protocol
// equal), and from it if UDP; TCP between this host and the daemon's port; and
// all connections of the daemon's executable. It keeps them out of tunnels. About
// everything else it has no opinion, and it never blocks.
//
// # Old daemons
//
// Daemons up to version 3.15 do not tell their executable. With them, the
// endpoint and the port still work; a Condition says that the rest does not.
package ivpn
