"""What each verb of `edge-fleet` does: read the broker, act, print the result.

Loads rich, which a device installs without; `cli` imports it when a verb is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping

from edge_runtime.bundle.archive import open_bundle
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fleet import rollout, show, talk
from edge_runtime.fleet.ask import ask
from edge_runtime.fleet.choice import choose
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.inventory import read_devices, read_inventory
from edge_runtime.fleet.options import BROKER_VARIABLE, PROG
from edge_runtime.fleet.publish import publish
from edge_runtime.fleet.repository import read_catalog
from edge_runtime.fleet.watch import watch
from edge_runtime.link.config import BrokerConfig
from edge_runtime.link.mqtt import connector
from edge_runtime.text import json_line


class UsageError(Exception):
    """An option that argparse cannot judge is wrong."""


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; its exit code.

    Raises:
        UsageError, EdgeError: it cannot be done; one sentence says why.
    """
    with talk.warnings(PROG) as warnings:
        arguments.warnings = warnings
        return VERBS[arguments.verb](arguments)


@contextlib.contextmanager
def _connected(arguments: argparse.Namespace) -> Iterator[Connection]:
    """To the broker that the options name.

    Raises:
        UsageError: they name none, or cannot be.
        TransferError: it cannot be reached.
    """
    url = arguments.broker or os.environ.get(BROKER_VARIABLE)
    if not url:
        raise UsageError(
            f"no broker; say where it is with --broker mqtt://HOST[:PORT] or in {BROKER_VARIABLE}"
        )
    try:
        config = BrokerConfig.parse(
            url,
            username=arguments.username,
            password_file=arguments.password_file,
            ca_file=arguments.ca,
            cert_file=arguments.cert,
            key_file=arguments.key,
            version=arguments.mqtt_version,
        )
    except InputError as reason:
        raise UsageError(str(reason)) from None
    made = Connection(connector(config), arguments.topics, timeout_s=arguments.timeout)
    with contextlib.ExitStack() as stack:
        with talk.busy(f"connecting to {config.address}"):
            connection = stack.enter_context(made)
        arguments.warnings.connected = True
        yield connection


def _publish(arguments: argparse.Namespace) -> int:
    reader = open_bundle(arguments.bundle)
    with _connected(arguments) as connection, talk.bar(f"publishing {arguments.bundle}") as bar:
        made = publish(connection, reader, force=arguments.force, on_progress=bar)
    show.line(json_line(made.as_json()) if arguments.json else show.publication(made))
    return 0


def _deploy(arguments: argparse.Namespace) -> int:
    with _connected(arguments) as connection:
        name, version = arguments.release
        devices = read_devices(connection, arguments.device)
        releases = choose(connection, name, version, devices, arguments.profile)
        plans = [
            rollout.plan(device, release, retry=arguments.retry)
            for device, release in zip(devices, releases, strict=True)
        ]
        rollout.deploy(connection, plans)
        for made in plans:
            for warning in made.warnings:
                talk.say(f"{PROG}: warning: {made.device.id} {warning}")
        verdicts: Mapping[str, rollout.Verdict] = {}
        if arguments.wait is not None:
            ids = [made.device.id for made in plans]
            # For people each outcome is the result, on stdout; they need not read it twice.
            with talk.following(ids, outcomes=arguments.json) as change:
                verdicts = rollout.follow(connection, plans, arguments.wait, change)
    pairs = [(made, verdicts.get(made.device.id)) for made in plans]
    if arguments.json:
        rows = [rollout.as_json(made, found) for made, found in pairs]
        show.line(json_line({"name": name, "version": version, "devices": rows}))
    else:
        for made, found in pairs:
            show.line(show.rollout(f"{name} {version}", made, found, arguments.wait or 0.0))
    there = all(found.outcome is rollout.Outcome.SERVING for found in verdicts.values())
    return 0 if there else 1


def _status(arguments: argparse.Namespace) -> int:
    with _connected(arguments) as connection:
        wanted = arguments.device
        devices = read_devices(connection, wanted) if wanted else read_inventory(connection)
        where = f"{connection.address} under {connection.topics.prefix}"
    if arguments.json:
        show.line(json_line({"devices": [device.as_json() for device in devices]}))
    elif devices:
        show.print_table(show.status_table(devices))
    else:
        talk.say(f"{PROG}: no device has been on broker {where} yet")
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    with _connected(arguments) as connection:
        for notice in watch(connection, arguments.device or "+", arguments.seconds):
            if notice is not None and arguments.json:
                show.line(json_line(notice.as_json()))
            elif notice is not None:
                show.line(show.notice(notice, time.strftime("%H:%M:%S")))
    return 0


def _releases(arguments: argparse.Namespace) -> int:
    with _connected(arguments) as connection:
        catalog = read_catalog(connection)
        where = f"{connection.address} under {connection.topics.prefix}"
    for file, reason in catalog.unreadable:
        talk.say(f"{PROG}: warning: {file} cannot be read: {reason}")
    if arguments.json:
        show.line(json_line(catalog.as_json()))
    elif catalog.releases:
        show.print_table(show.releases_table(catalog))
    else:
        talk.say(f"{PROG}: nothing is published on broker {where} yet")
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    with _connected(arguments) as connection, talk.busy(f"asking {arguments.device}"):
        result = ask(connection, arguments.device, arguments.text, arguments.timeout)
    if result.error:
        raise EdgeError(f"device {arguments.device}: {result.error}")
    if arguments.json:
        show.line(json_line({"device": arguments.device, "results": list(result.results)}))
    else:
        show.line("\n".join(show.answers(arguments.text, result)))
    return 0


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "publish": _publish,
    "deploy": _deploy,
    "status": _status,
    "watch": _watch,
    "releases": _releases,
    "ask": _ask,
}
