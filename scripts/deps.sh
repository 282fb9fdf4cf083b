#!/usr/bin/env bash
# Installs the Debian packages that tests, demo and benchmarks use, if any of them is missing.
set -euo pipefail

# program it is looked for by -> package
needs=(
	ip:iproute2 ss:iproute2 nsenter:util-linux iptables-nft:iptables nft:nftables conntrack:conntrack
	curl:curl dig:dnsutils kdig:knot-dnsutils drill:ldnsutils dnsperf:dnsperf dnsmasq:dnsmasq-base unbound:unbound ping:iputils-ping iperf3:iperf3 socat:socat
	wg-quick:wireguard-tools wireguard-go:wireguard-go ufw:ufw
	tcpdump:tcpdump sysctl:procps ps:procps nc:netcat-openbsd git:git
	chromium:chromium # looks at the web page
	promtool:prometheus # checks our metrics
	dbus-daemon:dbus-daemon groff:groff-base # desktop notifications; the manual page
	python3:python3 # programs of tests, and the benchmarks' harness
	gcc:gcc # the race detector needs cgo
	wine:wine wineserver:wine x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64-win32 # the Windows build, and programs that Wine runs
)

missing=()
for need in "${needs[@]}"; do
	# sbin is not in everybody's PATH, and need not be for this question
	PATH="$PATH:/usr/sbin:/sbin" command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
# gcc without the C library's headers compiles nothing, and no program tells
[[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
# the resolver of many hosts, which tests start by themselves; it is in no PATH
[[ -e /usr/lib/systemd/systemd-resolved ]] || missing+=(systemd-resolved)
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
if [[ ! " ${missing[*]} " =~ " "(systemd-resolved|prometheus|unbound)" " ]]; then
	exec apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
# Installing resolved makes it this host's resolver, and prometheus and unbound would run. Tests want their programs only: a mount namespace keeps
# /etc/resolv.conf as it is and refuses to start services, and at the next boot they are not started either.
policy=$(mktemp)
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"
made=
[[ -e /usr/sbin/policy-rc.d ]] || { touch /usr/sbin/policy-rc.d && made=/usr/sbin/policy-rc.d; }
trap 'rm -f "$policy" $made' EXIT
unshare --mount --propagation private bash -euc '
	mount --bind /etc/resolv.conf /etc/resolv.conf
	mount --bind "$1" /usr/sbin/policy-rc.d
	shift
	apt-get install -q -y --no-install-recommends "$@"
' install "$policy" "${missing[@]}"
if [[ -d /run/systemd/system ]]; then
	for service in systemd-resolved prometheus unbound; do
		[[ " ${missing[*]} " != *" $service "* ]] || systemctl disable -q "$service"
	done
fi
