"""Faults in the file system: a device is killed at a call, or the call fails; call after call.

Each case begins with the same state folder, in which one bundle is good and another kept to fall
back on, and brings in a third. After the fault the device is started again without one. A device
that was killed is also told to run yet another bundle instead: nothing of the first may stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.reliability import state, strace
from tests.reliability.case import LEFT_OVER, Case, Ending, Kind, Setting
from tests.reliability.repository import Bundle, Repository
from tests.reliability.strace import Call, Fault, Run

KILL = Fault("signal=KILL")
NO_SPACE = Fault("error=ENOSPC")
DISK_FULL = Fault("error=ENOSPC", lasting=True)
IO_ERROR = Fault("error=EIO")
SPACE = ("write", "fsync", "fdatasync", "mkdir", "mkdirat", "rename", "renameat", "symlink")
MEMORY_ONLY = ("ioctl", "lseek", "fcntl")
"""Calls on a file that no disk can fail: KILL alone is put there."""
CRASH = "--crash-in-trial"


@dataclass(frozen=True)
class Story:
    """An update: what is in `base`, what is desired, how the device's worker behaves."""

    name: str
    base: Path
    repository: Repository
    before: Bundle | None
    wanted: Bundle
    other: Bundle
    last: Bundle
    options: tuple[str, ...] = ()

    @property
    def may_serve(self) -> set[str]:
        """Manifest digests."""
        return {self.before.digest, self.wanted.digest} if self.before else set()

    def run(self, folder: Path, made: Bundle, *, attempt: int = 0, crash: bool = True) -> Run:
        """Start the device and let it update to `made`; without a `crash`, if need be."""
        desired = self.repository.desire(made, attempt=attempt)
        options = [option for option in self.options if crash or option != CRASH]
        return strace.device(folder, self.repository.root, desired, *options)


class Stories:
    """The updates that are swept, made in a folder."""

    def __init__(self, folder: Path) -> None:
        r = Repository(folder / "repository")
        older, before = (r.bundle(f"{n}.0.0") for n in (1, 2))
        r.sign()
        wanted, other, last = (r.bundle(f"{n}.0.0") for n in (3, 4, 5))
        trust = ("--root", str(r.first_root))
        base, empty = folder / "base", folder / "empty"
        empty.mkdir()
        self.update = Story("update", base, r, before, wanted, other, last, trust)
        self.rollback = Story("rollback", base, r, before, wanted, other, last, (*trust, CRASH))
        self.first = Story("first bundle", empty, r, None, wanted, other, last, trust)
        for made in (older, before):
            run = self.update.run(base, made)
            if run.code != 0 or state.broken(base, {made.digest}, at_rest=True):
                raise RuntimeError(f"no update comes to its end here: {run}")
        # An update then brings new metadata of every kind, a new root as well.
        r.sign(rotate=True)

    def calls(self, story: Story) -> list[Call]:
        """Every call of `story` that touches the state folder."""
        folder = story.base.with_name(f"traced-{story.name.replace(' ', '-')}")
        shutil.copytree(story.base, folder)
        desired = story.repository.desire(story.wanted)
        run = strace.traced(folder, story.repository.root, desired, *story.options)
        if run.code != 0 or not run.calls:
            raise RuntimeError(f"no update comes to its end under strace: {run}")
        return list(run.calls)


@dataclass(slots=True)
class Judged:
    """What became of one case."""

    ending: Ending
    broken: list[str]
    note: str = ""


Sweep = Sequence[tuple[Story, Call, Fault]]


def kill_at_calls(setting: Setting) -> Iterator[Case]:
    """Every call but those of the journal; of the other stories, those that change something."""
    stories = Stories(setting.folder)
    sweep = [(stories.update, c, KILL) for c in stories.calls(stories.update) if not c.journal]
    for story in (stories.first, stories.rollback):
        sweep += [(story, c, KILL) for c in stories.calls(story) if c.changes and not c.journal]
    return _swept(setting, sweep, _killed)


def kill_at_journal(setting: Setting) -> Iterator[Case]:
    """Every call that a write of the journal is made of, in every story."""
    stories = Stories(setting.folder)
    sweep = [
        (story, call, KILL)
        for story in (stories.update, stories.first, stories.rollback)
        for call in stories.calls(story)
        if call.journal
    ]
    return _swept(setting, sweep, _killed)


def no_space(setting: Setting) -> Iterator[Case]:
    """No space for one call, and none from a call on."""
    stories = Stories(setting.folder)
    sweep = []
    for story in (stories.update, stories.first):
        needing = [c for c in stories.calls(story) if c.name in SPACE or "O_CREAT" in c.text]
        sweep += [(story, call, NO_SPACE) for call in needing]
        sweep += [(story, call, DISK_FULL) for call in needing if call.name == "write"]
    return _swept(setting, sweep, _failed)


