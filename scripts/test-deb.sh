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
inside() { chroot "$work/root" "$@"; }
listing() { (cd "$work/root" && find etc usr $(compgen -G 'var/lib/weir' || true) $(compgen -G 'run/weir' || true) -xdev | grep -v '/__pycache__\|^var/lib/dpkg\|^usr/share/man/.*cache' | sort); }
cp "$work/root/etc/group" "$work/group"
before=$(listing)

inside dpkg -i /packages/old.deb
[[ $(inside refd version) == "refd 1.0" ]] || fail "the version is $(inside refd version)"
inside refd check /etc/weir/refd.yaml
inside getent group weir >/dev/null || fail "no group weir"
inside systemd-analyze verify /usr/lib/systemd/system/refd.service /usr/lib/systemd/system/refd-boot.service || fail "the units are not good"
inside env XDG_RUNTIME_DIR=/run systemd-analyze --user verify /usr/lib/systemd/user/refd-prompt.service || fail "the unit of the desktop is not good"
inside systemd-analyze security --offline=true refd.service | tail -n 1
problems=$(inside man --warnings -E UTF-8 -l -Tutf8 /usr/share/man/man8/refd.8.gz 2>&1 >/dev/null || true)
[[ -z $problems ]] || fail "the manual page: $problems"
inside bash -c 'source /usr/share/bash-completion/completions/refd && complete -p refd' >/dev/null || fail "no completion"

inside refd run &
refd=$!
for _ in $(seq 200); do inside refd status >/dev/null 2>&1 && break; (($(inside refd status >/dev/null 2>&1; echo $?) != 3)) && break; read -rt 0.1 <> <(:) || true; done
inside refd status || (($? >= 10)) || fail "refd does not run"
inside refd conns --history >/dev/null || fail "no history"
inside refd stop
wait "$refd" || fail "refd ended with $?"

echo "# mine" >>"$work/root/etc/weir/refd.yaml"
inside dpkg -i /packages/new.deb
[[ $(inside refd version) == "refd 1.1" ]] || fail "the version is $(inside refd version)"
grep -q '# mine' "$work/root/etc/weir/refd.yaml" || fail "the upgrade lost the configuration"
nft -f "$work/root/usr/lib/weir/boot-block.nft"
nft -f "$work/root/usr/lib/weir/boot-block.nft" # again
nft list table inet weir_boot >/dev/null
nft delete table inet weir_boot
inside dpkg -r refd
[[ ! -e $work/root/usr/bin/refd && -e $work/root/etc/weir/refd.yaml ]] || fail "remove took too much or too little"
inside dpkg -P refd
after=$(listing)
diff <(echo "$before") <(echo "$after") || fail "purge left something, or took something"
diff "$work/group" "$work/root/etc/group" || fail "purge left the group"
echo "test-deb: installs, runs, upgrades, removes and purges"
