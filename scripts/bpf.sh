#!/usr/bin/env bash
# Builds the eBPF objects of pkg/procinfo/ebpf anew, with Debian's clang 14, so that everybody gets the same bytes.
#
#   scripts/bpf.sh          writes them, and the Go files that embed them
#   scripts/bpf.sh check    tells whether the committed ones are what the sources give
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$PWD/pkg/procinfo/ebpf
if ! command -v clang >/dev/null || ! command -v llvm-strip >/dev/null || [[ ! -e /usr/include/bpf/bpf_helpers.h ]]; then
	echo "bpf: clang, llvm-strip or libbpf's headers are missing: apt-get install --no-install-recommends clang llvm libbpf-dev" >&2
	exit 2
fi
out=$dir
if [[ ${1:-} == check ]]; then
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
fi
cd "$dir"
# The prefix map keeps the directory out of the line information, which stays in the object.
"${GO:-go}" run github.com/cilium/ebpf/cmd/bpf2go -go-package ebpf -tags linux -target amd64,arm64 -output-dir "$out" -no-global-types \
	-type owner -type tuple -type proc_key -type proc_state -type image -type bytes -type event -type task_row \
	attr bpf/attr.bpf.c -- -O2 -Wall -Wno-unknown-attributes -Wno-missing-declarations -mcpu=v3 \
	-fdebug-compilation-dir=. -ffile-prefix-map="$dir"=. >/dev/null
if [[ $out != "$dir" ]]; then
	for f in "$out"/*; do cmp "$f" "$dir/${f##*/}"; done
	echo "bpf: the committed objects are what the sources give"
fi
