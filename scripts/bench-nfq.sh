#!/usr/bin/env bash
# Measures pkg/nfq beside C and go-nfqueue v2, in network namespaces of its own; about ten minutes.
#
#   sudo scripts/bench-nfq.sh [-r REPETITIONS] [known|bulk|connects|latency]...
#
# NFQBENCH is the directory of the reference programs and their harness, whose README tells its other variables: NFQBENCH_SECS,
# NFQBENCH_NOISE, NFQBENCH_LOCK, NFQBENCH_EXTRA. NFQBENCH_ONLY chooses cases by a part of their name.
set -euo pipefail
cd "$(dirname "$0")/.."

harness=${NFQBENCH:-../shared/reference/nfqbench}
if ((EUID != 0)); then
	echo "bench-nfq: needs root for network namespaces: sudo $0" >&2
	exit 1
fi
if [[ ! -f $harness/bench.py ]]; then
	echo "bench-nfq: no harness in $harness; set NFQBENCH to its directory" >&2
	exit 1
fi

work=$(mktemp -d)
export NSA="weirb$$A" NSB="weirb$$B"
cleanup() {
	[[ ! -x $work/setup.sh ]] || "$work/setup.sh" down || true
	rm -rf "$work"
}
trap cleanup EXIT

cp -r "$harness/." "$work/"
rm -rf "$work/bin" "$work/results.jsonl"
chmod +x "$work"/*.sh
"$work/build.sh"
"${GO:-go}" build -o "$work/bin/nfqbench" ./internal/bench/nfqbench
cp internal/bench/nfqbench/weirgroups.py "$work/"
"$work/setup.sh"
ip netns exec "$NSA" python3 "$work/weirgroups.py" "$@"
