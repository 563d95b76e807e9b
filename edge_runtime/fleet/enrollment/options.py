"""The command line of enrolment by token: `token` and `enroll-server`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.fleet.home import PASSPHRASE_VARIABLE
from edge_runtime.messages.enrollment import DEFAULT_PORT, Address

Add = Callable[..., argparse.ArgumentParser]
# As in `tokens`, which loads too much for a page of help.
VALID = timedelta(hours=1)
MAX_VALID_DAYS = 30
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def add_verbs(add: Add, device: Callable[[str], str], seconds: Callable[[str], float]) -> None:
    """The verbs of this page; `device` reads a device's id, `seconds` a time."""
    _token(add, device)
    _server(add, seconds)


def _valid(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    found = timedelta(**{UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    if not timedelta(0) < found <= timedelta(days=MAX_VALID_DAYS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time, expected such as 30m, 1h or 2d, at most {MAX_VALID_DAYS}d"
        )
    return found


def address(text: str) -> Address:
    """Where a server is."""
    try:
        return Address.parse(text)
    except InputError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None


def _host(text: str) -> str:
    """As `address`; its port is that of --listen where none is named."""
    address(text)
    return text


def _token(add: Add, device: Callable[[str], str]) -> None:
    verb = add(
        "token",
        connects=False,
        help="make a one-time token by which a board that already runs joins the fleet",
        description="Print a token, and the line to paste on the board: it installs the agent,\n"
        "fetches an identity from `edge-fleet enroll-server`, starts and checks itself. The\n"
        "board makes its key itself. A token is good once, for one device, and for a limited\n"
        "time; another one for the same device replaces it.",
        epilog="examples:\n"
        "  edge-fleet token press-7 --profile raspberry-pi-5\n"
        "      then, while it is valid: edge-fleet enroll-server --packages dist\n"
        "  edge-fleet token press-7 --profile boards/my-board.toml --valid 2d --json\n"
        '      {"device": …, "token": …, "install": …, "setup": …, "expires": …, …}\n'
        "  edge-fleet token press-7 --profile raspberry-pi-5 --force\n"
        "      it is enrolled already; with this token it gets a new key and certificate\n"
        "  edge-fleet token --list\n"
        "  edge-fleet token --revoke press-7",
    )
    verb.add_argument("device", type=device, nargs="?", metavar="DEVICE", help="the device's id")
    verb.add_argument(
        "--profile", metavar="NAME", help="its board: a shipped profile, or a .toml of your own"
    )
    verb.add_argument(
        "--valid",
        type=_valid,
        default=VALID,
        metavar="TIME",
        help="how long, such as 30m, 1h, 2d (default: 1h)",
    )
    verb.add_argument(
        "--server",
        type=address,
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="where the board reaches enroll-server; repeatable, the first one stands in the line "
        "to paste (default: where that ran last, or this machine)",
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="let it take the place of a certificate that is still good, which is revoked",
    )
    other = verb.add_mutually_exclusive_group()
    other.add_argument("--list", action="store_true", help="every device's last token")
    other.add_argument(
        "--revoke", type=device, metavar="DEVICE", help="nobody may come with its token any more"
    )


def _server(add: Add, seconds: Callable[[str], float]) -> None:
    verb = add(
        "enroll-server",
        connects=False,
        help="hand out identities to boards that bring a token; runs while you set boards up",
        description="Serve https for boards that are being set up: the script to paste, packages\n"
        "of the agent, and an identity for each good token. Boards know it by its key, which\n"
        "the token names. Ends with Ctrl-C; it need not run at any other time.",
        epilog="examples:\n"
        "  edge-fleet enroll-server --packages dist --passphrase-file pass\n"
        "      on every address of this machine, port 8444; dist/ is what `make deb` writes\n"
        "  edge-fleet enroll-server --listen 10.0.0.7:9000 --host fleet.example:9000 --json\n"
        "      tokens made from now on name fleet.example:9000; a line of JSON for each board\n"
        "\nexit code 0 once it is told to end",
    )
    verb.add_argument(
        "--listen",
        type=address,
        default=Address("0.0.0.0"),
        metavar="ADDRESS[:PORT]",
        help=f"where it listens; [::] is IPv6 and IPv4 (default: 0.0.0.0:{DEFAULT_PORT})",
    )
    verb.add_argument(
        "--host",
        type=_host,
        action="append",
        default=[],
        metavar="NAME[:PORT]",
        help="how boards reach it, for tokens; repeatable (default: as last time, or this "
        "machine's address and name)",
    )
    verb.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="edge-agent_*.deb for boards that have none (default: none are handed out)",
    )
    verb.add_argument("--seconds", type=seconds, metavar="S", help="end after so long")
    verb.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line opens the key of the certificate authority; - is stdin "
        f"(default: ${PASSPHRASE_VARIABLE})",
    )
