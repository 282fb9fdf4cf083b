// Package names remembers which domains the addresses of this host's connections were looked up by.
//
// A [Table] is fed with the answers that resolvers give: those that a resolver of the system reports (package dnsmon), those of
// a nameserver of our own, and those seen in packets. [Resolve] makes lookups of an answer: it follows aliases (CNAME, and the
// targets of SVCB and HTTPS records) from the name that was asked for to addresses.
//
// # Whose name it is
//
// An address may have many names: a content network serves thousands of domains from one. So the table keeps several for an
// address, and knows for each who asked where its source tells that. For a process, [Table.Find] returns the name that this
// process looked up last; only if it has none, what was looked up last by nobody in particular. What another process looked up
// is never returned: it says nothing about this one.
//
// # How long
//
// Programs use an address for longer than its record's TTL says, so an entry is kept for Config.Floor at least. The table is
// bounded in addresses and in names of an address. When it is full, addresses go that were not asked about for a while (second
// chance, an approximation of least recently used that lets readers write nothing).
//
// Loopback, multicast and unspecified addresses never get a name: they belong to no remote host, and a blocklist that answers
// with 127.0.0.1 must not give its names to connections within this host.
//
// All methods may be called from any goroutine.
package names
