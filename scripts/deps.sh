#!/usr/bin/env bash
# Installs the Debian packages that tests, demo and benchmarks use, if any of them is missing.
set -euo pipefail

# program it is looked for by -> package
needs=(
	ip:iproute2 ss:iproute2 nsenter:util-linux iptables-nft:iptables nft:nftables conntrack:conntrack
	curl:curl dig:dnsutils dnsmasq:dnsmasq-base ping:iputils-ping iperf3:iperf3 socat:socat
	wg-quick:wireguard-tools wireguard-go:wireguard-go
	tcpdump:tcpdump sysctl:procps ps:procps nc:netcat-openbsd git:git
	python3:python3 # programs of tests, and the benchmarks' harness
	gcc:gcc # the race detector needs cgo
)

missing=()
for need in "${needs[@]}"; do
	# sbin is not in everybody's PATH, and need not be for this question
	PATH="$PATH:/usr/sbin:/sbin" command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
# gcc without the C library's headers compiles nothing, and no program tells
[[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
((${#missing[@]})) || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if ! command -v apt-get >/dev/null; then
	echo "deps: this script knows Debian's packages only; install what provides: ${missing[*]}" >&2
	exit 1
fi
if ((EUID != 0)); then
	echo "deps: missing: ${missing[*]}" >&2
	echo "deps: install them with: sudo make deps" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