def io_error(setting: Setting) -> Iterator[Case]:
    """Every call that a disk can fail."""
    stories = Stories(setting.folder)
    calls = [call for call in stories.calls(stories.update) if call.name not in MEMORY_ONLY]
    return _swept(setting, [(stories.update, call, IO_ERROR) for call in calls], _failed)


def _swept(
    setting: Setting, sweep: Sweep, judge: Callable[[Story, Path, Run, Call], Judged]
) -> Iterator[Case]:
    """A few at a time; the folder of a case that went well is removed."""
    chosen = setting.some(sweep)
    setting.expect(len(chosen))

    def case(at: int) -> Case:
        story, call, fault = chosen[at]
        folder = setting.folder / f"case-{at}" / "state"
        shutil.copytree(story.base, folder)
        desired = story.repository.desire(story.wanted)
        run = strace.injected(call, fault, folder, story.repository.root, desired, *story.options)
        what = f"{story.name}: {call}"
        if not call.same(run.hit):
            return Case(what, Ending.OLD, (f"the fault hit another call: {run.hit}",))
        judged = judge(story, folder, run, call)
        if not judged.broken:
            shutil.rmtree(folder.parent)
        what += " and all after it" if fault.lasting else ""
        return Case(what, judged.ending, tuple(judged.broken), judged.note)

    with ThreadPoolExecutor(setting.jobs) as pool:
        yield from pool.map(case, range(len(chosen)))


def _killed(story: Story, folder: Path, run: Run, call: Call) -> Judged:
    broken = [] if run.code == strace.KILLED else [f"exit code {run.code}, expected a kill"]
    broken += state.broken(folder, story.may_serve)
    note = ""
    if call.changes:  # Before any other call the folder is as it is before the next of these.
        # A change of mind after the cut: what was half fetched is of no use any more.
        elsewhere = folder.with_name("elsewhere")
        shutil.copytree(folder, elsewhere)
        other = _restarted(story, elsewhere, story.other, crash=False)
        broken += [f"another bundle then: {fault}" for fault in other.broken]
        note = other.note
    ended = _restarted(story, folder, story.wanted)
    return Judged(ended.ending, [*broken, *ended.broken], note or ended.note)


def _failed(story: Story, folder: Path, run: Run, call: Call) -> Judged:
    """After an error the device goes on by itself, or ends with a sentence and is restarted."""
    broken = state.broken(folder, story.may_serve)
    if "Traceback" in run.log:
        broken.append(f"the device fell over: {run.log.strip().splitlines()[-1]}")
    elif run.code not in (0, 1, 3):
        broken.append(f"exit code {run.code}")
    serving = run.serving()
    while serving and serving[0] is None:
        serving.pop(0)
    if None in serving:
        broken.append(f"nothing served for a while: {run.said}")
    if story.may_serve and not story.may_serve.issuperset(map(str, serving)):
        broken.append(f"another bundle served: {run.said}")
    ended = _restarted(story, folder, story.wanted)
    if run.code == 0 and run.end.get("active") == story.wanted.digest:
        ended.ending = Ending.NEW
    return Judged(ended.ending, [*broken, *ended.broken], ended.note)


def _restarted(story: Story, folder: Path, wanted: Bundle, *, crash: bool = True) -> Judged:
    """Started without a fault: what serves before there is a network, and where it ends."""
    run = story.run(folder, wanted, crash=crash)
    served, broken, ending, note = run.served_offline(), [], Ending.LATER, ""
    if story.before is not None and served not in story.may_serve:
        broken.append(f"after the restart {str(served)[:12]} served")
    if run.code != 0:
        broken.append(f"after the restart: exit code {run.code}, {run.end}, {run.log[-300:]}")
    if run.refused(wanted.digest):
        ending = Ending.OLD
        if story.before is None or run.end.get("active") != story.before.digest:
            broken.append(f"refused, and then: {run.end}")
        run = story.run(folder, wanted, attempt=1, crash=False)
    if run.end.get("active") != wanted.digest:
        broken.append(f"it did not end in the new bundle: {run.end}")
    left = state.broken(folder, {wanted.digest}, at_rest=True)
    if left and all(fault.startswith(state.LEAK) for fault in left):
        # Nothing was pruned since; then the next update must do it.
        note = LEFT_OVER
        last = story.last
        story.run(folder, last, crash=False)
        left = state.broken(folder, {last.digest}, at_rest=True)
    return Judged(ending, [*broken, *left], note)


KINDS = (
    Kind("kill-journal", "SIGKILL at every call of every journal write", kill_at_journal),
    Kind("kill-calls", "SIGKILL at every other file-system call", kill_at_calls),
    Kind("no-space", "ENOSPC from every call that needs space, once and for good", no_space),
    Kind("io-error", "EIO from every file-system call", io_error),
)
