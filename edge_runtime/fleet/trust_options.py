"""The command line of what is signed: `init`, `key`, `sign`, `rotate`, `revoke`, `refresh`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_runtime.fleet.home import PASSPHRASE_VARIABLE
from edge_runtime.fleet.settings import EXPIRY_DAYS, MAX_EXPIRY_DAYS, MAX_KEYS, ROLES

Add = Callable[..., argparse.ArgumentParser]
T = TypeVar("T")

HOME_HELP = "first of all, for fleets whose devices trust signatures only:\n"


def _role(text: str) -> str:
    if text not in ROLES:
        raise argparse.ArgumentTypeError(f"{text!r} is no role, expected {', '.join(ROLES)}")
    return text


def _for_role(read: Callable[[str], T], such_as: str) -> Callable[[str], tuple[str, T]]:
    """`ROLE=VALUE`."""

    def parse(text: str) -> tuple[str, T]:
        role, equals, value = text.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{text!r}: expected ROLE=VALUE, such as {such_as}")
        return _role(role), read(value)

    return parse


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number, expected {low}..{high}")
        return int(text)

    return parse


def signing() -> argparse.ArgumentParser:
    """What every verb takes that signs."""
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("signing")
    group.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line opens the encrypted keys; - is stdin "
        f"(default: ${PASSPHRASE_VARIABLE})",
    )
    group.add_argument(
        "--sign-with",
        action="append",
        default=[],
        metavar="[KEYID=]URI",
        help="a key that fleet.toml does not know here, such as file:/media/usb/root.pem; "
        "repeatable",
    )
    return parent


def folder_only(verb: argparse.ArgumentParser) -> None:
    """For verbs that upload."""
    verb.add_argument(
        "--folder-only",
        action="store_true",
        help="change the home's repository folder and leave the broker alone",
    )


def add_verbs(
    add: Add, release: Callable[[str], object], device: Callable[[str], object],
    profile: Callable[[str], str],
) -> None:  # fmt: skip
    """The verbs of this page.

    Args:
        release: reads `NAME==VERSION`.
        device: reads a device's id.
        profile: reads a profile's name.
    """
    _init(add)
    _key(add)
    _sign(add)
    _rotate(add)
    _revoke(add, release, device, profile)
    _refresh(add)


def _init(add: Add) -> None:
    verb = add(
        "init",
        help="make a fleet home: keys, and signed metadata that devices start from",
        description="Make the folder that holds everything of your fleet: keys for the roles\n"
        "root, targets, snapshot and timestamp, signed metadata, and fleet.toml. The keys of root\n"
        "and targets are encrypted with your passphrase and belong on a machine without a\n"
        "network; those of snapshot and timestamp stay where `edge-fleet refresh` runs.",
        epilog="examples:\n"
        "  edge-fleet init --passphrase-file pass --broker mqtts://broker.example\n"
        "      a home in ./fleet, with one key for each role\n"
        "  edge-fleet init --home /srv/fleet --passphrase-file pass --keys root=3 \\\n"
        "      --threshold root=2\n"
        "      three root keys of which any two sign: give each to another person\n"
        "  edge-fleet init --passphrase-file pass --add root=bob.pub.pem --threshold root=2\n"
        "      a key of yours and Bob's, who made his with `edge-fleet key bob.pem`\n"
        "  edge-fleet init --keys root=0 --add root=root.pub.pem=hsm:2 --passphrase-file pass\n"
        "      the root key is in a token; any signer URI of securesystemslib will do",
        signs=True,
    )
    verb.add_argument(
        "--keys",
        type=_for_role(_number(0, MAX_KEYS), "root=3"),
        action="append",
        default=[],
        metavar="ROLE=N",
        help="make so many keys for a role here (default: 1); repeatable",
    )
    verb.add_argument(
        "--add",
        type=_for_role(str, "root=bob.pub.pem"),
        action="append",
        default=[],
        metavar="ROLE=KEY",
        help="a key that is there already: PUBLIC.pem of somebody else, PUBLIC.pem=URI of a "
        "signer, or file:PRIVATE.pem; repeatable",
    )
    verb.add_argument(
        "--threshold",
        type=_for_role(_number(1, MAX_KEYS), "root=2"),
        action="append",
        default=[],
        metavar="ROLE=N",
        help="how many of a role's keys must sign (default: 1); repeatable",
    )
    days = ", ".join(f"{role} {EXPIRY_DAYS[role]}" for role in ROLES)
    verb.add_argument(
        "--expires",
        type=_for_role(_number(1, MAX_EXPIRY_DAYS), "timestamp=14"),
        action="append",
        default=[],
        metavar="ROLE=DAYS",
        help=f"how long its metadata is valid (default: {days}); repeatable",
    )


def _key(add: Add) -> None:
    verb = add(
        "key",
        connects=False,
        help="make a key pair for somebody who shall sign with others",
        description="Write an encrypted private key to FILE, and its public half beside it. Give\n"
        "the public half to whoever runs `edge-fleet init` or `rotate` with --add.",
        epilog="examples:\n"
        "  edge-fleet key bob.pem --passphrase-file pass\n"
        "      writes bob.pem, which stays with Bob, and bob.pub.pem\n"
        "  edge-fleet key bob.pem --passphrase-file pass --json\n"
        '      {"key": "…", "private": "bob.pem", "public": "bob.pub.pem"}',
        signs=True,
    )
    verb.add_argument("file", type=Path, metavar="FILE", help="where the private key shall be")


def _sign(add: Add) -> None:
    verb = add(
        "sign",
        connects=False,
        help="sign a bundle in the home's repository, or what others have staged there",
        description="With a bundle: put it into the repository folder of the home and sign it;\n"
        "no broker is needed. Without one: add your signatures to everything in `staged/`,\n"
        "which is metadata that lacks some. What has enough moves into the repository.",
        epilog="examples:\n"
        "  edge-fleet sign build/debian-sections-1.0.0-raspberry-pi-5.edge \\\n"
        "      --passphrase-file pass\n"
        "  edge-fleet sign --passphrase-file pass --sign-with file:/media/usb/bob.pem\n"
        "      the next holder of a key signs what is staged\n"
        "  edge-fleet sign --merge /media/usb/2.root.json\n"
        "      take over a signature that was made on a copy",
        signs=True,
    )
    verb.add_argument(
        "bundle",
        type=Path,
        nargs="*",
        help="an .edge file or a bundle's folder; or packages of the agent (.deb) of one version",
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="replace another bundle of the same name, version and profile",
    )
    verb.add_argument(
        "--merge",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a signed copy of something in staged/; repeatable",
    )


def _rotate(add: Add) -> None:
    verb = add(
        "rotate",
        help="change the keys or the threshold of a role",
        description="Sign a new root that names other keys for a role, and with them whatever the\n"
        "old ones have signed. Without options each key of the role whose file is here gets a new\n"
        "one in its place. Devices follow by themselves, also those that were offline meanwhile.",
        epilog="examples:\n"
        "  edge-fleet rotate timestamp --passphrase-file pass\n"
        "      the online key was stolen, or it is time\n"
        "  edge-fleet rotate root --remove 3f9a12c7 --add carol.pub.pem --passphrase-file pass\n"
        "      a key was lost; Carol's takes its place\n"
        "  edge-fleet rotate timestamp --remove 40413baa --keys 1 --passphrase-file pass\n"
        "      its file was lost; make another\n"
        "  edge-fleet rotate timestamp --force --passphrase-file pass\n"
        "      something was signed with a clock that was ahead, and this one is right\n"
        "  edge-fleet rotate targets --threshold 2 --passphrase-file pass\n"
        "\nwhere the new root needs more signatures it is staged: see `edge-fleet sign`",
        signs=True,
    )
    verb.add_argument(
        "role", type=_role, metavar="ROLE", help=f"{', '.join(ROLES[:-1])} or {ROLES[-1]}"
    )
    verb.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="KEY",
        help="PUBLIC.pem of somebody else, PUBLIC.pem=URI of a signer, or file:PRIVATE.pem; "
        "repeatable",
    )
    verb.add_argument(
        "--keys",
        type=_number(1, MAX_KEYS),
        default=0,
        metavar="N",
        help="make so many keys here, beside those that stay",
    )
    verb.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="KEYID",
        help="the beginning of a key's id, as `edge-fleet refresh --check` shows it; repeatable",
    )
    verb.add_argument(
        "--threshold",
        type=_number(1, MAX_KEYS),
        metavar="N",
        help="how many of the role's keys must sign",
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="believe this machine's clock, though metadata was signed later than it says",
    )
    folder_only(verb)


def _revoke(
    add: Add,
    release: Callable[[str], object],
    device: Callable[[str], object],
    profile: Callable[[str], str],
) -> None:
    def word(text: str) -> object:
        return release(text) if "=" in text else device(text)

    verb = add(
        "revoke",
        help="take back a release, or a device's right to connect",
        description="A word with == is a release: it leaves the signed targets, so that no device\n"
        "takes it any more, and its chunks make room. Devices that run it go on until something\n"
        "else is deployed. A plain word is a device: its certificate is revoked.",
        epilog="examples:\n"
        "  edge-fleet revoke debian-sections==1.0.0 --passphrase-file pass\n"
        "  edge-fleet revoke debian-sections==1.0.0 --profile raspberry-pi-5\n"
        "      for this board only\n"
        "  edge-fleet revoke press-7\n"
        "      the board was stolen; load the new broker/crl.pem into your broker",
        signs=True,
    )
    verb.add_argument(
        "what", type=word, metavar="NAME==VERSION|DEVICE", help="a release, or a device's id"
    )
    verb.add_argument(
        "--profile", type=profile, metavar="NAME", help="only the release made for this profile"
    )
    folder_only(verb)


def _refresh(add: Add) -> None:
    verb = add(
        "refresh",
        help="renew what expires, and tell how long everything is valid",
        description="Sign a new timestamp, which tells devices that nothing is withheld from\n"
        "them, and whatever else expires before it, as far as its keys are here. Run it by a\n"
        "timer, far more often than the timestamp expires: once it has, devices take no update.",
        epilog="examples:\n"
        "  edge-fleet refresh\n"
        "      daily; snapshot and timestamp need no passphrase\n"
        "  edge-fleet refresh --passphrase-file pass\n"
        "      also renews root and targets, where they are due and their keys are here\n"
        "  edge-fleet refresh --check --json\n"
        '      {"roles": [{"role": "root", "version": 1, "expires": "…", "signatures": 1, …}], …}\n'
        "\nwith --check the exit code is 1 where something expires soon or waits for a signature",
        signs=True,
    )
    verb.add_argument(
        "--check", action="store_true", help="change nothing: show the state and what is staged"
    )
    verb.add_argument(
        "--from-broker",
        action="store_true",
        help="first take over what another copy of this home has published: after a backup was "
        "restored, or where two people publish",
    )
    folder_only(verb)
