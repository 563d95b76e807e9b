"""What a vendor's library prints while it works: some tell only there what they did and why."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

STREAMS = (1, 2)


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """What is written to stdout and stderr meanwhile, C++ too, as lines; there after the block."""
    lines: list[str] = []
    _flush()
    kept = [os.dup(stream) for stream in STREAMS]
    with tempfile.TemporaryFile() as log:
        for stream in STREAMS:
            os.dup2(log.fileno(), stream)
        try:
            yield lines
        finally:
            _flush()
            for stream, old in zip(STREAMS, kept, strict=True):
                os.dup2(old, stream)
                os.close(old)
            log.seek(0)
            lines += log.read().decode(errors="replace").splitlines()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
