#!/usr/bin/env bash
# Measures both engines of the split tunnel, in refd as it is, beside a direct route, in network namespaces of its own.
#
#   sudo scripts/bench-split.sh [-r ROUNDS] [-f "4 6"] [TEST]...
#
# TESTs are those of the harness, by default tcp1 tcp1r tcp8 rr crr1 crr8 urr ue64 ue64x4 ue1200; about 30 minutes with three
# rounds. SPLITBENCH is the directory of the harness, whose README tells what the tests and paths are. Paths: A direct without a
# packet filter, Act direct with conntrack, D and Ctp the prototypes of the kernel engine and of the proxy, which tell the app in the
# kernel by its cgroup and decide nothing, queue the rules of D with a program that marks first packets and looks at nothing, and
# refd with the engines none (which only decides), kroute and proxy.
set -euo pipefail
cd "$(dirname "$0")/.."

harness=${SPLITBENCH:-../shared/reference/splittun}
rounds=3 families="4 6"
while getopts r:f: flag; do
	case $flag in
	r) rounds=$OPTARG ;;
	f) families=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
tests=${*:-tcp1 tcp1r tcp8 rr crr1 crr8 urr ue64 ue64x4 ue1200}
if ((EUID != 0)); then
	echo "bench-split: needs root for network namespaces: sudo $0" >&2
	exit 1
fi
if [[ ! -f $harness/bench.sh ]]; then
	echo "bench-split: no harness in $harness; set SPLITBENCH to its directory" >&2
	exit 1
fi

work=$(mktemp -d)
servers=
cleanup() {
	[[ -z $servers ]] || kill "$servers" 2>/dev/null || true
	[[ ! -x $work/peer.sh ]] || "$work/peer.sh" stop 4 || true
	[[ ! -x $work/lab.sh ]] || "$work/lab.sh" down || true
	rm -rf "$work"
}
trap cleanup EXIT

cp -r "$harness/." "$work/"
chmod +x "$work"/*.sh
(cd "$work/tool" && CGO_ENABLED=0 "${GO:-go}" build -o "$work/stbench" .)
CGO_ENABLED=0 "${GO:-go}" build -o "$work/refd" ./cmd/refd
cp internal/bench/split-peer.sh "$work/peer.sh"
cd "$work"
./lab.sh up
./servers.sh >servers.log 2>&1 &
servers=$!
sleep 1
declare -A name=([queue]=queue [none]=refd-none [kroute]=refd-kroute [proxy]=refd-proxy)
for round in $(seq "$rounds"); do
	for family in $families; do
		OUT=results.txt TESTS=$tests ./bench.sh "$round" "$family" A Act D Ctp
		for engine in queue none kroute proxy; do
			# the harness calls any other proxy path B
			SPLIT_ENGINE=$engine PEER=$work/peer.sh OUT=engine.txt TESTS=$tests \
				./bench.sh "$round" "$family" B
			[[ ! -f engine.txt ]] || sed "s/^\($round $family\) B /\1 ${name[$engine]} /" engine.txt >>results.txt
			rm -f engine.txt
		done
	done
done
python3 summary.py results.txt
