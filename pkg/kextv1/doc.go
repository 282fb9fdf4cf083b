// Package kextv1 intercepts the packets of a Windows host with the kernel driver before version 2, asks a handler about them,
// and tells the driver what it decides. Package kext chooses between it and kextv2 by the driver's version.
//
// Source implements intercept.Source and intercept.Updater. The driver's service must run; this package does not install it.
//
// # Protocol
//
// Every exchange with the driver is one DeviceIoControl. One waits for the next request, which is one of three things:
//
//   - a packet that waits for its verdict. Its bytes stay in the driver until Packet.Payload asks for them, so that
//     Packet.Info has what the driver tells and not what the headers do: no TCP flags, no ICMP type, and a HeaderLength
//     without options;
//   - a packet of which the driver knows the process already: it takes no verdict, and the handler's is told to nobody;
//   - the information that a process opened a socket: an info-only packet, with its process.
//
// A packet whose ExpectsInfo is true is followed by the info-only one of its connection. One goroutine reads, so that the
// handler gets them in this order.
//
// The driver is asked every second for transferred bytes. It does not tell when connections end, and has no log.
//
// # Verdicts
//
// The driver's numbers are those of package verdict with a sign: positive for the connection, which the driver decides by
// itself from then on, negative for one packet. The reroutes are always positive. PermanentAcceptFinal is a permanent accept:
// no other software overrides the driver. Split tunnel is 8, which original drivers of this version do not know: package kext
// refuses it unless told otherwise.
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
// too many wait, and that wait when Run ends. A verdict on a packet without an id is an error that wraps ErrNoPacketID. A
// request that makes no sense is skipped, counted and told to the logger. A failed request or eight failed verdicts in a row
// end Run with an error; failed statistics are told to the logger.
package kextv1
