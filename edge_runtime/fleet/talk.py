"""What a person sees on stderr while a command works: warnings, a bar, who is how far.

Where stderr is no terminal, nothing moves: warnings and changes are lines, bars are left out.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from edge_runtime.fleet.publish import OnProgress
from edge_runtime.fleet.rollout import Outcome, Verdict
from edge_runtime.text import plain

STYLES = {Outcome.SERVING: "green", Outcome.REFUSED: "red", Outcome.WAITING: "yellow"}
MAX_LINE = 2000


def say(text: str) -> None:
    """One line."""
    sys.stderr.write(plain(text, MAX_LINE) + "\n")
    sys.stderr.flush()


class Warnings(logging.Handler):
    """Says what the library warns of, once there is a connection.

    Before, a failing connection is the command's own error, said once, at the end.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(logging.WARNING)
        self.connected = False
        self._prog = prog

    def emit(self, record: logging.LogRecord) -> None:
        """One line; `reason` and `topics` are what the link adds to its messages."""
        if not self.connected:
            return
        more = [getattr(record, key, "") for key in ("topics", "reason")]
        text = ": ".join([record.getMessage(), *(str(word) for word in more if word)])
        say(f"{self._prog}: warning: {text}")


@contextlib.contextmanager
def warnings(prog: str) -> Iterator[Warnings]:
    """The library's warnings on stderr while the block runs."""
    logger, handler = logging.getLogger("edge_runtime"), Warnings(prog)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


def _console() -> Console:
    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def busy(title: str) -> Iterator[None]:
    """A spinner, on a terminal."""
    console = _console()
    with console.status(Text(title)) if console.is_terminal else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def bar(title: str) -> Iterator[OnProgress]:
    """A bar of bytes, on a terminal; it only moves until the first progress is known."""
    console = _console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextlib.contextmanager
def following(
    devices: Sequence[str], *, outcomes: bool
) -> Iterator[Callable[[str, Verdict], None]]:
    """Who is how far: a table that changes and goes away in the end, or a line for each change.

    Lines tell of `outcomes` only where nothing else does.
    """
    found: dict[str, Verdict | None] = dict.fromkeys(devices)

    def table() -> Table:
        rows = Table.grid(padding=(0, 2))
        for device, how in found.items():
            word = how.outcome.value if how is not None else "waiting"
            style = STYLES[how.outcome] if how is not None else "yellow"
            reason = plain(how.reason, 120) if how is not None else ""
            rows.add_row(Text(device), Text(word, style), Text(reason))
        return rows

    console = _console()
    if not console.is_terminal:

        def tell(device: str, how: Verdict) -> None:
            if outcomes or how.outcome is Outcome.WAITING:
                say(f"{device}: {how.outcome.value} {how.reason}".rstrip())

        yield tell
        return
    with Live(table(), console=console, transient=True) as live:

        def change(device: str, how: Verdict) -> None:
            found[device] = how
            live.update(table())

        yield change
