// Package dnsguard decides about the DNS connections that no nameserver of ours answers.
//
// A [Guard] is a firewall.Decider, to be asked before rules, and a firewall.Inspector:
//
//   - While there is no nameserver of ours ([Config].Disabled), the system's DNS passes: nameservers of this host, and whatever its resolver
//     asks, which is known by its systemd unit, its service on Windows, or its program that only the administrator can write
//     ([SystemResolver]); the program only gets to the ports of DNS, also over TLS, QUIC and HTTPS. Queries of other programs by UDP are inspected packet by packet; what is not DNS is blocked for good.
//   - Programs that may not go round the system's DNS (Config.Prevents) are refused plain DNS to other hosts, DNS over TLS, QUIC and
//     HTTPS. In the disabled state, inspected plain DNS by UDP is left to them.
//
// Servers of DNS over HTTPS look like any other website; they are known by a list of names and addresses of well-known ones
// ([KnownEndpoints]), which can be added to.
package dnsguard
