// Package firewall decides about connections. It is the intercept.Handler that
// joins a packet backend with what is known about processes and names, an
// external handler, rules, a tunnel and a split tunnel.
//
// The first packet of a connection goes through these stages until one decides:
// fast track, our own ports and proxies, process, queries for our nameserver,
// connections of our own process, sinkhole, answers to our own multicast queries, external handler, deciders in
// their order, default. An accepted connection then passes the tunnel stage. The result is a value
// (FilterConnection touches no packet), kept in the connection's snapshot and
// applied to its packets, or pushed to the kernel by Reevaluate.
package firewall
