#!/usr/bin/env bash
# arm64_root.sh FOLDER [SUITE]: a Debian system for arm64 like a new Raspberry Pi OS Lite, without PortAudio and python3-venv.
# Packages are unpacked by this machine's dpkg, and only set up under emulation, which takes a third of debootstrap's time. Needs
# root, and from Debian: binfmt-support debian-archive-keyring qemu-user-static.
set -euo pipefail

root=$1 suite=${2:-bookworm}
apt=$(mktemp -d)
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf "$apt"' EXIT
mkdir -p "$apt"/{lists/partial,cache/archives/partial} "$root"/usr/{bin,lib,sbin}
touch "$apt/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [arch=arm64 signed-by=$keyring] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} $suite main" >"$apt/sources.list"
get=(apt-get -qq -y -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::status=$apt/status" -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache"
    -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=false -o APT::Sandbox::User=
    -o Acquire::Retries=3)
# A host may be set up to fetch more than packages: here it would only be one thing more that can fail.
for more in CNF Contents-deb DEP-11; do get+=(-o "Acquire::IndexTargets::deb::$more::DefaultEnabled=false"); done
"${get[@]}" update
"${get[@]}" install --download-only '?essential' apt passwd procps python3 sudo systemd-sysv udev >/dev/null

# Enough of each package for the scripts of the others to run; then dpkg does it in order.
for folder in bin lib sbin; do ln -sfn "usr/$folder" "$root/$folder"; done
for deb in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -C "$root" --keep-directory-symlink -xf -
done
mkdir -p "$root"/var/lib/dpkg/{info,updates,triggers,alternatives,parts}
touch "$root"/var/lib/dpkg/{status,available}
echo arm64 >"$root/var/lib/dpkg/arch"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no services
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc" # not /sys: onnxruntime ends there when it reads the other processor's
export QEMU_CPU=${QEMU_CPU:-cortex-a72} DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
# What this dpkg, which is of another architecture, warns of is settled by the one inside.
dpkg --root="$root" --force-all --force-unsafe-io --unpack "$apt"/cache/archives/*.deb
chroot "$root" dpkg --force-unsafe-io --configure -a
[ -z "$(chroot "$root" dpkg --audit)" ]
chroot "$root" useradd --create-home --groups audio,sudo pi
