"""What `token` and `enroll-server` do: keep tokens, serve boards, say what happens."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from types import FrameType

from rich.table import Table

from edge_runtime.fields import Json
from edge_runtime.fleet import reach, show, talk
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.enrollment.place import Place, certificate_files, place, take_place
from edge_runtime.fleet.enrollment.script import Packages
from edge_runtime.fleet.enrollment.server import EnrollmentServer, Happening
from edge_runtime.fleet.enrollment.tokens import Record, Tokens
from edge_runtime.fleet.home import DEFAULT_HOME, Home
from edge_runtime.fleet.issued import TIME, utc
from edge_runtime.fleet.options import PROG
from edge_runtime.messages.enrollment import SCRIPT_PATH, Address, Token
from edge_runtime.text import json_line, plain, size


def _home(arguments: argparse.Namespace) -> Home:
    found = reach.home(arguments) or Home(DEFAULT_HOME)
    found.read()
    return found


def _token(arguments: argparse.Namespace) -> int:
    home = _home(arguments)
    if arguments.list or arguments.revoke is not None:
        if arguments.device is not None or arguments.profile is not None:
            raise reach.UsageError("token: --list and --revoke take no other device or profile")
        return _list(arguments, home) if arguments.list else _revoke(arguments, home)
    if arguments.device is None or arguments.profile is None:
        raise reach.UsageError("token: expected DEVICE and --profile NAME, or --list, or --revoke")
    with home.hold():
        where = place(home, arguments.server)
        token, record = Tokens(home).make(
            arguments.device,
            arguments.profile,
            where,
            valid=arguments.valid,
            force=arguments.force,
        )
    install, setup = lines(token, where)
    if arguments.json:
        value: dict[str, Json] = {
            "device": token.device,
            "token": token.text,
            "expires": record.expires.strftime(TIME),
            "profile": arguments.profile,
            "addresses": [str(address) for address in token.addresses],
            "pin": where.curl_pin,
            "install": install,
            "setup": setup,
        }
        show.line(json_line(value))
        return 0
    show.line(f"token for {token.device}, good once, until {record.expires:%Y-%m-%d %H:%M} UTC:")
    show.line(f"\n  {token.text}\n\non the board, this one line:\n\n  {install}\n")
    show.line(f"or, where edge-agent is installed already:\n\n  {setup}")
    talk.say(
        f"{PROG}: the board finds `edge-fleet enroll-server` at "
        f"{', '.join(map(str, token.addresses))}; start it if it does not run"
    )
    return 0


def lines(token: Token, where: Place) -> tuple[str, str]:
    """What to paste: on a board without the package, and on one that has it."""
    url = f"https://{token.addresses[0]}{SCRIPT_PATH}"
    return (
        f"curl -fsS -k --pinnedpubkey '{where.curl_pin}' {url} | sudo sh -s -- {token.text}",
        f"sudo edge-agent setup --token {token.text}",
    )


def _list(arguments: argparse.Namespace, home: Home) -> int:
    now = utc()
    records = Tokens(home).all()
    if arguments.json:
        show.line(json_line({"tokens": [record.as_json(now) for record in records]}))
    elif records:
        show.print_table(_table(records, now))
    else:
        talk.say(f"{PROG}: no token was made in this home yet")
    return 0


def _table(records: tuple[Record, ...], now: datetime) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("device", "token", "valid until", "profile")
    for record in records:
        told = record.as_json(now)
        table.add_row(
            record.device,
            str(told["state"]),
            f"{record.expires:%Y-%m-%d %H:%M} UTC",
            plain(str(told["profile"])),
        )
    return table


def _revoke(arguments: argparse.Namespace, home: Home) -> int:
    with home.hold():
        record = Tokens(home).revoke(arguments.revoke)
    if arguments.json:
        show.line(json_line(record.as_json(utc())))
        return 0
    show.line(f"the token of {record.device} is good no more")
    if record.used is not None:
        talk.say(
            f"{PROG}: it was used on {record.used.when:%Y-%m-%d %H:%M} UTC; what came of it is "
            f"taken back with `edge-fleet revoke {record.device}`"
        )
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    home = _home(arguments)
    passphrase = reach.passphrase(arguments)()
    # Now, not when the first board comes: it would be refused for what is missing here.
    CertificateAuthority(home, passphrase).demand_usable()
    # Nothing is connected to: what is warned of from now on is never said twice.
    arguments.warnings.connected = True
    with talk.busy("looking through the packages"):
        packages = Packages(arguments.packages)
    listen: Address = arguments.listen
    given = [Address.parse(host, listen.port) for host in arguments.host]
    with home.hold():
        where = take_place(home, given, listen)
        files = certificate_files(home, where.addresses)

    def tell(happening: Happening) -> None:
        try:
            _tell(happening, as_json=arguments.json)
        except OSError:  # Whoever read our output is gone; boards are served all the same.
            return

    server = EnrollmentServer(
        home, passphrase, (listen.host, listen.port), where, files, packages, tell
    )
    with server:
        names = ", ".join(map(str, where.addresses))
        found = packages.all()
        if arguments.json:
            value: dict[str, Json] = {
                "port": server.port,
                "addresses": [str(one) for one in where.addresses],
                "pin": where.curl_pin,
                "packages": [one.path.name for one in found],
            }
            show.line(json_line(value))
            sys.stdout.flush()
        talk.say(f"{PROG}: listening on {listen.host} port {server.port}; boards come to {names}")
        for one in found:
            talk.say(f"{PROG}: hands out {one.path.name}, {size(one.size_bytes)}")
        if arguments.packages is None:
            talk.say(f"{PROG}: hands out no packages; --packages DIR does")
        _until_told(server, arguments.seconds)
    return 0


def _until_told(server: EnrollmentServer, seconds: float | None) -> None:
    """Serve until Ctrl-C, SIGTERM or the end of `seconds`."""
    over = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        over.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="accept", daemon=True)
    thread.start()
    try:
        over.wait(seconds)
    finally:
        server.shutdown()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(happening: Happening, *, as_json: bool) -> None:
    h = happening
    if as_json:
        value: dict[str, Json] = {
            "device": h.device,
            "address": h.address,
            "enrolled": not h.refused,
            "again": h.again,
            "refused": plain(h.refused, 500),
            "agent_version": plain(h.agent_version),
            "arch": plain(h.arch),
            "python": plain(h.python),
            "crl": h.crl,
        }
        show.line(json_line(value))
        sys.stdout.flush()
        return
    if h.refused:
        talk.say(f"{PROG}: {h.address} came as {h.device} and was refused: {h.refused}")
        return
    word = "was answered again" if h.again else "enrolled"
    about = f"edge-agent {h.agent_version}, {h.arch}, Python {h.python}"
    show.line(f"{h.device} {word}, from {h.address} ({plain(about)})")
    sys.stdout.flush()
    if h.crl:
        talk.say(
            f"{PROG}: the certificate that {h.device} had is revoked; bring {h.crl} to the broker "
            "and reload it"
        )


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "token": _token,
    "enroll-server": _serve,
}
