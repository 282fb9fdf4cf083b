// Package testnet builds small real networks for tests: hosts are network namespaces, cables are veth pairs.
//
// Nothing here touches the network of the machine itself: every command that changes something runs inside a namespace that
// the lab made, and no lab has a cable to the outside.
//
//	lab := testnet.New(t)
//	client, server := lab.Pair() // eth0 to eth0, IPv4 and IPv6
//	server.TCPEcho(t, "[::]:7")
//	client.Run(t, "ping", "-c1", testnet.ServerV4)
//
// # What runs where
//
// A network namespace belongs to a thread, not to a process. Host.Do runs a function on a thread of the namespace, and
// sockets made there stay there; but goroutines started by that function run on other threads, outside. Code that opens
// sockets from goroutines of its own is tested as a program (Lab.Program, Host.Start) or with Isolate, which runs the whole
// test again as a process inside a fresh namespace. /proc/net and /proc/self/net always show the namespace of the main
// thread; inside Do use /proc/thread-self/net.
//
// Commands enter a namespace with nsenter and not with `ip netns exec`, because the latter gives them a mount namespace in
// which /sys is mounted anew, without /sys/fs/cgroup and /sys/fs/bpf. The price: /sys/class/net shows the interfaces of
// the machine. Host.Etc gives the commands of one host their own files in /etc, such as resolv.conf,
// and Host.OwnDir a directory of their own.
//
// All is removed when the test ends, processes included. What a killed test binary left is removed by the next New.
package testnet
