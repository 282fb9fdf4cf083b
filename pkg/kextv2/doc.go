// Package kextv2 intercepts the packets of a Windows host with the kernel driver of version 2 and later, asks a handler about
// them, and tells the driver what it decides. Package kext chooses between it and kextv1 by the driver's version.
//
// Source implements intercept.Source and intercept.Updater. The driver's service must run; this package does not install it.
//
// # Protocol
//
// The driver's device is read like a stream and written to by commands, both at the same time. A packet waits in the driver
// until its verdict is written; what the driver sends of it comes with the question. The driver tells ended connections, and
// is asked for transferred bytes and for its log lines every second; every 30 seconds it is told to forget ended connections.
//
// # Verdicts
//
// A permanent verdict is stored by the driver, which decides by itself from then on. Its numbers are not those of package
// verdict: accept 2, permanent accept 3, block 4, permanent block 5, drop 6, permanent drop 7, nameserver 8, tunnel 9, split
// tunnel 11. PermanentAcceptFinal is a permanent accept: no other software overrides the driver. A driver before 2.1 does not
// know 11; there a split connection is dropped, and the verdict method returns an error that wraps ErrNoSplitTunnel.
//
// The driver can forget either no or all stored verdicts. So Forget, and Update to an action that is not permanent, make it
// forget all; the next packet of every connection is asked about again. The first 16 calls of Forget in a row do that at once,
// later ones together once a second.
//
// Verdicts on ICMP are never permanent: the driver's keys have no echo identifiers.
//
// # Errors
//
// Every packet gets exactly one verdict: the handler's, or the default, for packets whose handler is too slow, that come when
// too many wait, and that wait when Run ends. A message of the driver that makes no sense is skipped, counted and told to the
// logger. A failed read, a failed command or eight failed verdicts in a row end Run with an error.
package kextv2
