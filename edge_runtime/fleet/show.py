"""What a person reads on stdout: tables, and one line for each thing that happened.

Every string from the broker passes `plain`, and tables are made of `Text`, in which a device
cannot write markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_runtime.fleet import agent_rollout
from edge_runtime.fleet.inventory import Device
from edge_runtime.fleet.publish import Publication
from edge_runtime.fleet.repository import Catalog, is_signed
from edge_runtime.fleet.rollout import Outcome, Plan, Verdict, busy, cost, serves, verdict
from edge_runtime.fleet.watch import Notice
from edge_runtime.messages.fleet import (
    Accelerator,
    BundleRef,
    Event,
    InferResult,
    Online,
    Reported,
    Telemetry,
)
from edge_runtime.text import json_line, plain, size

PIPE_WIDTH = 1000
"""Columns where stdout is no terminal: whoever reads it does not want lines to be cropped."""
CELL = 80
"""Characters of a cell that holds a device's own words; JSON has all of them."""
ELASTIC = ("STATE", "ACCELERATOR", "AGENT", "WANTED")
"""Columns that a narrow terminal crops first; what matters most in them comes first."""


def line(text: str) -> None:
    """On stdout, at once: whoever reads it may be waiting for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def is_terminal() -> bool:
    """Whether a person sees stdout as it is written."""
    return sys.stdout.isatty()


def print_table(table: Table) -> None:
    """On stdout, as wide as the terminal."""
    width = None if is_terminal() else PIPE_WIDTH
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def _table(*heads: str) -> Table:
    """A row is a line: cells are cropped, not folded."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in heads:
        # To rich, columns that may not wrap are the last to shrink.
        elastic = head in ELASTIC
        title = Text(head, no_wrap=True, overflow="ellipsis")
        table.add_column(title, overflow="ellipsis", no_wrap=not elastic)
    return table


def _cell() -> Text:
    """An empty one, of an elastic column."""
    return Text(no_wrap=True, overflow="ellipsis")


def _cropped(text: Text) -> Text:
    text.truncate(CELL, overflow="ellipsis")
    return text


def status_table(devices: Iterable[Device]) -> Table:
    """One row for each device; with its agent where one can update itself, or is to."""
    devices = tuple(devices)
    updatable = any(
        each is not None and each.agent is not None
        for d in devices
        for each in (d.reported, d.desired)
    )
    heads = ["DEVICE", "ONLINE", "SERVING", "STATE", "ACCELERATOR", "TRUST"]
    table = _table(*heads, *(["AGENT"] if updatable else []), "WANTED")
    for device in devices:
        reported = device.reported
        table.add_row(
            Text(device.id),
            _online(device),
            Text(_bundle(reported.active) if reported is not None else ""),
            _state(device),
            _accelerator(reported.accelerator if reported is not None else None),
            Text(plain(reported.trust, CELL) if reported is not None else ""),
            *([_agent(device)] if updatable else []),
            _wanted(device),
        )
    return table


def _online(device: Device) -> Text:
    if device.online is None:
        return Text("unknown" if device.known else "never seen", "yellow")
    return Text("yes", "green") if device.online else Text("no", "red")


def _bundle(bundle: BundleRef | None) -> str:
    return f"{bundle.name} {bundle.version}" if bundle is not None else "nothing"


def _state(device: Device) -> Text:
    state = _cell()
    if device.unreadable:
        state.append(f"unreadable: {plain('; '.join(device.unreadable), CELL)}", "red")
    if device.reported is not None:
        state.append("; " if state else "")
        state.append(plain(busy(device.reported), CELL))
    return _cropped(state)


def _accelerator(found: Accelerator | None) -> Text:
    """What runs; where that is worse than it should be, why, and what was requested."""
    text = _cell()
    if found is None:
        return text
    if found.degraded:
        text.append("DEGRADED ", "bold red")
    text.append(plain(f"{found.variant}: {found.actual}", CELL))
    if found.degraded:
        text.append(plain(f"; {found.degraded}; {found.requested} was requested", CELL))
    return _cropped(text)


def _agent(device: Device) -> Text:
    """Which agent it is, and how its own update stands where one is wanted."""
    reported, desired, text = device.reported, device.desired, _cell()
    if reported is not None:
        text.append(plain(reported.agent_version, CELL))
    if desired is None or desired.agent is None:
        return _cropped(text)
    found = agent_rollout.verdict(desired, reported)
    if found.outcome is not Outcome.SERVING:
        style = "red" if found.outcome is Outcome.REFUSED else "yellow"
        word = "refused" if found.outcome is Outcome.REFUSED else "not yet"
        version = desired.agent.release.version
        text.append("; " if text else "")
        text.append(f"{word} {version}: {plain(found.reason, CELL)}", style)
    return _cropped(text)


