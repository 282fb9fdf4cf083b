#!/usr/bin/env bash
# Runs the tests, all packages, some of them also as Windows programs under Wine, or those given, and prints a summary; the last line counts.
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
tests() {
	local failed=0
	# -p 2: labs of many packages at once would measure each other. `make vet` has looked at more than go test would.
	"$go" test -json -vet=off -race -shuffle=on -p 2 -timeout 25m "$@" || failed=1
	# What the race detector would falsify, and those tests therefore skip under it, compiled as the Makefile compiles.
	local -a again
	mapfile -t again < <("$go" list -f '{{$d := .Dir}}{{range .TestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}' "$@" |
		xargs -r grep -lE '^func Test[A-Za-z0-9_]*(Alloc|Memory)' | xargs -r -n 1 dirname | sort -u)
	((${#again[@]} == 0)) || CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath" "$go" test -json -vet=off -run 'Alloc|Memory' "${again[@]}" || failed=1
	if [[ -n $with_windows ]]; then
		windows || failed=1
	fi
	return $failed
}
# What is only Windows', under Wine; `make test-windows` runs all packages. As root Wine is installed if it is missing, and missing all
# the same it is a failed test.
windows() {
	local outcome=skip why
	if [[ $(uname -m) != x86_64 ]]; then
		why="Wine runs the programs of its own processor, and the rig is for x86-64"
	elif scripts/wine-rig.sh >/dev/null; then
		scripts/test-windows.sh --core
		return
	else
		why="no Wine and mingw-w64: sudo scripts/wine-rig.sh says what is missing, and installs it"
		[[ -z ${WEIR_CI-} ]] || outcome=fail
	fi
	printf '{"Action":"%s","Package":"windows","Test":"WineRig","Output":"%s\\n"}\n' output "$why" "$outcome" ""
	[[ $outcome == skip ]]
}
status=0
with_windows=
(($#)) || with_windows=1
# The raw events stay in bin/test.json for a closer look.
tests "${@:-./...}" 2>&1 | tee bin/test.json | bin/testsum || status=$?
if ((EUID != 0)); then
	echo "test: this was not everything: sudo make test" >&2
fi
exit "$status"
