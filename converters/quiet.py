"""Hold back what third-party toolchains print, so that our own words can be read.

Exporters and quantizers print progress bars, warnings about themselves and C++ log lines to the
process's stderr. `quiet` catches them all for the length of a block, and gives them back only when
the block fails, because then they are evidence. An EdgeError says what failed itself, and an
interrupt is no failure.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import TextIO

from converters.interrupt import interrupted
from edge_runtime.errors import EdgeError

TAIL_BYTES = 4000


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Catch stdout, stderr (of C++ too), warnings and log records up to ERROR.

    Our own progress is drawn on a duplicate of stderr, see `progress`, and stays visible.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    before = logging.root.manager.disable
    with tempfile.TemporaryFile() as sink, _caught(sink.fileno()) as text:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        logging.disable(logging.ERROR)
        failed = True
        try:
            with (
                contextlib.redirect_stdout(text),
                contextlib.redirect_stderr(text),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
            failed = False
        except (EdgeError, KeyboardInterrupt):
            failed = False
            raise
        finally:
            text.flush()
            sys.stdout.flush()
            sys.stderr.flush()
            logging.disable(before)
            for target, source in zip((1, 2), kept, strict=True):
                os.dup2(source, target)
                os.close(source)
            if failed and not interrupted():
                _give_back(sink.fileno())


class _Stream(io.TextIOBase):
    """What stands in for Python's streams in a block, and goes to the real stderr after it.

    A library that is first imported in a block hangs its log handler on what stderr is then, and
    keeps it for good: so this is never closed.
    """

    def __init__(self, sink: TextIO) -> None:
        self._sink: TextIO | None = sink

    def release(self) -> None:
        """From now on, stderr."""
        self._sink = None

    def _target(self) -> TextIO:
        if self._sink is not None:
            return self._sink
        current: object = sys.stderr
        return sys.__stderr__ if current is self and sys.__stderr__ else sys.stderr

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return self._target().write(text)

    def flush(self) -> None:
        self._target().flush()

    def fileno(self) -> int:
        return self._target().fileno()

    def close(self) -> None:
        """Nothing: a handler may still hold it."""


@contextlib.contextmanager
def _caught(sink: int) -> Iterator[_Stream]:
    """A stream that ends in `sink`, for what Python writes where its own are not 1 and 2."""
    with os.fdopen(os.dup(sink), "w", encoding="utf-8", errors="replace") as text:
        stream = _Stream(text)
        try:
            yield stream
        finally:
            stream.release()


def _give_back(sink: int) -> None:
    """The end of what was caught, to the real stderr."""
    size = os.lseek(sink, 0, os.SEEK_END)
    os.lseek(sink, max(0, size - TAIL_BYTES), os.SEEK_SET)
    os.write(2, os.read(sink, TAIL_BYTES))
