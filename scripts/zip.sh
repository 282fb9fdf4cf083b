#!/usr/bin/env bash
# Builds bin/refd_VERSION_windows_ARCH.zip for amd64 and arm64. VERSION comes from git or from the environment. Needs zip.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

version=${VERSION:-0.0~git$(git log -1 --format=%cd --date=format:%Y%m%d).$(git rev-parse --short=9 HEAD)}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for arch in amd64 arm64; do
	dir=$work/refd-$version
	rm -rf "$dir"
	mkdir "$dir"
	CGO_ENABLED=0 GOOS=windows GOARCH=$arch "${GO:-go}" build -trimpath -ldflags "-s -w -X main.version=$version" -o "$dir/refd.exe" ./cmd/refd
	cp LICENSE "$dir/LICENSE.txt"
	cp docs/windows.md docs/configuration.md CHANGELOG.md "$dir/"
	# what lies beside refd.exe is no configuration yet: it goes to %ProgramData%\weir
	sed '/^history:/d' packaging/refd.yaml >"$dir/refd.example.yaml"
	find "$dir" -exec touch -d "@$epoch" {} +
	out=$PWD/bin/refd_${version}_windows_$arch.zip
	rm -f "$out"
	mkdir -p bin
	(cd "$work" && zip -qrX "$out" "refd-$version")
	echo "$out"
done
