#!/bin/sh
# Makes this machine a device of a fleet: installs edge-agent, then hands it a one-time token.
# Written by `edge-fleet enroll-server`, and fetched over a connection whose key curl has checked.
#
#   curl -fsS -k --pinnedpubkey 'PIN' SERVER/v1/setup.sh | sudo sh -s -- TOKEN
#
# Everything is in functions and the last line calls them: a script that was cut does nothing. Nothing
# here reads stdin, which is this script. EDGE_SETUP_ROOT is for tests.

set -u

SERVER='@SERVER@'
PIN='@PIN@'
VERSIONS='@VERSIONS@'

say() { printf 'edge-setup: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# One line for each package: suite, architecture, version, SHA-256, file name.
packages() {
    cat <<'PACKAGES'
@PACKAGES@
PACKAGES
}

# A value out of os-release, which is shell by its own definition; read in a shell of its own.
release() {
    (
        set +u
        # shellcheck disable=SC1090,SC1091
        . "$1"
        eval "printf '%s' \"\${$2:-}\""
    )
}

# deb12, deb13 or jammy; nothing where it is none of them.
suite() {
    file="${EDGE_SETUP_ROOT:-}/etc/os-release"
    [ -r "$file" ] || file="${EDGE_SETUP_ROOT:-}/usr/lib/os-release"
    [ -r "$file" ] || return 0
    case "$(release "$file" VERSION_CODENAME)/$(release "$file" UBUNTU_CODENAME)" in
        bookworm/*) echo deb12 ;;
        trixie/*) echo deb13 ;;
        jammy/* | */jammy) echo jammy ;;
        *)
            case "$(release "$file" ID)-$(release "$file" VERSION_ID)" in
                debian-12 | raspbian-12) echo deb12 ;;
                debian-13 | raspbian-13) echo deb13 ;;
                ubuntu-22.04) echo jammy ;;
            esac
            ;;
    esac
}

system() {
    file="${EDGE_SETUP_ROOT:-}/etc/os-release"
    if [ -r "$file" ]; then release "$file" PRETTY_NAME; else echo 'a system without os-release'; fi
}

check_machine() {
    [ "$(id -u)" = 0 ] ||
        fail 'needs root; end the line with: | sudo sh -s -- TOKEN'
    [ -d "${EDGE_SETUP_ROOT:-}/run/systemd/system" ] ||
        fail 'systemd does not run here, and edge-agent is a service of systemd'
    command -v dpkg >/dev/null 2>&1 ||
        fail "no dpkg here ($(system)); edge-agent is packaged for $VERSIONS"
    ARCH=$(dpkg --print-architecture)
    case "$ARCH" in
        arm64 | amd64) ;;
        armhf | armel | i386)
            fail "this is a 32-bit system ($ARCH), for which no engine is built;" \
                'flash a 64-bit one, which every board with an ARMv8 core runs'
            ;;
        *) fail "architecture $ARCH: edge-agent is packaged for arm64 and amd64" ;;
    esac
    SUITE=$(suite)
    [ -n "$SUITE" ] || fail "$(system): edge-agent is packaged for $VERSIONS"
}

# Sets VERSION, SHA256 and FILE. Fails where the server has none for this machine.
choose_package() {
    VERSION='' SHA256='' FILE=''
    while read -r suite arch version sha256 file; do
        if [ "$suite $arch" = "$SUITE $ARCH" ]; then
            VERSION=$version SHA256=$sha256 FILE=$file
        fi
    done <<LINES
$(packages)
LINES
    [ -n "$FILE" ]
}

installed() { dpkg-query -W -f='${db:Status-Status} ${Version}' edge-agent 2>/dev/null; }

install_package() {
    if ! choose_package; then
        case "$(installed)" in
            'installed '*) return 0 ;;
        esac
        [ -n "$(packages)" ] ||
            fail 'the server hands out no packages (edge-fleet enroll-server --packages DIR),' \
                'and edge-agent is not installed here'
        fail "the server has no package for $SUITE $ARCH; it has:" \
            "$(packages | while read -r s a _; do printf '%s %s, ' "$s" "$a"; done | sed 's/, $//')"
    fi
    have=$(installed)
    case "$have" in
        'installed '*)
            if dpkg --compare-versions "${have#installed }" ge "$VERSION"; then
                say "edge-agent ${have#installed } is installed"
                return 0
            fi
            ;;
    esac
    WORK=$(mktemp -d) || fail 'no folder for the download'
    trap 'rm -rf "$WORK"' EXIT
    trap 'exit 130' INT TERM HUP
    chmod 755 "$WORK"
    say "fetching $FILE"
    curl -fsS -k --pinnedpubkey "$PIN" --retry 5 --retry-delay 3 --connect-timeout 20 \
        -o "$WORK/$FILE" "$SERVER/v1/packages/$FILE" </dev/null ||
        fail "$FILE cannot be fetched from $SERVER"
    echo "$SHA256  $WORK/$FILE" | sha256sum -c --status ||
        fail "$FILE arrived damaged: its SHA-256 is not the one that the server named"
    say "installing edge-agent $VERSION"
    needs=$(dpkg-deb -f "$WORK/$FILE" Depends)
    if command -v apt-get >/dev/null 2>&1; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 \
            --no-install-recommends "$WORK/$FILE" </dev/null >&2 ||
            fail "edge-agent cannot be installed; it needs: $needs." \
                'If one is missing, let this machine reach its package archive and try again'
    else
        dpkg -i "$WORK/$FILE" </dev/null >&2 ||
            fail "edge-agent cannot be installed; it needs: $needs"
    fi
}

main() {
    [ $# -ge 1 ] || fail 'expected a token: sh -s -- TOKEN'
    token=$1
    shift
    umask 022
    check_machine
    install_package
    say 'setting up'
    # By stdin, so that the token is in the list of processes no longer than it must be.
    printf '%s\n' "$token" | edge-agent setup --token - "$@"
}

main "$@"
