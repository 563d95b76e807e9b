"""Where an image is made: the file that was named, the one it grows in, and a folder for the rest.

The name is looked at before a byte is unpacked: no disk, no folder and not the image that is read
is ever replaced. What was begun goes, whatever happens; a signal that ends the session included.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.text import plain

_ENDING = (signal.SIGTERM, signal.SIGHUP)


def demand_target(out: Path, image: Path, *, force: bool) -> None:
    """That `out` may be made of `image`; with `force` in place of a file that is there.

    Raises:
        InputError: it is something else, the image itself, or there without `force`.
    """
    where = plain(str(out))
    try:
        found = out.stat()
    except FileNotFoundError:
        return
    except OSError as reason:
        raise InputError(f"{where}: cannot be made ({reason.strerror})") from None
    if stat.S_ISBLK(found.st_mode):
        raise InputError(f"{where}: is a disk; --to writes one")
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a device or a pipe"
        raise InputError(f"{where}: is {what}, expected the name of a file")
    with contextlib.suppress(OSError):  # Whether the image can be read, `source` says.
        if os.path.samestat(found, image.stat()):
            raise InputError(f"{where}: is the image that is read, expected another file")
    if not force:
        raise InputError(f"{where}: exists; --force replaces it")


@contextlib.contextmanager
def making(out: Path) -> Iterator[tuple[Path, Path]]:
    """The file to make beside `out`, and a folder for what is needed meanwhile; both go.

    Raises:
        DeviceError: a disk is full, may not be written, or fails.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with scratch() as folder:
            yield part, folder
    except OSError as reason:
        raise DeviceError(
            f"{plain(str(out))}: cannot be made ({reason.strerror or reason}) in "
            f"{plain(str(out.parent))}, with {tempfile.gettempdir()} for files in between"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(parent: str | None = None) -> Iterator[Path]:
    """A folder for a while, in `parent` or where such folders usually are.

    Raises:
        DeviceError: it cannot be made.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="edge-flash-", dir=parent)
    except OSError as reason:
        where = plain(parent or os.environ.get("TMPDIR") or "/tmp")
        raise DeviceError(
            f"{where}: no folder can be made in it ({reason.strerror or reason}); TMPDIR names "
            "another place"
        ) from None
    with made as name:
        yield Path(name)


@contextlib.contextmanager
def ended_cleanly() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP, a lost session's, end the process as Ctrl-C does.

    What was begun holds keys and a passphrase. A signal that is ignored, by nohup, stays so.
    """

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        for one in _ENDING:  # Nothing interrupts the cleaning up.
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {one: signal.getsignal(one) for one in _ENDING}
    try:
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, end)
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
