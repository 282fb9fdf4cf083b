#!/usr/bin/env bash
# Runs the Windows test binaries of all packages, or of those given, under Wine, and prints a summary; the last line counts. As
# root it happens in a network namespace with two uplinks.
#
# What the race detector looks at beside that: RACE, packages separated by commas.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
race=${RACE-./internal/kextdev,./pkg/kext,./pkg/kextv1,./pkg/kextv2,./internal/winpipe,./internal/winsvc,./internal/winerig,./internal/etw,./pkg/netif,./pkg/procinfo,./pkg/splittunnel/proxy}
# Packages that are not there yet, or not any more, are no reason to test nothing.
have=
for dir in ${race//,/ }; do
	[[ ! -d $dir ]] || have+=${have:+,}$dir
done
if (($#)) && [[ -z ${RACE-} ]]; then
	have=
fi

mkdir -p bin
"$go" build -o bin/testsum ./internal/repotest/testsum
"$go" build -o bin/wintest ./internal/winerig/wintest
"$go" list -deps -test ./... >/dev/null # downloads what is missing: the lab has no way to do that
status=0
scripts/wine-rig.sh bin/wintest ${have:+-race "$have"} "$@" | tee bin/test-windows.json | bin/testsum || status=$?
exit "$status"
