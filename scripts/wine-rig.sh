#!/usr/bin/env bash
# Makes what Windows test binaries need to run on Linux: Wine, a prefix, a shim, the fake driver and the fake ETW DLL.
#
#   scripts/wine-rig.sh              # installs and builds what is missing, and prints the directory
#   scripts/wine-rig.sh COMMAND...   # the same, and then runs the command in the rig's environment
#
# The result is kept in bin/winerig (or WEIR_WINERIG); what depends on a source, Wine or the compiler is made anew when that
# has changed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rig=${WEIR_WINERIG:-$root/bin/winerig}
src=$root/internal/winerig
go=${GO:-go}
cc=x86_64-w64-mingw32-gcc

install_wine() {
	command -v wineserver >/dev/null && command -v "$cc" >/dev/null && return
	if ! command -v apt-get >/dev/null; then
		echo "wine-rig: this script knows Debian's packages only; install wine (64 bit) and $cc" >&2
		return 1
	fi
	if ((EUID != 0)); then
		echo "wine-rig: Wine and mingw-w64 are missing: install them with: sudo $0" >&2
		return 1
	fi
	apt-get update -q >&2
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends \
		wine64 wine gcc-mingw-w64-x86-64-win32 >&2
}

# What the built files depend on, in one line.
fingerprint() {
	{
		wine --version
		"$cc" -dumpfullversion
		find "$src" "$root/scripts/wine-rig.sh" -type f ! -name '*.go' ! -name '*.txt' -print0 | sort -z | xargs -0 sha256sum | cut -d' ' -f1
	} | sha256sum | cut -d' ' -f1
}

dll() { # dll OUT SOURCE... -- LIBRARY...
	local out=$1
	shift
	"$cc" -O2 -Wall -Wextra -Werror -Wno-attributes -shared -nostdlib -ffreestanding -mno-stack-arg-probe -Wl,-e,DllMain -o "$out" "$@"
}

driver() { # driver OUT VERSION
	"$cc" -O2 -Wall -Wextra -Werror -shared -nostdlib -ffreestanding -Wl,--subsystem,native -Wl,-e,DriverEntry \
		-DKEXT_VERSION="$2" -o "$1" "$src"/fakekext/*.c -lntoskrnl
}

wine_environment() {
	# The shim goes before the DLL of that name that Wine has since 10.
	export WINEPREFIX=$rig/prefix WINEARCH=win64 WINEDEBUG=${WINEDEBUG:--all} WINEDLLOVERRIDES='mscoree,mshtml=;bcryptprimitives=n,b'
	unset DISPLAY WAYLAND_DISPLAY
	export WEIR_WINERIG=$rig
}

build() {
	dll "$rig/bcryptprimitives.dll" "$src/shim/bcryptprimitives.c" -ladvapi32 -lkernel32
	dll "$rig/fakeetw.dll" "$src/fakeetw/fakeetw.c" "$src/fakeetw/fakeetw.def" -lkernel32
	# the oldest that v1 has to work with, the last without verdict 11, the first that lets port 719 pass
	driver "$rig/fakekext-v1.sys" "1, 0, 12, 0"
	driver "$rig/fakekext-v2.0.sys" "2, 0, 5, 0"
	driver "$rig/fakekext-v2.sys" "2, 1, 1, 0"
}

prefix() {
	wineserver -k 2>/dev/null || true
	rm -rf "$rig/prefix"
	wineboot -u >/dev/null 2>&1 </dev/null
	wine winecfg -v win10 >/dev/null 2>&1 </dev/null
	wineserver -w
}

# stale NAME FINGERPRINT: whether this part of the rig has to be made.
stale() {
	[[ ! -e $rig/$1.made || $(<"$rig/$1.made") != "$2" ]]
}

make_rig() {
	local tools prefix
	wine_environment # without its WINEDEBUG Debian's wine complains each time that there is no 32-bit one
	install_wine
	mkdir -p "$rig"
	prefix=$(wine --version)
	tools=$(fingerprint)
	if stale tools "$tools"; then
		echo "wine-rig: building in $rig" >&2
		build
		echo "$tools" >"$rig/tools.made"
	fi
	if stale prefix "$prefix"; then
		echo "wine-rig: making a Wine prefix in $rig" >&2
		prefix
		echo "$prefix" >"$rig/prefix.made"
	fi
	# not over one that is the same already: programs that run now have it mapped
	cmp -s "$rig/bcryptprimitives.dll" "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" ||
		cp "$rig/bcryptprimitives.dll" "$WINEPREFIX/drive_c/windows/system32/"
}

make_rig
if (($#)); then
	exec "$@"
fi
echo "$rig"
