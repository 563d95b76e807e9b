#!/usr/bin/env bash
# Try to have strace here: it puts the faults of `make reliability` into system calls.
#
# Never fails. Where it cannot be installed, this says so in a line and its tests are skipped.
set -uo pipefail

if command -v strace >/dev/null; then
    exit 0
fi
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "== strace is not installed, so no fault is put into system calls; to have that:" \
         "sudo apt-get install strace" >&2
    exit 0
fi

echo "== strace: installing the distribution's package"
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y --no-install-recommends strace; }
if ! { install || { apt-get update && install; }; } >/dev/null 2>&1; then
    echo "== apt-get could not install strace: no fault is put into system calls" >&2
fi
