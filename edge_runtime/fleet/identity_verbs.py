"""What `enroll` and `broker` do: hold the home, write the folder, say what to do with it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from edge_runtime.fleet import mosquitto, reach, show, talk
from edge_runtime.fleet.enroll import enroll
from edge_runtime.fleet.home import DEFAULT_HOME, Home
from edge_runtime.fleet.issued import Entry
from edge_runtime.fleet.options import PROG
from edge_runtime.text import json_line, plain


def _home(arguments: argparse.Namespace) -> Home:
    """The home that is named, or the default one.

    Raises:
        InputError: it is none.
    """
    found = reach.home(arguments) or Home(DEFAULT_HOME)
    found.read()
    return found


def _enroll(arguments: argparse.Namespace) -> int:
    home = _home(arguments)
    passphrase = reach.passphrase(arguments)()
    with home.hold():
        made = enroll(
            home,
            arguments.device,
            arguments.profile,
            passphrase=passphrase,
            state_dir=arguments.state_dir,
            out=arguments.out,
            force=arguments.force,
        )
    if arguments.json:
        show.line(json_line(made.as_json()))
        return 0
    show.line(f"enrolled {made.device} in {plain(str(made.folder))}, {_good(made.entry)}")
    if made.replaced:
        talk.say(
            f"{PROG}: the certificate that it had is revoked; once the device has this folder, "
            f"bring {made.crl} to the broker and reload it"
        )
    return 0


def _broker(arguments: argparse.Namespace) -> int:
    home = _home(arguments)
    passphrase = reach.passphrase(arguments)()
    with home.hold():
        made = mosquitto.write(
            home,
            hosts=arguments.host,
            port=arguments.port,
            out=arguments.out,
            installed=arguments.installed,
            data=arguments.data,
            autosave_s=arguments.autosave,
            passphrase=passphrase,
        )
    if arguments.json:
        show.line(json_line(made.as_json()))
        return 0
    names = ", ".join(made.hosts)
    show.line(
        f"wrote {plain(str(made.folder))} for {plain(names, 2000)}, port {made.port}; "
        f"start it with {mosquitto.PROGRAM} -c {plain(made.start)}"
    )
    if made.entry is not None:
        talk.say(f"{PROG}: the broker has a new certificate, {_good(made.entry)}")
    if made.operator is not None:
        talk.say(f"{PROG}: the operator has a new certificate, {_good(made.operator)}")
    return 0


def _good(entry: Entry) -> str:
    return f"good until {entry.not_after:%Y-%m-%d}"


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {"enroll": _enroll, "broker": _broker}
