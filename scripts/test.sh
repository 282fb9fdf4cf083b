#!/usr/bin/env bash
# Runs the tests, all packages or those given, and prints a summary; the last line counts.
# As root nothing may be skipped that root makes possible (WEIR_CI=1, see internal/testutil).
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
if ((EUID == 0)); then
	export WEIR_CI=1
else
	echo "test: not root: tests in network namespaces are skipped. To run everything: sudo make test" >&2
fi

mkdir -p bin
"$go" build -o bin/testsum ./internal/repotest/testsum
# The Windows build, under Wine, which is installed if it is missing. That it is missing all the same is a failed test, too.
windows() {
	local kext=./internal/kextdev,./pkg/kext,./pkg/kextv1,./pkg/kextv2
	"$go" build -o bin/wintest ./internal/winerig/wintest
	if ! scripts/wine-rig.sh >/dev/null; then
		printf '{"Action":"%s","Package":"windows","Test":"WineRig","Output":"Wine and mingw-w64 are needed: scripts/wine-rig.sh\\n"}\n' output fail
		return 1
	fi
	scripts/wine-rig.sh bin/wintest -race "$kext"
}
tests() {
	local failed=0
	# -p 2: labs of many packages at once would measure each other.
	"$go" test -json -race -shuffle=on -p 2 -timeout 20m "$@" || failed=1
	# What the race detector would falsify, and those tests therefore skip under it.
	"$go" test -json -run 'Alloc|Memory' "$@" || failed=1
	if [[ -n $with_windows ]]; then
		windows || failed=1
	fi
	return $failed
}
status=0
with_windows=
if ((EUID == 0)) && [[ $# -eq 0 && $(uname -m) == x86_64 ]]; then
	with_windows=1
fi
# The raw events stay in bin/test.json for a closer look.
tests "${@:-./...}" 2>&1 | tee bin/test.json | bin/testsum || status=$?
if ((EUID != 0)); then
	echo "test: this was not everything: sudo make test" >&2
fi
exit "$status"
