"""The agent's log: one line to stderr for each happening, its keys stable, for people and journald.

2026-11-24T05:00:00Z info supervisor: worker started bundle=demo pid=4711
"""

from __future__ import annotations

import logging
import sys
import time

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


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
        return line.replace("\n", " ") + extras


def _word(value: object) -> str:
    """A value that stays one word, quoted where it would not."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "\"'=" for c in text) else text


def configure(level: str, process: str) -> None:
    """Send everything at `level` and above to stderr. Once, at the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Line(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A reader that went away must not make us fail, nor fill anything with complaints.
    logging.raiseExceptions = False
