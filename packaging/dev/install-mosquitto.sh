#!/usr/bin/env bash
# Make sure that the MQTT broker of the system tests is here: the distribution's mosquitto package.
#
# The tests start brokers of their own on free ports; the package's service is not wanted, so it is
# stopped where this script was what installed it. Without root it says what to install.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

if command -v mosquitto >/dev/null; then
    exit 0
fi
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    cat >&2 <<'TEXT'
The system tests need the MQTT broker mosquitto, which is not installed. Install it:
    sudo apt-get install mosquitto        (or your distribution's own command)
or leave these tests out:
    make test SYSTEM=0
TEXT
    exit 1
fi

echo "== mosquitto: installing the distribution's package"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# RUNLEVEL=1: Debian's scripts do not start a service that is being installed.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
install() { apt-get install -y --no-install-recommends mosquitto; }
if ! { install || { apt-get update && install; }; } >"$log" 2>&1; then
    echo "apt-get could not install mosquitto:" >&2
    tail -n 15 "$log" >&2
    exit 1
fi
if [[ -d /run/systemd/system ]]; then
    systemctl disable --now mosquitto >/dev/null 2>&1 || true
else
    service mosquitto stop >/dev/null 2>&1 || true
fi
mosquitto -h | head -n 1 || true
