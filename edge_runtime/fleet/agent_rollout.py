"""The agent's own release to named devices: what `rollout` does for bundles. Pure.

It stands in the same desired state, beside the bundle, which stays as it is. On a device of which
nobody has desired a bundle yet, nothing is said of one: it keeps what it was given by hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.fleet.inventory import Device
from edge_runtime.fleet.rollout import Outcome, Plan, Verdict, next_revision, refusal_of
from edge_runtime.messages.fleet import (
    Desired,
    DesiredAgent,
    Release,
    Reported,
    ReportedAgent,
)


def platform_of(device: Device) -> str:
    """What releases of its agent are made for; empty where it has reported nothing yet.

    Raises:
        InputError: its agent was not installed from the package, and does not update itself.
    """
    reported = device.reported
    if reported is None:
        return ""
    if reported.agent is None:
        raise InputError(
            f"device {device.id}: its agent ({reported.agent_version or 'an old one'}) does not "
            "update itself, as one that was installed from the package edge-agent does; "
            "nothing was deployed"
        )
    return reported.agent.platform


def plan(device: Device, release: Release, *, retry: bool = False) -> Plan:
    """The desired state that brings the agent's `release` to `device`."""
    current = device.desired
    reported = device.reported
    stands = reported.agent if reported is not None else None
    wish = current.agent if current is not None else None
    same = wish is not None and wish.release == release
    attempt = wish.attempt if wish is not None and same else 0
    refusal = refusal_of(stands.refused if stands is not None else (), release.ref)
    if retry:
        attempt = max(attempt, refusal.attempt if refusal is not None else 0) + 1
    warnings = list(_warnings(device, release))
    if refusal is not None and refusal.attempt >= attempt:
        warnings.append(
            f"has refused this agent before ({refusal.reason}); --retry makes it try again"
        )
    if current is not None and wish is not None and same and attempt == wish.attempt:
        return Plan(device, current, changed=False, warnings=tuple(warnings))
    seen = [current.revision if current is not None else 0]
    seen += [reported.revision] if reported is not None else []
    seen += [stands.revision] if stands is not None else []
    base = current or Desired(0, None, keeps=True)
    desired = dataclasses.replace(
        base, revision=next_revision(max(seen)), agent=DesiredAgent(release, attempt)
    )
    return Plan(device, desired, changed=True, warnings=tuple(warnings))


def _warnings(device: Device, release: Release) -> Iterable[str]:
    if not device.known:
        yield "has never been on this broker; the desired state waits for it"
    elif device.online is False:
        yield "is offline; the desired state waits for it"
    stands = device.reported.agent if device.reported is not None else None
    if stands is not None and stands.platform != release.profile:
        yield f"is {stands.platform}, the release is for {release.profile}"


def verdict(desired: Desired, reported: Reported | None) -> Verdict:
    """Where the device that says `reported` stands with the agent that `desired` names."""
    if reported is None:
        return Verdict(Outcome.WAITING, "it has not reported anything")
    stands, wish = reported.agent, desired.agent
    if stands is None or wish is None:
        return Verdict(Outcome.WAITING, "its agent does not update itself")
    if runs(desired, reported):
        return Verdict(Outcome.SERVING, reported=reported)
    if stands.revision < desired.revision:
        return Verdict(Outcome.WAITING, "it has not seen its new desired state")
    refusal = refusal_of(stands.refused, wish.release.ref)
    if refusal is not None and refusal.attempt >= wish.attempt:
        return Verdict(Outcome.REFUSED, refusal.reason, reported)
    return Verdict(Outcome.WAITING, busy(stands), reported)


def runs(desired: Desired, reported: Reported | None) -> bool:
    """Whether the agent that `desired` names runs, and is past its trial."""
    stands = reported.agent if reported is not None else None
    if stands is None or desired.agent is None:
        return False
    digest = desired.agent.release.manifest.sha256
    active = stands.active.manifest_sha256 if stands.active is not None else ""
    return digest == active == stands.running


def busy(stands: ReportedAgent) -> str:
    """What it does about it, in its words; to activate is to start the new one and watch it."""
    words = stands.state.replace("_", " ")
    if stands.progress is not None:
        words += f", {stands.progress.chunks_held} of {stands.progress.chunks_needed} chunks"
    return f"{words} ({stands.reason})" if stands.reason else words


def line(title: str, made: Plan, found: Verdict | None, wait_s: float) -> str:
    """One device's part, for people; `found` None: nobody followed it."""
    device = made.device.id
    if found is None:
        wants = "now wants" if made.changed else "wanted already"
        return f"{device}: {wants} {title} (revision {made.desired.revision})"
    match found.outcome:
        case Outcome.REFUSED:
            return f"{device}: refused {title}: {found.reason}"
        case Outcome.WAITING:
            return f"{device}: does not run {title} after {wait_s:g} s: {found.reason}"
        case _:
            already = " already" if runs(made.desired, made.device.reported) else ""
            return f"{device}: runs {title}{already}"


def as_json(made: Plan, found: Verdict | None) -> dict[str, Json]:
    """The same for scripts."""
    wish = made.desired.agent
    return {
        "device": made.device.id,
        "profile": wish.release.profile if wish is not None else None,
        "revision": made.desired.revision,
        "attempt": wish.attempt if wish is not None else 0,
        "changed": made.changed,
        "warnings": list(made.warnings),
        "outcome": found.outcome.value if found is not None else None,
        "reason": found.reason if found is not None else "",
    }
