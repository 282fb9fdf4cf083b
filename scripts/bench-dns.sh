#!/usr/bin/env bash
# Measures pkg/nameserver beside dnsmasq with dnsperf: answers from the cache, in a network namespace of its own; about two minutes.
#
#   sudo scripts/bench-dns.sh [-r ROUNDS] [-s SECONDS]
#
# Both forward to one more dnsmasq that knows 10,000 names, and are asked for all of them once before. Then they take turns. The ratio is
# the median of the ratios within a round, in which both met the same noise. The p99 is that of queries at 10,000 a second: at full speed
# it is the length of the queue and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=5 seconds=5
while getopts r:s: flag; do
	case $flag in
	r) rounds=$OPTARG ;;
	s) seconds=$OPTARG ;;
	*) exit 2 ;;
	esac
done
if ((EUID != 0)); then
	echo "bench-dns: needs root for a network namespace: sudo $0" >&2
	exit 1
fi

if [[ -z ${WEIR_BENCH_DNS:-} ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	"${GO:-go}" build -o "$work/dnsbench" ./internal/bench/dnsbench
	WEIR_BENCH_DNS=$work unshare --net --pid --fork --kill-child --mount-proc "$0" -r "$rounds" -s "$seconds"
	exit
fi

work=$WEIR_BENCH_DNS
ip link set lo up
for i in $(seq 10000); do
	echo "10.$((i / 65536)).$((i / 256 % 256)).$((i % 256)) host$i.example.test"
done >"$work/hosts"
awk '{print $2, "A"}' "$work/hosts" >"$work/names"

common=(--no-daemon --no-resolv --no-hosts --bind-interfaces --listen-address=127.0.0.1 --user=root --pid-file= --conf-file=/dev/null --dns-forward-max=10000)
dnsmasq "${common[@]}" --port=5300 --addn-hosts="$work/hosts" --local-ttl=86400 2>"$work/upstream.log" &
dnsmasq "${common[@]}" --port=5301 --server=127.0.0.1#5300 --cache-size=20000 2>"$work/dnsmasq.log" &
peer=$!
"$work/dnsbench" -listen 127.0.0.1:5302 -upstream 127.0.0.1:5300 ${DNSBENCH_PROFILE:+-profile "$DNSBENCH_PROFILE"} >"$work/weir.log" 2>&1 &
ours=$!
for port in 5300 5301 5302; do
	for _ in $(seq 100); do
		dig +short +tries=1 +timeout=1 -p "$port" @127.0.0.1 host1.example.test >/dev/null && break
	done
	dnsperf -s 127.0.0.1 -p "$port" -d "$work/names" -n 2 -q 50 -c 4 >/dev/null 2>&1
done

# full SERVER PORT ROUND: as fast as it goes
full() {
	dnsperf -s 127.0.0.1 -p "$2" -d "$work/names" -l "$seconds" -c 20 -T 1 -q 100 >"$work/out" 2>&1
	awk -v s="$1" -v r="$3" '/Queries per second/ {q = $4} /Queries lost/ {l = $3} END {print "full", r, s, q, l}' "$work/out"
}
# calm SERVER PORT ROUND: at a rate that both can bear; latencies in µs
calm() {
	dnsperf -s 127.0.0.1 -p "$2" -d "$work/names" -l "$seconds" -c 20 -T 1 -q 100 -Q 10000 -v 2>/dev/null |
		awk '$1 == ">" {print $NF * 1000000}' | sort -n >"$work/times"
	awk -v s="$1" -v r="$3" '{t[NR] = $1} END {print "calm", r, s, t[int(NR * 0.5)], t[int(NR * 0.99)]}' "$work/times"
}
for round in $(seq "$rounds"); do
	for kind in full calm; do
		if ((round % 2)); then
			"$kind" dnsmasq 5301 "$round"; "$kind" weir 5302 "$round"
		else
			"$kind" weir 5302 "$round"; "$kind" dnsmasq 5301 "$round"
		fi
	done
done | tee "$work/results"
echo "weir uses $(awk '/VmRSS/ {print $2}' "/proc/$ours/status") kB of memory"
kill -USR1 "$peer" # has it say how much came from its cache
kill "$ours"
wait "$ours" || true
grep -E 'queries forwarded' "$work/dnsmasq.log" || true
tail -n 1 "$work/weir.log"

python3 - "$work/results" <<'PY'
import statistics, sys
full, calm = {}, {}
for line in open(sys.argv[1]):
    kind, rnd, server, a, b = line.split()
    (full if kind == "full" else calm).setdefault(rnd, {})[server] = (float(a), float(b))
med = lambda table, server, i: statistics.median(r[server][i] for r in table.values())
ratios = sorted(r["weir"][0] / r["dnsmasq"][0] for r in full.values())
for s in ("dnsmasq", "weir"):
    print(f"{s:8} {med(full, s, 0):9.0f} cached queries/s, {sum(r[s][1] for r in full.values()):.0f} lost; "
          f"at 10,000/s p50 {med(calm, s, 0):.0f} us, p99 {med(calm, s, 1):.0f} us")
print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
PY
