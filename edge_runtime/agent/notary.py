"""The notary: a process that follows signed metadata, says whether one release is signed, and ends.

It reads what strangers wrote with native cryptography, and needs 30 MB for a moment. The supervisor
shall neither crash of it nor keep it, so it runs beside, within limits of its own.

Sources are asked in order, until one has metadata that can be followed and that vouches for the
release. What the broker keeps comes through the supervisor, which holds the connection. Where no
source can be followed, the metadata already here decides, as long as it has not expired: a device
without a network takes a bundle from a stick that way.

Nothing but `edge_runtime.agent.trust` starts it. The state folder is the supervisor's, which waits
for this process before it ends.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ctypes
import logging
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_runtime.agent.order import Question
from edge_runtime.bundle import durable
from edge_runtime.errors import (
    DeviceError,
    EdgeError,
    IncompatibleError,
    InputError,
    MetadataError,
    TransferError,
    UntrustedError,
)
from edge_runtime.fields import Fields
from edge_runtime.link.address import TlsFiles
from edge_runtime.link.repository import open_repository
from edge_runtime.messages.fleet import Release
from edge_runtime.messages.worker import Frame, FrameReader, Given, Need, Verdict, to_frame
from edge_runtime.update.clock import Clock
from edge_runtime.update.trust.client import MAX_ROOT_BYTES, Client, Files, Trusted

BROKER = "mqtt"
READ_BYTES = 256 << 10
MAX_DATA_BYTES = 256 << 20
MAX_CPU_S = 120
USUAL_BUDGET_S = 60.0
PR_SET_PDEATHSIG = 1
OUTCOMES: dict[type[EdgeError], str] = {
    UntrustedError: "untrusted",
    IncompatibleError: "untrusted",
    MetadataError: "metadata",
    TransferError: "transfer",
}
"""Of an error; any other is "device"."""


class Timed:
    """`files` until its time is up. One file that is under way is finished.

    Raises:
        TransferError: its time is up.
    """

    def __init__(self, files: Files, budget_s: float) -> None:
        self._files = files
        self._budget_s = budget_s
        self._end_s = time.monotonic() + budget_s

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """As `files` does."""
        if time.monotonic() > self._end_s:
            raise TransferError(f"{name}: not within the {self._budget_s:.0f} s for one source")
        return self._files.read(name, max_bytes)


def decide(
    release: Release,
    folder: Path,
    root: bytes,
    sources: Sequence[tuple[str, Callable[[], Files]]],
    budget_s: float = USUAL_BUDGET_S,
) -> Trusted:
    """What was followed where `release` is signed.

    Args:
        sources: names and openers, asked in order. A stale one vouches for less than the next.

    Raises:
        UntrustedError: metadata was followed, and nobody signed this release.
        MetadataError: metadata came, and was not to be believed.
        TransferError: none came.
        DeviceError: the disk failed.
    """
    faults: list[EdgeError] = []
    for name, opened in sources:
        try:
            return _follow(release, folder, root, Timed(opened(), budget_s))
        except DeviceError:
            raise
        except EdgeError as reason:
            faults.append(type(reason)(f"{name}: {reason}"))
    if all(isinstance(fault, TransferError | MetadataError) for fault in faults):
        with contextlib.suppress(UntrustedError, MetadataError, TransferError):
            return _follow(release, folder, root, Kept(folder))
    # Of several reasons the gravest: that nobody answered says the least.
    for kind in (UntrustedError, MetadataError, EdgeError):
        for fault in faults:
            if isinstance(fault, kind):
                raise fault
    raise TransferError("no source of signed metadata is configured")


def _follow(release: Release, folder: Path, root: bytes, files: Files) -> Trusted:
    client = Client(folder, root, files, Clock(folder / "time.json"))
    trusted = client.refresh()
    client.check(release)
    return trusted


class Kept:
    """The trusted metadata in `folder` as a source, for when there is no other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """By its name in a repository. It is kept without its version, which the client checks."""
        kept = re.fullmatch(r"(?:[0-9]+\.)?([^/]+\.json)", name)
        if kept is None or kept[1] == "root.json":  # Newer roots would have been followed.
            return None
        try:
            return durable.read(self._folder / kept[1], max_bytes + 1)
        except OSError:
            return None


class Broker:
    """What the broker keeps, asked through the supervisor.

    Raises:
        TransferError: the supervisor is gone, or does not know.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reader = FrameReader()

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """One file; waits for it."""
        with contextlib.suppress(OSError):
            send(self._control, Need(name, max_bytes))
            while data := self._control.recv(READ_BYTES):
                for frame in self._reader.feed(data):
                    if isinstance(frame, Given):
                        return _content(frame, name)
        raise TransferError(f"{name}: the supervisor is gone")


def _content(given: Given, name: str) -> bytes | None:
    if given.failure:
        raise TransferError(given.failure)
    if given.data is None:
        return None
    try:
        return base64.b64decode(given.data, validate=True)
    except binascii.Error:
        raise TransferError(f"{name}: garbled on its way through the supervisor") from None


def send(control: socket.socket, frame: Frame) -> None:
    """All of it."""
    control.sendall(to_frame(frame))


def answer(question: Question, control: socket.socket) -> Verdict:
    """The verdict; it is never late for an error."""
    try:
        release = Release.parse(Fields(question.release, "release", UntrustedError))
        root = _read_root(Path(question.root))
        ca = Path(question.ca) if question.ca else None
        sources = [(name, _opener(name, control, ca)) for name in question.sources]
        trusted = decide(release, Path(question.folder), root, sources, question.budget_s)
    except EdgeError as reason:
        outcome = next((o for kind, o in OUTCOMES.items() if isinstance(reason, kind)), "device")
        return Verdict(outcome, str(reason)[:2048])
    except MemoryError:
        return Verdict("metadata", f"signed metadata needs more than {MAX_DATA_BYTES} bytes")
    return Verdict("signed", "", trusted.root_version, trusted.timestamp_version, trusted.time_s)


def _opener(name: str, control: socket.socket, ca: Path | None) -> Callable[[], Files]:
    if name == BROKER:
        return lambda: Broker(control)
    return lambda: open_repository(name, TlsFiles(ca))


def _read_root(path: Path) -> bytes:
    try:
        data = durable.read(path, MAX_ROOT_BYTES + 1)
    except OSError as reason:
        raise InputError(f"trusted root {path}: cannot be read ({reason.strerror})") from None
    if len(data) > MAX_ROOT_BYTES:
        raise InputError(f"trusted root {path}: larger than {MAX_ROOT_BYTES} bytes")
    return data


def _limit() -> None:
    """What a hostile file may cost at most; too low a limit of the system's stays as it is."""
    for what, most in ((resource.RLIMIT_DATA, MAX_DATA_BYTES), (resource.RLIMIT_CPU, MAX_CPU_S)):
        _, hard = resource.getrlimit(what)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, hard))


def _with_parent(supervisor: int) -> bool:
    """End when the supervisor does: the next one has a notary of its own in the same folder."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == supervisor


def main(argv: Sequence[str]) -> int:
    """`edge_runtime.agent.notary QUESTION`; the verdict goes to the supervisor."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="notary: %(message)s")
    _limit()
    question = Question.from_argument(argv[0])
    if not _with_parent(question.supervisor):
        return 1
    with socket.socket(fileno=question.control) as control:
        verdict = answer(question, control)
        with contextlib.suppress(OSError):  # The supervisor is gone: nobody waits for it.
            send(control, verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
