#!/usr/bin/env bash
# Installs, runs, upgrades, removes and purges the Debian package in a root of its own, an overlay over this machine's, which stays as it
# is; checks its systemd units and its manual page. Root.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${WEIR_TEST_DEB:-} ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	VERSION=1.0 scripts/deb.sh
	VERSION=1.1 scripts/deb.sh
	arch=$(dpkg --print-architecture)
	mv "bin/refd_1.0_$arch.deb" "$work/old.deb"
	mv "bin/refd_1.1_$arch.deb" "$work/new.deb"
	WEIR_TEST_DEB=$work unshare --mount --net --pid --fork --kill-child "$PWD/$0"
	exit
fi

work=$WEIR_TEST_DEB
fail() { echo "test-deb: $*" >&2; exit 1; }
mkdir "$work/over" "$work/root"
mount -t tmpfs weir "$work/over" -o size=512m
mkdir "$work/over/upper" "$work/over/work"
mount -t overlay weir "$work/root" -o "lowerdir=/,upperdir=$work/over/upper,workdir=$work/over/work"
mkdir -p "$work/root/packages"
cp "$work"/*.deb "$work/root/packages/"
mount -t proc proc "$work/root/proc"
mount -t tmpfs run "$work/root/run"
mount --bind /dev "$work/root/dev"
ip link set lo up
in() { chroot "$work/root" "$@"; }
listing() { (cd "$work/root" && find etc usr var/lib/weir run/weir -xdev 2>/dev/null | grep -v '/__pycache__\|^var/lib/dpkg\|^usr/share/man/.*cache' | sort); }
cp "$work/root/etc/group" "$work/group"
before=$(listing)

in dpkg -i /packages/old.deb
[[ $(in refd version) == "refd 1.0" ]] || fail "the version is $(in refd version)"
in refd check /etc/weir/refd.yaml
in getent group weir >/dev/null || fail "no group weir"
in systemd-analyze verify /usr/lib/systemd/system/refd.service /usr/lib/systemd/system/refd-boot.service || fail "the units are not good"
in systemd-analyze --user verify /usr/lib/systemd/user/refd-prompt.service || true # there is no session in here
in systemd-analyze security --offline=true refd.service | tail -n 1
problems=$(in man --warnings -E UTF-8 -l -Tutf8 /usr/share/man/man8/refd.8.gz 2>&1 >/dev/null || true)
[[ -z $problems ]] || fail "the manual page: $problems"
in bash -c 'source /usr/share/bash-completion/completions/refd && complete -p refd' >/dev/null || fail "no completion"

in refd run &
refd=$!
for _ in $(seq 200); do in refd status >/dev/null 2>&1 && break; (($(in refd status >/dev/null 2>&1; echo $?) != 3)) && break; read -rt 0.1 <> <(:) || true; done
in refd status || (($? >= 10)) || fail "refd does not run"
in refd conns --history >/dev/null || fail "no history"
in refd stop
wait "$refd" || fail "refd ended with $?"

echo "# mine" >>"$work/root/etc/weir/refd.yaml"
in dpkg -i /packages/new.deb
[[ $(in refd version) == "refd 1.1" ]] || fail "the version is $(in refd version)"
grep -q '# mine' "$work/root/etc/weir/refd.yaml" || fail "the upgrade lost the configuration"
nft -f "$work/root/usr/lib/weir/boot-block.nft"
nft -f "$work/root/usr/lib/weir/boot-block.nft" # again
nft list table inet weir_boot >/dev/null
nft delete table inet weir_boot
in dpkg -r refd
[[ ! -e $work/root/usr/bin/refd && -e $work/root/etc/weir/refd.yaml ]] || fail "remove took too much or too little"
in dpkg -P refd
after=$(listing)
diff <(echo "$before") <(echo "$after") || fail "purge left something, or took something"
diff "$work/group" "$work/root/etc/group" || fail "purge left the group"
echo "test-deb: installs, runs, upgrades, removes and purges"
