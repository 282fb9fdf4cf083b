#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other, for FUZZTIME each.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
found=0
while IFS=: read -r file target; do
	found=$((found + 1))
	echo "== $(dirname "$file") $target"
	"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" "./$(dirname "$file")"
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd examples internal pkg | sort | sed 's/:func /:/')
if ((found == 0)); then
	echo "fuzz: no targets found" >&2
	exit 1
fi
echo "fuzz: $found targets, nothing found"
