// Package splittunnel lets chosen connections leave by a chosen network interface although another one, usually a VPN's, owns
// the default route.
//
// A Splitter answers a firewall's question (firewall.SplitTunneler) whether a connection shall leave by an interface of its own,
// and by which. It asks a Policy what the user wishes, knows from package netif what the interfaces are like at this moment, and
// leaves the carrying to an Engine: package kroute, which has the kernel route the packets, or package proxy, which relays the
// data.
//
// A connection that shall leave by an interface never leaves by another one: if the interface is missing, down, or without an
// address or a route of the connection's family, the connection fails, and the error says why.
package splittunnel
