#!/usr/bin/env bash
# What it costs refd to know the transferred bytes and the ends of many connections: TCP connections through it that stay open and idle, in
# network namespaces of its own, while its processor time is watched.
#
#   sudo scripts/bench-live.sh [METHOD [CONNECTIONS [SECONDS]]]     (auto, 100000 and 120; METHOD is refd's attribution.method)
#
# Each line is a share of one processor. At the end it counts the connections that refd has as live, and asks for their bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
method=${1:-auto} connections=${2:-100000} seconds=${3:-120}
source scripts/lib/lab.sh
lab l
ulimit -n "$(ulimit -Hn)"
each=15000 pairs=$(((connections + 14999) / 15000)) # connections of a process, within the usual limit of descriptors
ip netns exec "$a" sysctl -qw net.ipv4.ip_local_port_range="1024 65535"
refd_config <<YAML
attribution: {method: $method}
dns: {self_check: false}
YAML
cat >"$work/sink.py" <<'PY'
import socket, sys
l = socket.socket(); l.bind(("10.88.0.2", int(sys.argv[1]))); l.listen(4096)
held = []
while True:
    c, _ = l.accept(); c.send(b"x" * 100); held.append(c)
PY
cat >"$work/load.py" <<'PY'
import socket, sys, time
held = []
for i in range(int(sys.argv[2])):
    s = socket.socket(); s.connect(("10.88.0.2", int(sys.argv[1]))); s.send(b"y" * 50); held.append(s)
print("ready", flush=True)
time.sleep(1e6)
PY
for ((i = 0; i < pairs; i++)); do
	ip netns exec "$b" python3 "$work/sink.py" $((7000 + i)) & sinks+=($!)
done
if [[ $method == auto ]]; then refd_run ebpf; else refd_run ""; fi
begin=$SECONDS
for ((i = 0; i < pairs; i++)); do
	n=$((connections - i * each < each ? connections - i * each : each))
	ip netns exec "$a" python3 "$work/load.py" $((7000 + i)) "$n" >"$work/loaded$i" & loads+=($!)
done
for ((i = 0; i < pairs; i++)); do
	until grep -q ready "$work/loaded$i"; do
		kill -0 "${loads[i]}" || exit 1
		sleep 1
	done
done
echo "$connections connections in $((SECONDS - begin)) s"
ticks() { awk '{print $14 + $15}' "/proc/$refd/stat"; }
hz=$(getconf CLK_TCK) first=$(ticks)
for ((s = 10; s <= seconds; s += 10)); do
	before=$(ticks)
	sleep 10
	awk -v d=$(($(ticks) - before)) -v hz="$hz" -v s="$s" 'BEGIN {printf "%d s: %.2f %%\n", s, 100 * d / hz / 10}'
done
awk -v d=$(($(ticks) - first)) -v hz="$hz" -v s="$seconds" 'BEGIN {printf "all: %.2f %% of a processor\n", 100 * d / hz / s}'
ask conns --json --limit 1 --by protocol | tr -d '\n\t ' | cut -c1-400
echo
