#!/usr/bin/env bash
# golangci-lint, at the version of internal/tools/go.mod, on the code of each system given. The linter's cache has absolute paths in it, and looks for
# nolint comments in the files at those paths: shared by checkouts, it would judge one by the comments of another. A cold cache costs minutes. So
# every checkout is linted at the same path, by a mount that only the linter sees; where that is not allowed, each has a cache of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

lint() {
	local os
	for os in "$@"; do
		echo "lint $os"
		# compiled as the Makefile compiles for vet and build
		CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath" GOOS=$os bin/golangci-lint run
	done
}

shared=${XDG_CACHE_HOME:-$HOME/.cache}/weir-lint
place=$shared/src
# the second run of this script, in the mount
if [[ -n ${WEIR_LINT_MOUNTED-} ]]; then
	cd "$place"
	GOLANGCI_LINT_CACHE=$shared/cache lint "$@"
	exit
fi
"${GO:-go}" build -modfile=internal/tools/go.mod -o bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
mkdir -p "$place" "$shared/cache"
private=(unshare --mount)
((EUID == 0)) || private=(unshare --map-root-user --mount)
if "${private[@]}" mount --bind "$PWD" "$place" 2>/dev/null; then
	WEIR_LINT_MOUNTED=1 exec "${private[@]}" bash -euc 'mount --bind "$PWD" "$1"; exec "$1"/scripts/lint.sh "${@:2}"' lint "$place" "$@"
fi
GOLANGCI_LINT_CACHE=$PWD/bin/lint-cache lint "$@"
