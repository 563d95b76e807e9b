"""The command line of identities: `enroll` and `broker`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from edge_runtime.fleet.home import PASSPHRASE_VARIABLE
from edge_runtime.messages.topics import DEVICE_ID

Add = Callable[..., argparse.ArgumentParser]
# As in `enroll` and `mosquitto`, which load too much for a page of help.
STATE_DIR = "/var/lib/edge-agent"
AUTOSAVE_S = 30
MAX_AUTOSAVE_S = 86400


def add_verbs(add: Add) -> None:
    """The verbs of this page."""
    _enroll(add)
    _broker(add)


def _device(text: str) -> str:
    if not re.fullmatch(DEVICE_ID, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no device id, expected up to 64 letters, digits, '-' or '_'"
        )
    return text


def _number(low: int, high: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}, expected {low}..{high}")
        return int(text)

    return parse


def _passphrase(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line opens the key of the certificate authority; - is stdin "
        f"(default: ${PASSPHRASE_VARIABLE})",
    )


def _enroll(add: Add) -> None:
    verb = add(
        "enroll",
        connects=False,
        help="make a device's identity: one folder to flash",
        description="Write a folder with all that makes a board a device of this fleet: its key\n"
        "and certificate, the authority by which it knows the broker, the root of what it trusts,\n"
        "and a commented agent.toml. Copy it to the board, start `edge-agent run --config\n"
        "agent.toml` there, and delete your copy of the key or keep it as safe as the home.\n"
        "A device whose certificate was revoked is enrolled again in the same way.",
        epilog="examples:\n"
        "  edge-fleet enroll press-7 --profile raspberry-pi-5 --passphrase-file pass\n"
        "      in fleet/devices/press-7\n"
        "  edge-fleet enroll press-7 --profile boards/my-board.toml --out /media/card/edge\n"
        "      for a board with a profile of your own, which goes along\n"
        "  edge-fleet enroll press-7 --profile raspberry-pi-5 --force\n"
        "      a new key and certificate; the one from before is revoked",
    )
    verb.add_argument("device", type=_device, metavar="DEVICE", help="the device's id")
    verb.add_argument(
        "--profile", required=True, metavar="NAME", help="its board: a shipped profile, or a .toml"
    )
    verb.add_argument(
        "--state-dir",
        default=STATE_DIR,
        metavar="DIR",
        help=f"where the agent keeps its state, on the board (default: {STATE_DIR})",
    )
    verb.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder (default: devices/DEVICE in the home)"
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="take the place of a certificate that is still good, which is revoked",
    )
    _passphrase(verb)


def _broker(add: Add) -> None:
    verb = add(
        "broker",
        connects=False,
        help="write a mosquitto configuration that lets in this fleet and nobody else",
        description="Write a folder with a mosquitto.conf, the rights of devices and operator, a\n"
        "certificate for the broker, and the revocation list. Everybody shows a certificate; a\n"
        "device may touch its own topics only, and read the repository. Writing it again keeps\n"
        "the broker's certificate, unless it names other hosts or ends within half a year; the\n"
        "operator's own is renewed likewise.",
        epilog="examples:\n"
        "  edge-fleet broker --passphrase-file pass\n"
        "  /usr/sbin/mosquitto -c fleet/broker/mosquitto.conf\n"
        "      on this machine, the second in another terminal, without sudo\n"
        "  edge-fleet broker --host 10.0.0.7 --installed /etc/mosquitto \\\n"
        "      --data /var/lib/mosquitto --passphrase-file pass\n"
        "      for another one, whose /etc/mosquitto gets what is in fleet/broker",
    )
    verb.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name or address by which the broker is reached, beside the one in "
        "fleet.toml; repeatable",
    )
    verb.add_argument(
        "--port",
        type=_number(1, 65535, "port"),
        metavar="N",
        help="where it listens (default: the port in fleet.toml)",
    )
    verb.add_argument(
        "--installed",
        metavar="DIR",
        help="where the folder will lie on the broker's machine (default: where it is written)",
    )
    verb.add_argument(
        "--data",
        metavar="DIR",
        help="where mosquitto keeps its database there (default: data in that folder)",
    )
    verb.add_argument(
        "--autosave",
        type=_number(1, MAX_AUTOSAVE_S, "number of seconds"),
        default=AUTOSAVE_S,
        metavar="SECONDS",
        help="what a power cut may take of what was published last; each time mosquitto writes "
        f"everything it keeps (default: {AUTOSAVE_S})",
    )
    verb.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder (default: broker in the home)"
    )
    _passphrase(verb)
