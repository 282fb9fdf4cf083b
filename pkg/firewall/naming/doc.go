// Package naming joins a names.Table to a firewall: a [Finder] tells the firewall the names of connections, and an [Observer] fills
// the table with the answers to DNS queries that it sees in packets.
//
// It is a package of its own because it needs both sides: names are below packets in the layers, and package firewall itself takes
// names from whoever has them, without knowing DNS.
//
// # What packets tell
//
// The Observer reads answers that come back from port 53 over UDP and TCP, and believes one if the query was seen before: same
// connection, same message id, same name. Unlike a resolver's report, a packet tells who asked: its connection has a process. What
// is asked for on behalf of others, by a resolver of the system, becomes a name for everybody (Config.Forwarder). The firewall
// shows a packet to the Observer before it lets it pass, so the name is known before the program can use the address.
//
// A program that asks a nameserver of its own choice hears what that likes to say, and so does the Observer. Where rules allow
// connections by domain, they should also say which nameservers may be asked.
//
// DNS over TLS or HTTPS cannot be read, and of connections that the firewall sends another way (tunnel, split tunnel) the answers
// are not seen.
package naming