def _wanted(device: Device) -> Text:
    desired, text = device.desired, _cell()
    if desired is None or desired.keeps:
        return text
    wanted = _bundle(desired.release.ref if desired.release is not None else None)
    found = verdict(desired, device.reported)
    if found.outcome is Outcome.REFUSED:
        text.append(f"refused {wanted}: {plain(found.reason, CELL)}", "red")
    elif found.outcome is Outcome.WAITING:
        text.append("not yet ", "yellow").append(wanted)
    else:
        text.append("as served")
    return _cropped(text)


def releases_table(catalog: Catalog, signed: Mapping[str, str] | None = None) -> Table:
    """One row for each release; whether it is signed, where `signed` has manifests by file."""
    more = [] if signed is None else ["SIGNED"]
    table = _table("NAME", "VERSION", "PROFILE", "SIZE", "MANIFEST", *more)
    for r in catalog.releases:
        row = [r.name, r.version, r.profile, size(r.size_bytes), r.manifest.sha256[:12]]
        cells = [Text(word) for word in row]
        if signed is not None:
            cells.append(Text("yes", "green") if is_signed(r, signed) else Text("NO", "bold red"))
        table.add_row(*cells)
    return table


def publication(made: Publication) -> str:
    """What publishing did, in two lines."""
    r = made.release
    profiles = ", ".join(release.profile for release in made.releases)
    total = f"{size(made.sent_bytes + made.skipped_bytes)} for {profiles}"
    sent = f"{made.sent_chunks} chunks sent, {size(made.sent_bytes)}"
    skipped = f"{made.skipped_chunks} were there already, {size(made.skipped_bytes)}"
    word = "published again" if made.again else "published"
    return f"{word} {r.name}=={r.version}, {total}: {sent}; {skipped}\nmanifest {r.manifest.sha256}"


def rollout(title: str, made: Plan, found: Verdict | None, wait_s: float) -> str:
    """One device's part of a rollout of `title`; `found` None: nobody followed it."""
    device = made.device.id
    reason = plain(found.reason) if found is not None else ""
    if found is None:
        wants = "now wants" if made.changed else "wanted already"
        return f"{device}: {wants} {title} (revision {made.desired.revision})"
    if found.outcome is Outcome.REFUSED:
        return f"{device}: refused {title}: {reason}"
    if found.outcome is Outcome.WAITING:
        return f"{device}: does not serve {title} after {wait_s:g} s: {reason}"
    if serves(made.desired, made.device.reported):
        return f"{device}: serves {title} already"
    fetched_bytes, update_s = cost(made, found)
    return f"{device}: serves {title} after {update_s:.1f} s, {size(fetched_bytes)} fetched"


def notice(found: Notice, clock: str) -> str:
    """One line. What the broker had kept is marked, because it may be old."""
    when = "earlier" if found.retained else clock
    said = found.message
    if said is None:
        text = f"unreadable: {found.unreadable}"
    elif isinstance(said, Online):
        text = "online" if said.online else "offline"
    elif isinstance(said, Reported):
        text = f"{busy(said)}; serving {_bundle(said.active)}"
        if said.agent is not None and said.agent.state not in ("", "idle"):
            text += f"; agent {said.agent_version}: {agent_rollout.busy(said.agent)}"
        if said.accelerator is not None and said.accelerator.degraded:
            text += f"; DEGRADED: {said.accelerator.degraded}"
    elif isinstance(said, Event):
        text = f"{said.kind}: {said.text}"
    else:
        text = _telemetry(said)
    return f"{when:8} {found.device:16} {found.kind:9} {plain(text)}"


def _telemetry(said: Telemetry) -> str:
    words = [f"{said.requests} requests", f"{said.errors} errors"]
    total_ms = said.latency.get("sum_ms")
    if said.requests and isinstance(total_ms, (int, float)):
        words.append(f"mean {total_ms / said.requests:.1f} ms")
    rss = [value for name, value in said.gauges.items() if name.endswith("_rss_bytes")]
    if rss:
        words.append(f"RSS {size(sum(rss))}")
    hot = [value for name, value in said.gauges.items() if name.startswith("temp_c")]
    if hot:
        words.append(f"{max(hot):.0f} °C")
    return ", ".join([*words, f"up {said.uptime_s:.0f} s"])


def answers(asked: Sequence[str], result: InferResult) -> list[str]:
    """A line for each input: label, score and what was asked; of another task, JSON."""
    lines = []
    for text, found in zip(asked, result.results, strict=True):
        label, score = found.get("label"), found.get("score")
        if isinstance(label, str) and isinstance(score, (int, float)):
            lines.append(f"{plain(label)}\t{score:.3f}\t{plain(text, 72)}")
        else:
            lines.append(json_line(found))
    return lines
