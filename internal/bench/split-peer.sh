#!/usr/bin/env bash
# Starts and stops refd for scripts/bench-split.sh, as the harness asks: split-peer.sh start|stop FAMILY. SPLIT_ENGINE is none,
# kroute or proxy. The programs of the harness are the app that is split. With the engine "queue" it is not refd: a program gives
# the first packet of each connection the mark of the split tunnel and looks at nothing, which is what any firewall pays that has its
# first packets judged outside of the kernel.
set -euo pipefail
cd "$(dirname "$0")"

client() { ip netns exec stcl "$@"; }

queue() {
	for program in iptables ip6tables; do
		client $program -t mangle -A OUTPUT -j CONNMARK --restore-mark
		client $program -t mangle -A OUTPUT -m mark --mark 0 -j NFQUEUE --queue-num 17040
		client $program -t mangle -A PREROUTING -j CONNMARK --restore-mark
		client $program -t filter -A OUTPUT -m mark --mark 1719 -j CONNMARK --save-mark
		client $program -t nat -A POSTROUTING -m mark --mark 1719 -o eth0 -j MASQUERADE
	done
	ip -n stcl route add default via 192.168.50.1 dev eth0 table 719
	ip -n stcl -6 route add default via fd50::1 dev eth0 table 719
	for f in -4 -6; do ip -n stcl $f rule add fwmark 1719 lookup 719 priority 719; done # the harness removes them
	nice -n -20 ip netns exec stcl ./stbench nfq -queue 17040 -mark 1719 >peer.log 2>&1 &
	echo $! >peer.pid
}

case $1 in
start)
	use=true
	[[ $SPLIT_ENGINE != none ]] || use=false
	cat >refd.yaml <<-EOF
		mode: enforce
		on_exit: open
		api: {socket: $PWD/refd.sock}
		netfilter: {state_dir: $PWD/state}
		default: {in: block, out: allow}
		split_tunnel: {engine: $SPLIT_ENGINE}
		apps:
		  - id: bench
		    match: [{path: $PWD/stbench}, {path: "/**/iperf3"}]
		    split: {use: $use, interface: eth0}
	EOF
	# The harness marks the app's packets for the proxies that it knows. refd decides by itself what is split.
	for program in iptables ip6tables; do client $program -t mangle -F OUTPUT; done
	if [[ $SPLIT_ENGINE == queue ]]; then
		queue
		exit
	fi
	if [[ $SPLIT_ENGINE == none ]]; then
		ip -n stcl route add 203.0.113.0/24 via 192.168.50.1 dev eth0
		ip -n stcl -6 route add 2001:db8:5::/64 via fd50::1 dev eth0
	fi
	nice -n -20 ip netns exec stcl ./refd --config refd.yaml run >peer.log 2>&1 &
	echo $! >peer.pid
	for _ in $(seq 100); do
		if client ./refd --config refd.yaml status >/dev/null 2>&1; then exit 0; fi
		sleep 0.1
	done
	cat peer.log >&2
	exit 1
	;;
stop)
	[[ -f peer.pid ]] || exit 0
	pid=$(cat peer.pid)
	kill "$pid" 2>/dev/null || true
	for _ in $(seq 100); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	rm -f peer.pid
	;;
esac
