"""A board's Wi-Fi, as a file on its ext4 that only root may read; on the FAT there is none of it.

Sources: NetworkManager's nm-settings-keyfile(5); netplan-yaml(5), "Properties for device type
wifis"; IEEE 802.11: an SSID has 1 to 32 bytes, a passphrase 8 to 63 printable ASCII characters, or
the key itself 64 hex digits.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.fleet.flash.entries import Entry, File, Folder

KEYFILE = "/etc/NetworkManager/system-connections/edge-wifi.nmconnection"
NETPLAN = "/etc/netplan/60-edge-wifi.yaml"
_FOLDERS = ("/etc/NetworkManager", "/etc/NetworkManager/system-connections")
REGDOM = "/etc/modprobe.d/edge-wifi.conf"
COUNTRY = r"[A-Z]{2}"
_NAMESPACE = uuid.UUID("5d4b0d8e-4f0f-4f3a-9b57-2c1f4f8f1f60")
_MAX_FILE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Wifi:
    """A network to join, and the country whose rules the radio keeps."""

    ssid: str
    passphrase: str = field(repr=False)
    country: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.ssid.encode()) <= 32:
            raise InputError(
                f"Wi-Fi {self.ssid!r}: the name has {len(self.ssid.encode())} bytes, expected 1..32"
            )
        for at, char in enumerate(self.passphrase, 1):
            if not " " <= char <= "~":
                raise InputError(
                    f"Wi-Fi {self.ssid!r}: character {at} of the passphrase is none of ASCII's "
                    "printable ones, which are all that is expected"
                )
        if not re.fullmatch(r"[ -~]{8,63}|[0-9A-Fa-f]{64}", self.passphrase):
            raise InputError(
                f"Wi-Fi {self.ssid!r}: the passphrase has {len(self.passphrase)} characters, "
                "expected 8..63 printable ones of ASCII, or 64 hex digits"
            )
        if not re.fullmatch(COUNTRY, self.country):
            raise InputError(f"Wi-Fi country {self.country!r}: expected two letters, as DE")


def read_passphrase(path: Path) -> str:
    """The first line of a file.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
        return data.decode("utf-8").split("\n", 1)[0].rstrip("\r")
    except OSError as reason:
        raise InputError(f"passphrase file {path}: cannot be read ({reason.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"passphrase file {path}: is no text") from None


def entries(wifi: Wifi, network: str) -> tuple[Entry, ...]:
    """What lets a system that `network` connects join.

    Raises:
        InputError: the image has neither NetworkManager nor netplan.
    """
    # The radio's rules where the driver is a module. A Raspberry Pi's are set at first boot too.
    regdom = f"options cfg80211 ieee80211_regdom={wifi.country}\n".encode()
    rules: tuple[Entry, ...] = (Folder("/etc/modprobe.d", 0o755), File(REGDOM, 0o644, regdom))
    if network == "NetworkManager":
        folders = (Folder(folder, 0o755) for folder in _FOLDERS)
        return *rules, *folders, File(KEYFILE, 0o600, keyfile(wifi))
    if network == "netplan":
        return *rules, Folder("/etc/netplan", 0o755), File(NETPLAN, 0o600, netplan(wifi))
    raise InputError("the image has neither NetworkManager nor netplan; leave out --wifi")


def keyfile(wifi: Wifi) -> bytes:
    """A connection of NetworkManager. `wpa-psk` joins WPA2 and WPA3 networks."""
    return f"""\
[connection]
id=edge-wifi
uuid={uuid.uuid5(_NAMESPACE, wifi.ssid)}
type=wifi

[wifi]
mode=infrastructure
ssid={_ssid(wifi.ssid)}

[wifi-security]
key-mgmt=wpa-psk
psk={_escaped(wifi.passphrase)}

[ipv4]
method=auto

[ipv6]
addr-gen-mode=default
method=auto
""".encode()


def netplan(wifi: Wifi) -> bytes:
    """For systemd-networkd; its strings are JSON, which YAML reads too."""
    return f"""\
network:
  version: 2
  wifis:
    wlan0:
      dhcp4: true
      optional: true
      regulatory-domain: {json.dumps(wifi.country)}
      access-points:
        {json.dumps(wifi.ssid)}:
          password: {json.dumps(wifi.passphrase)}
""".encode()


def _ssid(ssid: str) -> str:
    """As itself where nothing in it means anything in a keyfile; else as numbers of bytes."""
    if re.fullmatch(r"[A-Za-z0-9._-](?:[A-Za-z0-9 ._-]*[A-Za-z0-9._-])?", ssid):
        return ssid
    return "".join(f"{byte};" for byte in ssid.encode())


def _escaped(text: str) -> str:
    """As GLib's key files want it."""
    text = text.replace("\\", "\\\\")
    bare = text.lstrip(" ")
    return "\\s" * (len(text) - len(bare)) + bare
