"""What each verb of `edge-fleet` does: read the broker, act, print the result.

Loads rich, which a device installs without; `cli` imports it when a verb is asked for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

from edge_runtime.bundle.agent_package import AGENT
from edge_runtime.errors import EdgeError
from edge_runtime.fleet import agent_rollout, question, rollout, show, talk
from edge_runtime.fleet.agent_publish import open_given
from edge_runtime.fleet.ask import ask
from edge_runtime.fleet.choice import choose
from edge_runtime.fleet.inventory import read_devices, read_inventory
from edge_runtime.fleet.options import PROG
from edge_runtime.fleet.publish import publish
from edge_runtime.fleet.reach import UsageError, connected, has_broker, home
from edge_runtime.fleet.repository import read_catalog
from edge_runtime.fleet.watch import watch
from edge_runtime.text import json_line, plain


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; its exit code. What is about signing is imported when it is asked for.

    Raises:
        UsageError, EdgeError: it cannot be done; one sentence says why.
    """
    with talk.warnings(PROG) as warnings:
        arguments.warnings = warnings
        verb = VERBS.get(arguments.verb)
        if verb is None:
            from edge_runtime.fleet import identity_verbs, trust_verbs
            from edge_runtime.fleet.enrollment import verbs as enrollment_verbs
            from edge_runtime.fleet.flash import verbs as flash_verbs

            more = {**trust_verbs.VERBS, **identity_verbs.VERBS, **enrollment_verbs.VERBS}
            more = {**more, **flash_verbs.VERBS}
            verb = more[arguments.verb]
        return verb(arguments)


def _publish(arguments: argparse.Namespace) -> int:
    if home(arguments) is not None:
        from edge_runtime.fleet import trust_verbs

        return trust_verbs.publish(arguments)
    if arguments.folder_only:
        raise UsageError("--folder-only: no fleet home; name it with --home, or make one: init")
    reader = open_given(arguments.bundle)
    with connected(arguments) as connection, talk.bar(f"publishing {reader.where}") as bar:
        made = publish(connection, reader, force=arguments.force, on_progress=bar)
    show.line(json_line(made.as_json()) if arguments.json else show.publication(made))
    return 0


def _deploy(arguments: argparse.Namespace) -> int:
    with connected(arguments) as connection:
        name, version = arguments.release
        devices = read_devices(connection, arguments.device)
        itself = name == AGENT
        of = agent_rollout.platform_of if itself else None
        releases = choose(connection, name, version, devices, arguments.profile, of)
        plan = agent_rollout.plan if itself else rollout.plan
        plans = [
            plan(device, release, retry=arguments.retry)
            for device, release in zip(devices, releases, strict=True)
        ]
        if home(arguments) is not None:
            from edge_runtime.fleet import trust_verbs

            trust_verbs.warn_unsigned(arguments, releases)
        rollout.deploy(connection, plans)
        for made in plans:
            for warning in made.warnings:
                talk.say(f"{PROG}: warning: {made.device.id} {warning}")
        verdicts: Mapping[str, rollout.Verdict] = {}
        if arguments.wait is not None:
            ids = [made.device.id for made in plans]
            # For people each outcome is the result, on stdout; they need not read it twice.
            with talk.following(ids, outcomes=arguments.json) as change:
                judge = agent_rollout.verdict if itself else rollout.verdict
                verdicts = rollout.follow(connection, plans, arguments.wait, change, judge)
    pairs = [(made, verdicts.get(made.device.id)) for made in plans]
    if arguments.json:
        part = agent_rollout.as_json if itself else rollout.as_json
        rows = [part(made, found) for made, found in pairs]
        show.line(json_line({"name": name, "version": version, "devices": rows}))
    else:
        for made, found in pairs:
            text = agent_rollout.line if itself else show.rollout
            show.line(plain(text(f"{name} {version}", made, found, arguments.wait or 0.0), 4000))
    there = all(found.outcome is rollout.Outcome.SERVING for found in verdicts.values())
    return 0 if there else 1


def _status(arguments: argparse.Namespace) -> int:
    with connected(arguments) as connection:
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
    with connected(arguments) as connection:
        for notice in watch(connection, arguments.device or "+", arguments.seconds):
            if notice is not None and arguments.json:
                show.line(json_line(notice.as_json()))
            elif notice is not None:
                show.line(show.notice(notice, time.strftime("%H:%M:%S")))
    return 0


def _releases(arguments: argparse.Namespace) -> int:
    signed: Mapping[str, str] | None = None
    if home(arguments) is not None:
        from edge_runtime.fleet import trust_verbs

        if not has_broker(arguments):
            return trust_verbs.releases(arguments)
        signed = trust_verbs.signed_manifests(arguments)
    with connected(arguments) as connection:
        catalog = read_catalog(connection)
        where = f"{connection.address} under {connection.topics.prefix}"
    for file, reason in catalog.unreadable:
        talk.say(f"{PROG}: warning: {file} cannot be read: {reason}")
    if arguments.json:
        show.line(json_line(catalog.as_json(signed)))
    elif catalog.releases:
        show.print_table(show.releases_table(catalog, signed))
    else:
        talk.say(f"{PROG}: nothing is published on broker {where} yet")
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    kinds = [
        of(given)
        for of, given in (
            (question.of_texts, arguments.text),
            (question.of_pairs, arguments.pair),
            (question.of_files, arguments.file),
            (question.of_rows, arguments.row),
        )
        if given
    ]
    if len(kinds) != 1:
        raise UsageError(
            "ask: expected TEXT, --pair, --file or --row, of one kind: a device has one model"
        )
    (asked,) = kinds
    with connected(arguments) as connection, talk.busy(f"asking {arguments.device}"):
        result = ask(connection, arguments.device, asked, arguments.timeout)
    if result.error:
        raise EdgeError(f"device {arguments.device}: {result.error}")
    if arguments.json:
        show.line(json_line({"device": arguments.device, "results": list(result.results)}))
    else:
        show.line("\n".join(show.answers(asked.shown, result)))
    return 0


__all__ = ["VERBS", "UsageError", "run"]

VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "publish": _publish,
    "deploy": _deploy,
    "status": _status,
    "watch": _watch,
    "releases": _releases,
    "ask": _ask,
}
