// Package dnsmon tells what the resolver of the system answers to programs: which names lead to which addresses.
//
// On Linux a [Monitor] subscribes to the query results of systemd-resolved (version 252 and newer) over Varlink. The resolver does
// not tell who asked. Its event and its answer to the program race: a program may connect some microseconds before the event is
// here, so a firewall whose rules name domains lets a first packet wait a moment.
//
// On Windows, it reads what the DNS client (Dnscache) tells to Event Tracing for Windows, which says who asked; that takes an
// administrator. Elsewhere, New returns errors.ErrUnsupported.
//
// What is not known about systemd-resolved is left alone: unknown fields and records are ignored, and of what it tells twice, in
// JSON and in wire format, one is enough.
package dnsmon
