#!/usr/bin/env bash
# Soaks refd with eBPF attribution: new TCP and UDP connections through it at a steady rate, in network namespaces of its own, while its
# memory, descriptors and the entries of its BPF maps are watched.
#
#   sudo scripts/soak-ebpf.sh [MINUTES [CONNECTIONS_PER_SECOND]]     (10 and 500)
#
# It fails if the resident memory grows by 1 MiB a minute or more after the first minute, or descriptors or goroutines pile up.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-10} rate=${2:-500}
if ((EUID != 0)); then
	echo "soak-ebpf: needs root for network namespaces: sudo $0" >&2
	exit 1
fi
work=$(mktemp -d) a=weirs$$A b=weirs$$B
cleanup() {
	[[ -z ${refd:-} ]] || { kill "$refd" && wait "$refd"; } 2>/dev/null || true
	[[ -z ${load:-} ]] || kill "$load" 2>/dev/null || true
	[[ -z ${sink:-} ]] || kill "$sink" 2>/dev/null || true
	ip netns delete "$a" 2>/dev/null || true
	ip netns delete "$b" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
if [[ -n ${REFD:-} ]]; then cp "$REFD" "$work/refd"; else CGO_ENABLED=0 "${GO:-go}" build -o "$work/refd" ./cmd/refd; fi
ip netns add "$a"
ip netns add "$b"
ip -n "$a" link add eth0 type veth peer name eth0 netns "$b"
ip -n "$a" address add 10.88.0.1/24 dev eth0
ip -n "$b" address add 10.88.0.2/24 dev eth0
for ns in "$a" "$b"; do ip -n "$ns" link set lo up; ip -n "$ns" link set eth0 up; done
cat >"$work/refd.yaml" <<YAML
mode: enforce
on_exit: open
api: {socket: $work/refd.sock}
netfilter: {state_dir: $work/state}
default: {out: allow}
ivpn: {enabled: false}
YAML
cat >"$work/sink.py" <<'PY'
import selectors, socket
sel = selectors.DefaultSelector()
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(("10.88.0.2", 7)); l.listen(4096)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("10.88.0.2", 7))
while True:
    c, _ = l.accept(); c.close()
PY
# Processes that each make some connections and end, so that processes and programs are new, too.
cat >"$work/load.py" <<'PY'
import os, socket, sys, time
rate = int(sys.argv[1]); begin = time.monotonic(); made = 0
while True:
    if os.fork() == 0:
        for i in range(25):
            if i % 5 == 0:
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("10.88.0.2", 7)); continue
            s = socket.socket(); s.connect(("10.88.0.2", 7)); s.recv(1); s.close()
        os._exit(0)
    os.wait(); made += 25
    if (ahead := made / rate - (time.monotonic() - begin)) > 0: time.sleep(ahead)
PY
ip netns exec "$b" python3 "$work/sink.py" & sink=$!
ip netns exec "$a" "$work/refd" --config "$work/refd.yaml" run 2>"$work/log" & refd=$!
for ((i = 0; i < 200; i++)); do
	[[ $("$work/refd" --config "$work/refd.yaml" status 2>/dev/null) == *"by ebpf"* ]] && break
	sleep 0.1
done
"$work/refd" --config "$work/refd.yaml" status | grep attribution
ip netns exec "$a" python3 "$work/load.py" "$rate" & load=$!
resident() { awk '/^VmRSS/ {print $2}' "/proc/$refd/status"; }
descriptors() { find "/proc/$refd/fd" -mindepth 1 2>/dev/null | wc -l; }
first= fds=
for ((s = 0; s <= minutes * 60; s += 15)); do
	sleep 15
	kib=$(resident) n=$(descriptors)
	echo "$((s + 15)) s: $kib KiB resident, $n descriptors"
	if [[ -z $first ]] && ((s + 15 >= 60)); then first=$kib fds=$n begin=$((s + 15)); fi
	last=$kib lastfds=$n end=$((s + 15))
done
"$work/refd" --config "$work/refd.yaml" status | grep -E "attribution|connections"
span=$((end > begin ? end - begin : 1))
growth=$(((last - first) * 60 / span))
echo "after the first minute: $growth KiB a minute, descriptors $fds to $lastfds"
if ((growth >= 1024 || lastfds > fds + 16)); then
	echo "soak-ebpf: it grows" >&2
	exit 1
fi
