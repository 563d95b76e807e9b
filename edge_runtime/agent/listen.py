"""`edge-agent listen`: what a bundle hears in a recording or in front of a microphone.

A source is a WAV file, or "-": raw 16-bit little-endian samples of one channel on stdin, at the
rate of the bundle, as `arecord -t raw` writes them. A pipe is taken as a microphone, which waits
for nobody: windows that the model is too slow for are dropped and counted, unless the caller says
that whoever writes can wait. A file can.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from edge_runtime import load
from edge_runtime.errors import InputError
from edge_runtime.inference.microphone import Chunk
from edge_runtime.inference.spotting import Detection
from edge_runtime.inference.streaming import Heard
from edge_runtime.inference.wav import paced, wav_pieces
from edge_runtime.text import json_line, plain

PIPE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to listen. `realtime`: a file is heard as fast as it sounds; `wait`: nothing is dropped.

    The others, where not None, replace what the bundle says.
    """

    realtime: bool = False
    wait: bool = False
    threshold: float | None = None
    hop_ms: float | None = None


def listen(
    bundle: Path,
    source: str,
    out: TextIO,
    wishes: Wishes,
    *,
    variant: str | None,
    profile: str | None,
    as_json: bool,
    told: Callable[[Heard], None],
) -> None:
    """Write each detection as it is made; `told` hears what it was made of, also on an error.

    Raises:
        EdgeError: the bundle does not listen, or the sound cannot be read; says which.
    """
    with ExitStack() as opened:
        file = None if source == "-" else opened.enter_context(_open(source))
        model = opened.enter_context(load(bundle, variant=variant, profile=profile))
        chunks: Iterable[Chunk]
        if file is None:
            live, chunks = _is_pipe(), _stdin()
        else:
            chunks = wav_pieces(file, model.sample_rate)
            live = wishes.realtime
            if wishes.realtime:
                chunks = paced(chunks, model.sample_rate)
        found = model.listen(
            chunks,
            live=live and not wishes.wait,
            threshold=wishes.threshold,
            hop_ms=wishes.hop_ms,
        )
        opened.callback(found.close)
        try:
            for detection in found:
                out.write(_line(detection, as_json=as_json) + "\n")
                out.flush()
        except InputError as reason:
            raise InputError(f"{'stdin' if file is None else source}: {reason}") from None
        finally:
            told(found.heard)


def _open(source: str) -> BinaryIO:
    try:
        return open(source, "rb")
    except OSError as reason:
        raise InputError(f"{source}: cannot be read ({reason.strerror})") from None


def _is_pipe() -> bool:
    return not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)


def _stdin() -> Iterator[bytes]:
    """What comes, as it comes. Not through sys.stdin: Python ends badly while a thread reads it."""
    fd = sys.stdin.fileno()
    while data := os.read(fd, PIPE_BYTES):
        yield data


def summary(heard: Heard) -> str:
    """What a person wants to know at the end."""
    dropped = f"; {heard.dropped} more were dropped, see --wait" if heard.dropped else ""
    return (
        f"{heard.windows} windows in {heard.seconds:.1f} s of sound, {heard.run_ms:.2f} ms "
        f"each{dropped}"
    )


def _line(found: Detection, *, as_json: bool) -> str:
    """One line: JSON, or when it was heard, what, and how surely."""
    if as_json:
        return json_line(found.as_json())
    return (
        f"{found.at_s:.2f} s\t{plain(found.label)}\t{found.score:.3f}\t"
        f"{found.start_s:.2f} to {found.end_s:.2f} s, {found.latency_ms:.0f} ms later"
    )
