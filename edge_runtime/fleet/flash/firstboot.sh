#!/bin/sh
# Run once by edge-agent-firstboot.service, out of the seed that `edge-fleet flash` put on this disk.
#
# 1. name the board and add its user, where the image has no way of its own to do so
# 2. let the radio send, where Wi-Fi is set up
# 3. install the package
# 4. set up the agent: `edge-agent setup` with the identity, which starts it and looks that it is ready
# 5. mark that as done, then wipe the seed; the folder goes last
#
# A name or user that cannot be set is said loudly and left out: nothing keeps the agent from coming.
# Power may be cut at any point: each step may be done again, and the next boot begins with the first
# one, or, behind the mark, with the last. No step needs a network.
set -eu

seed=${EDGE_SEED:-/var/lib/edge-agent-seed}
etc=${EDGE_ETC:-/etc}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

say() { echo "edge-agent first boot: $*"; }
has() { command -v "$1" >/dev/null 2>&1; }

name_board() {
    [ -f "$seed/hostname" ] || return 0
    name=$(cat "$seed/hostname")
    printf '%s\n' "$name" >"$etc/hostname" || return 1
    grep -q "^127\.0\.1\.1[[:space:]]*$name\$" "$etc/hosts" 2>/dev/null ||
        { sed -i '/^127\.0\.1\.1[[:space:]]/d' "$etc/hosts" 2>/dev/null || true
          printf '127.0.1.1\t%s\n' "$name" >>"$etc/hosts" || return 1; }
    hostname "$name" 2>/dev/null || true
}

add_user() {
    [ -f "$seed/user" ] || return 0
    user=$(cat "$seed/user")
    if ! id "$user" >/dev/null 2>&1; then
        # A group of that name, as video, is no obstacle to a user of that name: it becomes the user's.
        gid=$(getent group "$user" | cut -d: -f3)
        useradd --create-home --shell /bin/bash ${gid:+--gid "$gid"} "$user" || return 1
    fi
    for group in $(cat "$seed/groups"); do
        getent group "$group" >/dev/null && usermod --append --groups "$group" "$user" || true
    done
    home=$(getent passwd "$user" | cut -d: -f6)
    gid=$(id -g "$user")
    [ -n "$home" ] && [ -n "$gid" ] || return 1
    install -d -m 0700 -o "$user" -g "$gid" "$home/.ssh" || return 1
    install -m 0600 -o "$user" -g "$gid" "$seed/authorized_keys" "$home/.ssh/authorized_keys" ||
        return 1
    if [ -d "$etc/sudoers.d" ]; then
        printf '%s ALL=(ALL) NOPASSWD: ALL\n' "$user" >"$etc/sudoers.d/010_$user-nopasswd" ||
            return 1
        chmod 0440 "$etc/sudoers.d/010_$user-nopasswd" || return 1
    fi
    systemctl enable --now --no-block ssh.service >/dev/null 2>&1 || true
    say "user $user may log in with its key"
}

free_radio() {
    [ -f "$seed/country" ] || return 0
    country=$(cat "$seed/country")
    # Raspberry Pi OS blocks the radio until somebody has said in which country it is.
    if has raspi-config; then raspi-config nonint do_wifi_country "$country" || true; fi
    if has iw; then iw reg set "$country" || true; fi
    if has rfkill; then rfkill unblock wifi || true; fi
    if has nmcli; then nmcli radio wifi on || true; fi
}

install_package() {
    # What a power cut left half configured; whatever else is wrong there is not ours to mend.
    dpkg --configure -a --force-confold || true
    # A second time only where it must be: it starts the agent anew, and a slow board whose agent is
    # just testing its first bundle would never get to the end of that.
    wanted="install ok installed $(dpkg-deb --field "$seed"/edge-agent_*.deb Version)"
    # shellcheck disable=SC2016  # the variables are dpkg-query's
    found=$(dpkg-query --show --showformat '${Status} ${Version}' edge-agent 2>/dev/null || true)
    [ "$found" = "$wanted" ] || dpkg --force-confold --install "$seed"/edge-agent_*.deb
}

set_up() {
    # Its exit code tells of every obstacle that the doctor finds, a clock that is not set yet among
    # them. What counts here is that the agent runs with its identity: then the seed is not needed.
    edge-agent setup "$seed/identity" --offline --timeout 900 --json >"$seed/result.json" || true
    cat "$seed/result.json"
    grep -Eq '"ready": ?true' "$seed/result.json"
}

start_at_every_boot() {
    # An image may boot into a target that excludes multi-user.target, as NVIDIA's does until
    # somebody has answered its questions.
    target=$(systemctl get-default 2>/dev/null || true)
    case $target in
        '' | multi-user.target | graphical.target) ;;
        *) systemctl add-wants "$target" edge-agent.service edge-agent.socket || true ;;
    esac
}

wipe() {
    rm -rf "$seed/identity"
    find "$seed" -mindepth 1 ! -name done ! -name firstboot.sh -delete
    sync
    # A folder without this script is removed by the unit, whatever else is left of it.
    rm -f "$seed/firstboot.sh"
    sync
    rm -rf "$seed"
    sync
}

main() {
    if [ ! -e "$seed/done" ]; then
        say "setting up"
        # Behind || the shell ends at no error: these say themselves when they give up.
        name_board || say "TROUBLE: the host name could not be set; going on without it"
        add_user || say "TROUBLE: user $user could not be set up, nobody may log in; going on"
        free_radio
        install_package
        set_up || { say "edge-agent is not ready yet; trying again in 30 seconds"; exit 1; }
        start_at_every_boot
        sync
        : >"$seed/done"
        sync
    fi
    wipe
    say "done"
    exit 0
}

main
