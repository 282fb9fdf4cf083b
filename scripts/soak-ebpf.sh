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
source scripts/lib/lab.sh
lab s
refd_config </dev/null
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
ip netns exec "$b" python3 "$work/sink.py" & sinks+=($!)
refd_run ebpf
ip netns exec "$a" python3 "$work/load.py" "$rate" & loads+=($!)
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
ask status | grep -E "attribution|connections"
span=$((end > begin ? end - begin : 1))
growth=$(((last - first) * 60 / span))
echo "after the first minute: $growth KiB a minute, descriptors $fds to $lastfds"
if ((growth >= 1024 || lastfds > fds + 16)); then
	echo "soak-ebpf: it grows" >&2
	exit 1
fi
