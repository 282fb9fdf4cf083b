// Package proxy relays redirected TCP connections and UDP datagrams out of a chosen network interface.
//
// Somebody else, the packet filter, redirects connections (destination NAT) to the addresses in Config.Listen. For each of them
// the Server finds out where the client wanted to go, asks a Director by which interface that is to happen, connects to the
// destination from a socket that is bound to this interface and to an address of it, and passes the data on in both directions.
// A connection whose Director refuses, or whose interface is gone, ends at once; it never takes another way.
//
// Server and Director are usable by themselves. Engine makes a Server a splittunnel.Engine.
//
// # Threads
//
// Run starts Config.Loops threads, each with its own sockets, sessions and buffers, and none per session. An idle TCP session is
// two descriptors and less than a kilobyte; a UDP session is one descriptor. Bulk TCP data stays in the kernel (splice), small
// messages go through one shared buffer, datagrams are received and sent in batches.
//
// # UDP
//
// The kernel gives each pair of client socket and destination a source port of its own on the way to the Server, and conntrack
// knows which pair that is. The Server asks it (ctnetlink, so it needs CAP_NET_ADMIN) when a session begins, when the session
// was silent for Config.VerifyAfter, and after Server.Verify: a session's port may meanwhile belong to another pair, and a
// datagram must never go to the destination of an earlier one.
//
// # Limits
//
// A TCP client is accepted before its destination is known to answer; if the destination refuses, the client's connection is
// reset at once. ICMP errors for datagrams are counted and not passed on. The relay works on Linux
// only; on Windows there is Egress.Dial, which binds sockets as a relay has to.
package proxy
