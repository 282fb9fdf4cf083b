#!/usr/bin/env bash
# Fails if a Go file is not formatted.
set -euo pipefail
cd "$(dirname "$0")/.."

gofmt=$("${GO:-go}" env GOROOT)/bin/gofmt
[[ -x $gofmt ]] || gofmt=gofmt # some distributions keep it elsewhere
wrong=$("$gofmt" -l .)
if [[ -n $wrong ]]; then
	printf 'not formatted (gofmt -w):\n%s\n' "$wrong" >&2
	exit 1
fi
