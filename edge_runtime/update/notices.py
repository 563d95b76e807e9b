"""What people hear of an update: log lines, events, and the status, which is not sent too often."""

from __future__ import annotations

import dataclasses
import logging

from edge_runtime.update import lifecycle as on
from edge_runtime.update.host import Host
from edge_runtime.update.lifecycle import Event
from edge_runtime.update.policy import Policy
from edge_runtime.update.record import Record, Status

log = logging.getLogger(__name__)

KINDS: dict[type[Event], str] = {
    on.Wanted: "update-started",
    on.Unwanted: "bundle-removed",
    on.Withdrawn: "update-withdrawn",
    on.Refused: "bundle-refused",
    on.Stalled: "update-stalled",
    on.Activated: "bundle-activated",
    on.TrialPassed: "bundle-good",
    on.Crashed: "worker-failed",
    on.Condemned: "rolled-back",
}
"""Lifecycle events that the operator hears of, and the `kind` under which."""


class Notices:
    """Speaks to the host; remembers what it said last."""

    def __init__(self, host: Host, policy: Policy) -> None:
        self._host = host
        self._policy = policy
        self._said: Status | None = None
        self._again_s = 0.0
        self._metadata = ""

    def transition(self, event: Event, before: Record, after: Record) -> None:
        """One log line for each transition, and an event for those that an operator minds."""
        if isinstance(event, on.Condemned | on.Crashed | on.TrialPassed):
            about = before.active
        else:
            about = before.candidate or after.candidate or before.active
        bundle = f"{about.name} {about.version}" if about else "no bundle"
        name = type(event).__name__
        log.info("update: %s", name, extra={"bundle": bundle, "state": after.state.value})
        kind = KINDS.get(type(event))
        if kind is not None:
            reason: str = getattr(event, "reason", "")
            text = f"{bundle}: {reason}" if reason else bundle
            digest = about.manifest_sha256 if about else None
            self._host.event(kind, text, {"manifest_sha256": digest, "reason": reason})

    def metadata(self, reason: str) -> None:
        """Signed metadata is not believed. Once for each reason: an update tries again and again.

        Said anew after the next start, or after another reason.
        """
        if reason != self._metadata:
            self._metadata = reason
            self.warn("metadata-refused", reason)

    def warn(self, kind: str, text: str) -> None:
        """Something that is no transition."""
        log.warning("%s: %s", kind, text)
        self._host.event(kind, text, {})

    def report(self, status: Status, now_s: float) -> None:
        """At once where anything but progress changed, else every `report_s`."""
        if status == self._said:
            return
        if self._said is not None and now_s < self._again_s:
            moved = dataclasses.replace(
                self._said, progress=status.progress, fetched_bytes=status.fetched_bytes
            )
            if status == moved and status.progress is not None:
                return
        self._said = status
        self._again_s = now_s + self._policy.report_s
        self._host.report(status)

    def due_s(self, status: Status) -> float | None:
        """When `report` has something to send, or None."""
        return self._again_s if status != self._said else None
