#!/usr/bin/env bash
# Builds the Debian package bin/refd_VERSION_ARCH.deb, with dpkg-deb and nothing else. VERSION and ARCH come from git and from dpkg, or
# from the environment. The same commit makes the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

arch=${ARCH:-$(dpkg --print-architecture)}
version=${VERSION:-0.0~git$(git log -1 --format=%cd --date=format:%Y%m%d).$(git rev-parse --short=9 HEAD)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
declare -A goarch=([amd64]=amd64 [arm64]=arm64 [armhf]=arm [i386]=386 [riscv64]=riscv64)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

put() { install -D -m "$1" "$2" "$root/$3"; }
build=(env CGO_ENABLED=0 "${GO:-go}" build -trimpath -ldflags "-s -w -X main.version=$version")
"${build[@]}" -o bin/refd-host ./cmd/refd
GOOS=linux GOARCH=${goarch[$arch]} "${build[@]}" -o bin/refd-deb ./cmd/refd
put 0755 bin/refd-deb usr/bin/refd
sed 's|/usr/local/bin/|/usr/bin/|' cmd/refd/refd.service >bin/refd.service
put 0644 bin/refd.service usr/lib/systemd/system/refd.service
put 0644 packaging/refd-boot.service usr/lib/systemd/system/refd-boot.service
put 0644 packaging/refd-prompt.service usr/lib/systemd/user/refd-prompt.service
put 0644 packaging/boot-block.nft usr/lib/weir/boot-block.nft
put 0644 packaging/refd.yaml etc/weir/refd.yaml
bin/refd-host man | gzip -9n >bin/refd.8.gz
put 0644 bin/refd.8.gz usr/share/man/man8/refd.8.gz
for shell in bash zsh fish; do bin/refd-host completion "$shell" >"bin/completion.$shell"; done
put 0644 bin/completion.bash usr/share/bash-completion/completions/refd
put 0644 bin/completion.zsh usr/share/zsh/vendor-completions/_refd
put 0644 bin/completion.fish usr/share/fish/vendor_completions.d/refd.fish
put 0644 LICENSE usr/share/doc/refd/copyright
put 0644 docs/configuration.md usr/share/doc/refd/configuration.md
gzip -9nc CHANGELOG.md >bin/changelog.gz
put 0644 bin/changelog.gz usr/share/doc/refd/changelog.gz
rm bin/refd-host bin/refd-deb bin/refd.service bin/refd.8.gz bin/completion.* bin/changelog.gz

mkdir "$root/DEBIAN"
size=$(du -sk --exclude DEBIAN "$root" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" packaging/debian/control.in >"$root/DEBIAN/control"
install -m 0755 packaging/debian/{postinst,prerm,postrm} "$root/DEBIAN/"
echo /etc/weir/refd.yaml >"$root/DEBIAN/conffiles"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$root" "bin/refd_${version}_$arch.deb"
