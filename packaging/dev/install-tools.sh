#!/usr/bin/env bash
# Try to have the tools that some tests need: strace, which puts the faults of `make reliability` into
# system calls; espeak-ng and a font, of which the examples make sounds and pictures; a C compiler,
# which makes a delegate that misbehaves in every way; systemd, which reads the units, and boots in
# containers whose trees mmdebstrap makes (this machine goes on without it); what images of boards
# are made of; gpg, which signs packages.
#
# Never fails. What cannot be installed is named in a line, and its tests are skipped.
set -uo pipefail

# have NAME: whether the package NAME's one file that counts is here.
have() {
    case $1 in
        libc6-dev) [[ -f /usr/include/stdio.h ]] ;;
        mtools) command -v mcopy >/dev/null ;;
        dosfstools) PATH=$PATH:/sbin:/usr/sbin command -v mkfs.vfat >/dev/null ;;
        fdisk) PATH=$PATH:/sbin:/usr/sbin command -v sfdisk >/dev/null ;;
        e2fsprogs) PATH=$PATH:/sbin:/usr/sbin command -v debugfs >/dev/null ;;
        xz-utils) command -v xz >/dev/null ;;
        systemd) command -v systemd-analyze >/dev/null ;;
        systemd-container) command -v systemd-nspawn >/dev/null ;;
        fonts-*) [[ -f /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ]] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

missing=()
for package in strace curl espeak-ng fonts-dejavu-core gcc libc6-dev systemd systemd-container mmdebstrap mtools dosfstools fdisk \
    e2fsprogs xz-utils gpg gpg-agent; do
    have "$package" || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "== ${missing[*]}: not installed, so their tests are skipped; to have them:" \
        "sudo apt-get install ${missing[*]}" >&2
    exit 0
fi

echo "== ${missing[*]}: installing the distribution's packages"
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y --no-install-recommends "${missing[@]}"; }
if ! { install || { apt-get update && install; }; } >/dev/null 2>&1; then
    echo "== apt-get could not install ${missing[*]}: their tests are skipped" >&2
fi
