"""The ledger: the record in memory and on disk, and what the disk keeps for its sake.

It owns the journal and the slots. The record changes in memory first and is saved before anything
is done about it; where the disk refuses, the update goes on and saving is tried again. What an
older record on disk needs is kept until then, so a power cut still ends in a bundle that serves.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from edge_runtime.bundle import durable
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.messages.fleet import BundleRef
from edge_runtime.profile import DeviceProfile
from edge_runtime.update import reconcile
from edge_runtime.update.journal import Journal
from edge_runtime.update.lifecycle import Action, Activated, Condemned, Event, State, Unwanted
from edge_runtime.update.notices import Notices
from edge_runtime.update.policy import Policy
from edge_runtime.update.record import Record, advance
from edge_runtime.update.slots import Slots

log = logging.getLogger(__name__)

TRIED = frozenset({State.VERIFYING, State.TESTING, State.ACTIVATING, State.TRIAL})
"""States in which a start of the device counts against the bundle that is tried."""


class Ledger:
    """Of one device, in the folder `state`. `unsaved`: `record` is newer than the disk.

    `lacking`: the active bundle serves without files that the profile asks for. It is found out at
    a start and after a rollback, and not journaled: the disk knows.

    Raises:
        DeviceError: the folder cannot be used at all.
    """

    def __init__(
        self,
        state: Path,
        store: ChunkStore,
        profile: DeviceProfile,
        policy: Policy,
        notices: Notices,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        self.record = Record()
        self.unsaved = self.lacking = False
        self.slots = Slots(state / "manifests", store, profile)
        self._journal = Journal(state / "journal.json")
        self._folder = state
        self._policy = policy
        self._notices = notices
        self._free_bytes = free_bytes or _free_bytes
        self._save_failed = False

    def boot(self) -> None:
        """Take up the record where the journal has it, and conclude what a restart says."""
        record = self._journal.load()
        self.record = record if record is not None else self._from_slots()
        self.forget_lost_previous()
        events = reconcile.since_last_boot(self.record, self.damage, self._policy.max_boots)
        for event in events:
            self._advance(event)
        if self.record.state in TRIED:
            self.record = dataclasses.replace(self.record, boots=self.record.boots + 1)
        self._look_for_files()

    def handle(self, event: Event) -> tuple[Action, ...]:
        """The record after `event`, saved, and what is to be done now.

        Raises:
            RuntimeError: `event` cannot happen in the record's state.
        """
        before, actions = self.record, self._advance(event, told=False)
        self.save()
        self._notices.transition(event, before, self.record)
        if isinstance(event, Activated | Unwanted):
            self.lacking = False
        elif isinstance(event, Condemned):
            self._look_for_files()
        return actions

    def _look_for_files(self) -> None:
        """Whether the active bundle lacks any; the operator hears of it."""
        active = self.record.active
        lost = self.lacks(active) if active is not None else None
        self.lacking = lost is not None
        if lost is not None:
            self._notices.warn("files-missing", f"{lost}; it serves without them")

    def _advance(self, event: Event, *, told: bool = True) -> tuple[Action, ...]:
        before = self.record
        self.record, actions = advance(before, event, self._policy.max_refusals)
        if told:
            self._notices.transition(event, before, self.record)
        return actions

    def amend(self, record: Record) -> None:
        """Goes to disk with the event that it causes, or with the next `save`."""
        self.record = record
        self.unsaved = True

    def save(self) -> bool:
        """Journal the record; whether it is on disk."""
        try:
            self._journal.save(self.record)
        except DeviceError as reason:
            self.unsaved = True
            if not self._save_failed:
                self._save_failed = True
                self._notices.warn("journal-failed", str(reason))
        else:
            self.unsaved = self._save_failed = False
        return not self.unsaved

    def damage(self, bundle: BundleRef) -> str | None:
        """What keeps an installed bundle from being used, or None."""
        return self.slots.damage(bundle.manifest_sha256)

    def lacks(self, bundle: BundleRef) -> str | None:
        """What is missing of an installed bundle that can be used without it, or None."""
        return self.slots.lacks(bundle.manifest_sha256)

    def forget_lost_previous(self) -> Record:
        """The record without a bundle to fall back on that is damaged."""
        record, lost = reconcile.without_lost_previous(self.record, self.damage)
        if lost:
            self.amend(record)
            self._notices.warn("previous-lost", lost)
        return self.record

    def prune(self) -> None:
        """Remove what no bundle of the record needs, unless the disk has an older record."""
        if self.unsaved:
            return
        before = self.record
        r = self.forget_lost_previous()
        if r is not before and not self.save():
            return
        keep = [ref.manifest_sha256 for ref in (r.active, r.previous, r.candidate) if ref]
        try:
            freed_bytes = self.slots.prune(keep)
        except EdgeError as reason:
            log.error("pruning failed: %s", reason)
        else:
            log.info("pruned", extra={"freed_bytes": freed_bytes})

    def make_room(self, needed_bytes: int) -> int:
        """Bytes that the disk lacks for `needed_bytes` and the margin, after pruning if need be."""
        bound = needed_bytes + self._policy.disk_margin_bytes
        if self._free_bytes(self._folder) < bound:
            self.prune()
        return max(bound - self._free_bytes(self._folder), 0)

    def _from_slots(self) -> Record:
        """Without a journal: the latest whole bundle is on trial, the one before it kept."""
        whole = self.slots.whole()
        active = whole[0] if whole else None
        previous = whole[1] if len(whole) > 1 else None
        if self._journal.exists or active is not None:
            found = f"{active.name} {active.version}" if active is not None else "no bundle"
            text = f"the journal is lost; the latest on disk is {found}"
            self._notices.warn("journal-lost", text)
        return Record(active=active, previous=previous, good=active is None)


def _free_bytes(folder: Path) -> int:
    """Of the disk. Raises DeviceError: it does not say."""
    try:
        return durable.insist(lambda: shutil.disk_usage(folder).free)
    except OSError as reason:
        raise DeviceError(f"{folder}: free space is not known ({reason.strerror})") from None
