// Package netscope says how far an IP address reaches: this host, this link, this site, the world, or a group or
// everybody on one of them.
//
// A firewall asks that question before it knows anything about the machine it runs on: "may this app talk to the local
// network?" has an answer for 192.168.1.7 wherever the packet is seen. The package therefore looks at the number only;
// it knows no interfaces. Package netif knows them, and with them what this package cannot know: which global addresses
// are our own, which are neighbours on an attached network, and which address is that network's broadcast address.
//
// # Which address has which scope
//
//	Host             127.0.0.0/8 (RFC 1122), ::1 (RFC 4291)
//	Link             169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291)
//	Site             10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918), 100.64.0.0/10 (RFC 6598),
//	                 fc00::/7 (RFC 4193), fec0::/10 (RFC 3879)
//	LocalMulticast   224.0.0.0/24 (RFC 5771), 239.0.0.0/8 (RFC 2365), ff00::/8 with a scope field of 0 to 8 (RFC 4291,
//	                 RFC 7346)
//	GlobalMulticast  the rest of 224.0.0.0/4 and of ff00::/8
//	Broadcast        255.255.255.255 (RFC 919)
//	Unknown          the zero netip.Addr, 0.0.0.0, ::
//	Global           everything else
//
// # Judgement calls
//
//   - IPv4 written as IPv6 (::ffff:0:0/96) has the scope of the IPv4 address, because that is what goes on the wire.
//     A zone does not matter.
//   - 100.64.0.0/10 is shared address space between a provider and its customers. It is not reachable from the Internet
//     and overlay networks use it for their members, so it is Site; the other side of it may be another customer.
//   - Addresses that are special but not local (documentation, benchmarking, reserved 240.0.0.0/4 and 0.0.0.0/8, NAT64,
//     6to4, Teredo) are Global. Some of them are routed nowhere and some embed another address, but calling one of them
//     local would let it through rules that allow "the local network", and kernels do send to them.
//   - Unknown is not local: [Scope.IsLocal] is false for it, and a caller should treat it like Global or refuse it.
package netscope
