#!/usr/bin/env bash
# Starts and stops refd for scripts/bench-split.sh, as the harness asks: split-peer.sh start|stop FAMILY. SPLIT_ENGINE is none,
# kroute or proxy. The programs of the harness are the app that is split.
set -euo pipefail
cd "$(dirname "$0")"
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
	if [[ $SPLIT_ENGINE == none ]]; then
		ip -n stcl route add 203.0.113.0/24 via 192.168.50.1 dev eth0
		ip -n stcl -6 route add 2001:db8:5::/64 via fd50::1 dev eth0
	fi
	nice -n -20 ip netns exec stcl ./refd --config refd.yaml run >peer.log 2>&1 &
	echo $! >peer.pid
	for _ in $(seq 100); do
		if ip netns exec stcl ./refd --config refd.yaml status >/dev/null 2>&1; then exit 0; fi
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
