"""The command line of `flash`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

Add = Callable[..., argparse.ArgumentParser]
DeviceId = Callable[[str], str]
# As in `person` and `wifi`, which load too much for a page of help.
_HOST_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_USER_NAME = r"[a-z_][a-z0-9_-]{0,30}"
_COUNTRY = r"[A-Z]{2}"


def add_verb(add: Add, device_id: DeviceId) -> None:
    """`flash`."""
    verb = add(
        "flash",
        connects=False,
        help="make a board's image: agent, identity, first bundle and Wi-Fi in it",
        description="Put a device's identity, the agent's package, a first bundle and Wi-Fi into\n"
        "an image of Raspberry Pi OS (bookworm or trixie, 64-bit) or of a Jetson (JetPack 6),\n"
        "without root and without mounting it. At its first boot the board installs and starts\n"
        "the agent; it needs no network for that. Which system an image holds is found in it.\n"
        "The device must be enrolled, the bundle signed by the home. What is secret lies on the\n"
        "board's ext4 only, readable for root.",
        epilog="examples:\n"
        "  edge-fleet flash 2024-11-19-raspios-bookworm-arm64-lite.img.xz --device press-7\n"
        "      makes press-7.img with the package in ./dist\n"
        "  edge-fleet flash raspios.img.xz --device press-7 --bundle debian-sections==1.0.0 \\\n"
        "      --wifi Hall --wifi-passphrase-file wifi.pass --country DE \\\n"
        "      --user ops --ssh-key ~/.ssh/id_ed25519.pub --to /dev/sdX\n"
        "      the same onto a card, which is read back afterwards\n"
        "  edge-fleet flash sd-blob.img.zip --device gate-2 --package edge-agent_jammy.deb --json\n"
        '      {"device": "gate-2", "out": "gate-2.img", "flavour": "jetson", …}\n'
        "\nneeds the programs of the packages e2fsprogs and mtools",
    )
    verb.add_argument(
        "image", type=Path, metavar="IMAGE", help=".img, .img.xz, .img.gz, or a .zip with one .img"
    )
    verb.add_argument(
        "--device", type=device_id, required=True, metavar="ID", help="which enrolled device it is"
    )
    verb.add_argument(
        "--bundle",
        metavar="NAME==VERSION",
        help="its first bundle: a release that the home has signed, or its .edge file",
    )
    verb.add_argument(
        "--package",
        type=Path,
        metavar="DEB",
        help="the agent's package (default: the newest in ./dist that fits the image)",
    )
    _person(verb)
    target = verb.add_argument_group("where to").add_mutually_exclusive_group()
    target.add_argument("--out", type=Path, metavar="FILE", help="the image (default: ID.img)")
    target.add_argument(
        "--to", type=Path, metavar="DISK", help="a card, as /dev/sdX: all on it is replaced"
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="replace FILE and settings that the image has; write to a disk that is larger than "
        "512 GB or not removable",
    )


def _person(verb: argparse.ArgumentParser) -> None:
    network = verb.add_argument_group("Wi-Fi")
    network.add_argument("--wifi", metavar="SSID", help="the network to join")
    network.add_argument(
        "--wifi-passphrase-file", type=Path, metavar="FILE", help="its first line opens the network"
    )
    network.add_argument(
        "--country",
        type=_word(_COUNTRY, "country, expected two capital letters, as DE"),
        metavar="XX",
        help="where the board is: its radio keeps that country's rules",
    )
    person = verb.add_argument_group("name and user")
    person.add_argument(
        "--hostname",
        type=_word(_HOST_NAME, "host name, expected up to 63 letters, digits or '-'"),
        metavar="NAME",
        help="what the board is called (default: the device's id)",
    )
    person.add_argument(
        "--user",
        type=_word(_USER_NAME, "user name, expected up to 31 small letters, digits, '-' or '_'"),
        metavar="NAME",
        help="a user who may log in with --ssh-key, and use sudo",
    )
    person.add_argument(
        "--ssh-key", type=Path, metavar="FILE", help="the user's public key, as id_ed25519.pub"
    )
    person.add_argument(
        "--accept-license",
        action="store_true",
        help="you accept NVIDIA's licence, which a Jetson with --user does not ask about any more",
    )


def _word(form: str, what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(form, text):
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return text

    return parse
