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
tests() {
	local failed=0
	# -p 2: labs of many packages at once would measure each other. `make vet` has looked at more than go test would.
	"$go" test -json -vet=off -race -shuffle=on -p 2 -timeout 20m "$@" || failed=1
	# What the race detector would falsify, and those tests therefore skip under it, compiled as the Makefile compiles.
	local -a again
	mapfile -t again < <("$go" list -f '{{$d := .Dir}}{{range .TestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}' "$@" |
		xargs -r grep -lE '^func Test[A-Za-z0-9_]*(Alloc|Memory)' | xargs -r -n 1 dirname | sort -u)
	((${#again[@]} == 0)) || CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath" "$go" test -json -vet=off -run 'Alloc|Memory' "${again[@]}" || failed=1
	return $failed
}
status=0
# The raw events stay in bin/test.json for a closer look.
tests "${@:-./...}" 2>&1 | tee bin/test.json | bin/testsum || status=$?
if ((EUID != 0)); then
	echo "test: this was not everything: sudo make test" >&2
fi
exit "$status"
