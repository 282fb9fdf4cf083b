// Package e2e holds tests of whole programs: refd, and programs that embed the SDK, run as processes of their own in network
// namespaces, under both variants of iptables and for both address families, while real programs (curl, ping, socat, iperf3)
// use the network. It has no code but tests.
package e2e
