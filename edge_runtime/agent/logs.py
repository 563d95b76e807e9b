"""The agent's log: one line to stderr for each happening, its keys stable, for people and journald.

2026-11-24T05:00:00Z info supervisor: worker started bundle=demo pid=4711

Where stderr is the journal itself, it has the time already, and takes the level at the head of each
line as a priority: `journalctl -p warning -u edge-agent` (sd-daemon(3), systemd.exec(5)).

Messages, values and tracebacks quote strangers: a broker, a bundle, a library. Nothing that acts on
a terminal leaves this module.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from edge_runtime.text import MAX_ERROR, plain

MAX_LINE = 4 * MAX_ERROR
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)
"""From which level on, a line has which of syslog's priorities."""


class Line(logging.Formatter):
    """Time, level, process and message, then the extras as key=value."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process}: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, without a traceback."""
        line = super().formatMessage(record).replace(record.levelname, record.levelname.lower(), 1)
        extras = "".join(
            f" {key}={_word(value)}"
            for key, value in record.__dict__.items()
            if key not in _STANDARD and value is not None
        )
        return plain(line + extras, MAX_LINE)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """The traceback, whose last lines quote the error."""
        return _lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Where the line was logged."""
        return _lines(super().formatStack(stack_info))


class JournalLine(Line):
    """The same without the time, each line with its priority: the journal takes them one by one."""

    def __init__(self, process: str) -> None:
        super().__init__(process)
        self._style = logging.PercentStyle(f"%(levelname)s {process}: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One entry of the journal for each line."""
        priority = next((p for level, p in PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def _word(value: object) -> str:
    """A value that stays one word, quoted where it would not."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    needs_quotes = not text.isprintable() or any(c in " \"'=" for c in text)
    return repr(text) if not text or needs_quotes else text


def _lines(text: str) -> str:
    return "\n".join(plain(line, MAX_ERROR) for line in text.split("\n"))


def configure(level: str, process: str) -> None:
    """Send everything at `level` and above to stderr. Once, at the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalLine(process) if is_journal() else Line(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A reader that went away must not make us fail, nor fill anything with complaints.
    logging.raiseExceptions = False


def is_journal(descriptor: int = 2, environment: Mapping[str, str] | None = None) -> bool:
    """Whether `descriptor` leads to the journal: the file is the one that systemd says it is.

    The variable alone says nothing: whatever starts us may have sent our stderr elsewhere since.
    """
    told = (os.environ if environment is None else environment).get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return told == f"{found.st_dev}:{found.st_ino}"
