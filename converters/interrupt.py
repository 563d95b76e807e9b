"""Ctrl-C during a run: remembered, because toolchains swallow it.

Exporters hold a bare `except` here and there, and callbacks from C++ lose what is raised in them.
For the length of a run the handler therefore raises KeyboardInterrupt, as Python's own does, and
remembers that it did; whoever finishes a step asks. The process's handler is the only state.
While a module is imported it waits: native modules abort the process when they are interrupted.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

RETRY_S = 0.1


class _Remembering:
    """A handler of SIGINT, and of the SIGALRM with which it tries again after an import."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again = self.seen and number == signal.SIGINT
        self.seen = True
        if _importing(frame) and not again:
            signal.setitimer(signal.ITIMER_REAL, RETRY_S)
            return
        raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether `frame` runs inside an import."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def remembered_interrupts() -> Iterator[None]:
    """Remember interrupts inside the block; whatever fails after one is that interrupt.

    Where SIGINT is ignored, as behind `nohup`, and outside the main thread nothing changes.

    Raises:
        KeyboardInterrupt: there was one, whatever a toolchain made of it.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return
    handler = _Remembering()
    signal.signal(signal.SIGINT, handler)
    alarm = signal.signal(signal.SIGALRM, handler)
    try:
        try:
            yield
        except Exception:
            stop_if_interrupted()
            raise
        stop_if_interrupted()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, before)


def interrupted() -> bool:
    """Whether there was an interrupt since `remembered_interrupts` began."""
    handler = signal.getsignal(signal.SIGINT)
    return isinstance(handler, _Remembering) and handler.seen


def stop_if_interrupted() -> None:
    """Raise the interrupt again that somebody swallowed."""
    if interrupted():
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt from None
