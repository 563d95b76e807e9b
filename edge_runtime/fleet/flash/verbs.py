"""What `flash` does: make the image, or make it and write it to a card, and say what is in it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.fields import Json
from edge_runtime.fleet import reach, show, talk
from edge_runtime.fleet.flash import disk
from edge_runtime.fleet.flash.image import Flashed, Order, flash
from edge_runtime.fleet.flash.person import Person, host_of, read_keys
from edge_runtime.fleet.flash.source import MAX_IMAGE_BYTES
from edge_runtime.fleet.flash.target import ended_cleanly, scratch
from edge_runtime.fleet.flash.wifi import Wifi, read_passphrase
from edge_runtime.fleet.home import DEFAULT_HOME, Home
from edge_runtime.fleet.options import PROG
from edge_runtime.fleet.outcome import TIME
from edge_runtime.fleet.reach import UsageError
from edge_runtime.text import json_line, plain, size


def _flash(arguments: argparse.Namespace) -> int:
    with ended_cleanly():
        return _flashed(arguments)


def _flashed(arguments: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    order = _order(arguments)
    home = reach.home(arguments) or Home(DEFAULT_HOME)
    home.read()
    if arguments.to is None:
        out = arguments.out or Path(f"{order.device}.img")
        made, words = _make(home, order, out), {"out": str(out)}
        where = plain(str(out))
    else:
        target = disk.find_disk(arguments.to, force=order.force)
        # Not in /tmp, which may be memory.
        with scratch(os.environ.get("TMPDIR") or "/var/tmp") as folder:
            out = folder / f"{order.device}.img"
            made = _make(home, order, out, target)
            words = {"to": str(arguments.to), "sha256": _to_card(target, out)}
        where = plain(str(arguments.to))
    seconds = round(time.monotonic() - begun_s, 1)
    if arguments.json:
        rest: dict[str, Json] = {**words, "seconds": seconds}
        show.line(json_line({**made.as_json(), **rest}))
    else:
        show.line("\n".join(_text(made, where)))
    return 0


def _order(arguments: argparse.Namespace) -> Order:
    """What was asked for.

    Raises:
        UsageError: options that need each other.
        InputError: a file that was named is wrong.
    """
    wifi = None
    named = (arguments.wifi, arguments.wifi_passphrase_file, arguments.country)
    if any(word is not None for word in named):
        if any(word is None for word in named):
            raise UsageError("--wifi, --wifi-passphrase-file and --country need each other")
        wifi = Wifi(arguments.wifi, read_passphrase(arguments.wifi_passphrase_file), named[2])
    if (arguments.user is None) != (arguments.ssh_key is None):
        raise UsageError("--user and --ssh-key need each other: the user has no password")
    keys = read_keys(arguments.ssh_key) if arguments.ssh_key is not None else ()
    host = arguments.hostname or host_of(arguments.device)
    return Order(
        image=arguments.image,
        device=arguments.device,
        person=Person(host, arguments.user or "", keys),
        bundle=arguments.bundle,
        package=arguments.package,
        wifi=wifi,
        accept_license=arguments.accept_license,
        force=arguments.force,
    )


def _make(home: Home, order: Order, out: Path, card: disk.Disk | None = None) -> Flashed:
    with talk.bar(f"unpacking {plain(order.image.name)}") as bar:
        return flash(
            home,
            order,
            out,
            datetime.now(timezone.utc),
            max_bytes=min(MAX_IMAGE_BYTES, card.size_bytes) if card else MAX_IMAGE_BYTES,
            room=f"on {card.path}" if card else "here",
            on_unpack=bar,
            on_step=lambda what: talk.say(f"{PROG}: {what}"),
        )


def _to_card(target: disk.Disk, image: Path) -> str:
    total = image.stat().st_size
    with talk.bar(f"writing {target.path}") as bar:
        sha256 = disk.write(target, image, bar)
    with talk.bar(f"reading {target.path} back") as bar:
        disk.verify(target, sha256, total, bar)
    disk.read_table_anew(target)
    return sha256


def _text(made: Flashed, where: str) -> list[str]:
    grown = f", grown by {size(made.grown_bytes)}" if made.grown_bytes else ""
    lines = [
        f"flashed {made.order.device} to {where}: {made.system.name}, "
        f"{made.system.flavour.value}, {size(made.size_bytes)}{grown}",
        f"  agent {made.package.version}, profile {made.identity.profile}, "
        f"host name {made.order.person.host}",
    ]
    if made.bundle is not None:
        r, until = made.bundle.release, made.bundle.until
        soon = f", if it boots before {until.strftime(TIME)}" if until is not None else ""
        lines.append(f"  first bundle {r.name}=={r.version}{soon}")
    if made.order.wifi is not None:
        lines.append(f"  Wi-Fi {plain(made.order.wifi.ssid)} ({made.order.wifi.country})")
    if made.order.person.user:
        lines.append(f"  user {made.order.person.user}, who logs in with a key")
    return lines


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {"flash": _flash}
