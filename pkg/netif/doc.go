// Package netif knows the network interfaces of this machine: which there are, which addresses and networks they have,
// where the default routes go, and what of it just changed.
//
// # Snapshots
//
// Everything is answered by a [Snapshot], an immutable value. [Read] takes one. A [Watcher] keeps one up to date: its
// Snapshot method is one atomic load, so the packet path may call it for each connection, and the lookups on the
// snapshot ([Snapshot.Owner], [Snapshot.Attached], [Snapshot.IsBroadcast]) do not allocate.
//
// # Choosing an interface
//
// [Snapshot.Pick] finds the interface that a user means, and with it the source address and the gateway that a socket or
// a routing table needs. The text is a [Selector]:
//
//	"eth0"               the interface of that name
//	"192.168.1.5"        the interface that has this address (IPv6 also, with %zone if it is link-local)
//	"00:00:5e:00:53:01"  the interface with this hardware address
//	"3"                  the interface with this index
//	""                   the best physical default, see below
//
// Selected interfaces must be up and running and have a usable address of the family. If several match (a bridge shares
// its port's hardware address), the lowest index that satisfies this wins.
//
// The best physical default for a family is found like this. Take the default routes of the family in the main routing
// table, without those that are not plain unicast, are dead, or hold for one source prefix or type of service only. Keep
// those whose interface is up and running, is neither a tunnel nor loopback, and has a usable address of the family,
// and that have a gateway or lie on a point-to-point interface (a mobile modem has no gateway). Of these take the lowest
// metric, then the lowest interface index, then the lowest gateway address. "Physical" means just that: a bridge, a bond,
// a VLAN or a container's veth may be where the machine's traffic leaves, so they count; a tunnel never does. A PPP
// interface counts as a tunnel because PPPoE cannot be told from a PPP VPN: who dials in by PPPoE has to name it.
//
// # Limits
//
// The routing table is the main one. Networks and defaults that exist only in other tables (policy routing, VRF) are not
// seen, which is wanted: VPN software puts its own there. Local addresses are those of interfaces; "local" routes that
// somebody made by hand (AnyIP) are not.
//
// The package works in the network namespace of the calling thread and never changes anything. It needs no privileges.
// On systems other than Linux and Windows, [New] and [Read] return an error that wraps errors.ErrUnsupported; snapshots, selectors
// and [Feed] work everywhere.
package netif
