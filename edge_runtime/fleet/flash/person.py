"""Host name, user and keys, said in the way that each flavour of image takes them.

Only public keys and names: nothing of this is secret, so it may lie on the FAT partition, where
Raspberry Pi's two flavours look for it. There is no password: the user logs in with the key, and
may use sudo. cmdline.txt is never touched.

Sources: raspberrypi-sys-mods, `init_config` (custom.toml, config_version 1; removed by `firstboot`
once applied); cloud-init's modules Set Hostname and Users and Groups, and Raspberry Pi's
`enable_ssh`, as its Imager writes them (rpi-imager, customization_generator.cpp).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError

HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
USER_NAME = r"[a-z_][a-z0-9_-]{0,30}"
MAX_KEYS = 16
MAX_KEY_FILE_BYTES = 64 << 10
_KEY = re.compile(
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\.com|"
    r"sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]{32,8000}={0,3}(?: [ -~]{0,200})?"
)
GROUPS = (
    "adm", "dialout", "cdrom", "sudo", "audio", "video", "plugdev", "users", "input", "netdev",
    "render", "gpio", "i2c", "spi",
)  # fmt: skip
_SETTINGS = re.compile(
    rb"^(?:users|hostname|chpasswd|runcmd|bootcmd|write_files|ssh_authorized_keys)[ \t]*:",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Person:
    """Who may log in, and what the board is called. No user: nobody is added."""

    host: str
    user: str = ""
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.user == "root":
            raise InputError("--user root: is the system's own user, take another name")


def host_of(device: str) -> str:
    """A device's id as a host name: `_` and what is too long do not fit into one."""
    return device.replace("_", "-")[:63].strip("-") or "edge"


def read_keys(path: Path) -> tuple[str, ...]:
    """The public keys in a file of OpenSSH, as id_ed25519.pub or authorized_keys.

    Raises:
        InputError: unreadable, too many, or a line is no public key; a private one is never quoted.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as reason:
        raise InputError(f"key file {path}: cannot be read ({reason.strerror})") from None
    if b"PRIVATE KEY" in data:
        raise InputError(
            f"key file {path}: holds a private key, expected the public one, {path}.pub"
        )
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not 1 <= len(keys) <= MAX_KEYS or len(data) > MAX_KEY_FILE_BYTES:
        raise InputError(f"key file {path}: holds {len(keys)} keys, expected 1..{MAX_KEYS}")
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise InputError(
                f"key file {path}: key {number} is no public key of OpenSSH, which is one line "
                "that begins with ssh-ed25519, ssh-rsa or ecdsa-sha2-"
            )
    return keys


def custom_toml(person: Person) -> bytes:
    """For Raspberry Pi OS bookworm, on the FAT."""
    lines = ["config_version = 1", "", "[system]", f"hostname = {_quoted(person.host)}"]
    if person.user:
        lines += [
            "",
            "[user]",
            f"name = {_quoted(person.user)}",
            "",
            "[ssh]",
            "enabled = true",
            "password_authentication = false",
            f"authorized_keys = [{', '.join(map(_quoted, person.keys))}]",
        ]
    return ("\n".join(lines) + "\n").encode()


def user_data(person: Person) -> bytes:
    """For cloud-init, on the FAT. Values are JSON, which YAML reads too."""
    lines = ["#cloud-config", f"hostname: {_quoted(person.host)}", "manage_etc_hosts: true"]
    if person.user:
        lines += [
            "enable_ssh: true",
            "ssh_pwauth: false",
            "users:",
            f"- name: {_quoted(person.user)}",
            f"  groups: [{', '.join(GROUPS)}]",
            "  shell: /bin/bash",
            "  lock_passwd: true",
            '  sudo: "ALL=(ALL) NOPASSWD:ALL"',
            "  ssh_authorized_keys:",
            *(f"  - {_quoted(key)}" for key in person.keys),
        ]
    return ("\n".join(lines) + "\n").encode()


def is_customised(user_data: bytes) -> bool:
    """Whether somebody has put settings into a user-data that would be lost."""
    return _SETTINGS.search(user_data) is not None


def own_files(person: Person) -> dict[str, bytes]:
    """For our own first boot, where the image has no way of its own."""
    files = {"hostname": f"{person.host}\n"}
    if person.user:
        files["user"] = f"{person.user}\n"
        files["groups"] = f"{' '.join(GROUPS)}\n"
        files["authorized_keys"] = "".join(f"{key}\n" for key in person.keys)
    return {name: text.encode() for name, text in files.items()}


def _quoted(text: str) -> str:
    """A string of TOML and of YAML: both read JSON's."""
    return json.dumps(text)
