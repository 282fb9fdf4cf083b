#!/usr/bin/env bash
# Runs the Windows test binaries under Wine and prints a summary; the last line counts. As root it happens in a network namespace
# with two uplinks.
#
#   scripts/test-windows.sh               # all packages, and those below again with the race detector
#   scripts/test-windows.sh PACKAGE...    # these; with RACE=PACKAGE,... those with the race detector
#   scripts/test-windows.sh --core        # for scripts/test.sh: what is only Windows', as events of `go test -json`
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
core=(
	./cmd/refd ./internal/etw ./internal/kextdev ./internal/kextwire/... ./internal/refd/api ./internal/refd/config
	./internal/winerig ./internal/winpipe ./internal/winsvc
	./pkg/dnsmon ./pkg/kext ./pkg/kextv1 ./pkg/kextv2 ./pkg/netif ./pkg/procinfo ./pkg/splittunnel/proxy
)
all_race=./internal/kextdev,./pkg/kext,./pkg/kextv1,./pkg/kextv2,./internal/winpipe,./internal/winsvc,./internal/winerig,./internal/etw,./pkg/netif,./pkg/procinfo,./pkg/splittunnel/proxy
core_race=./internal/kextdev,./pkg/kext

run() { # run RACE PACKAGE...
	local race=$1
	shift
	"$go" list -deps -test ./... >/dev/null # downloads what is missing: the lab has no way to do that
	"$go" build -o bin/wintest ./internal/winerig/wintest
	scripts/wine-rig.sh bin/wintest ${race:+-race "$race"} "$@"
}

if [[ ${1-} == --core ]]; then
	run "${RACE-$core_race}" "${core[@]}"
	exit
fi
race=${RACE-}
if (($# == 0)); then
	race=${RACE-$all_race}
fi
mkdir -p bin
"$go" build -o bin/testsum ./internal/repotest/testsum
run "$race" "$@" | tee bin/test-windows.json | bin/testsum
