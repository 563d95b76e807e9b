"""How other threads reach the supervisor's one: a queue, and a descriptor that its loop watches.

The loop may be busy for seconds, while a large bundle is verified. What strangers may send without
end is bounded meanwhile, in number and in bytes. And it never gives more than a slice of its time
to what waits here: work that brings new work must not keep it from everything else.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from edge_runtime.link.waker import Waker

SLICE_S = 0.1


class Allowance:
    """How much of one kind may wait at a time; an `Inbox` keeps the account."""

    __slots__ = ("calls", "max_bytes", "max_calls", "size_bytes")

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self.calls = 0
        self.size_bytes = 0

    def takes(self, size_bytes: int) -> bool:
        """Whether one more of `size_bytes` may wait."""
        return self.calls < self.max_calls and self.size_bytes + size_bytes <= self.max_bytes

    def count(self, calls: int, size_bytes: int) -> None:
        """That many calls and bytes more wait, or less."""
        self.calls += calls
        self.size_bytes += size_bytes


class Inbox:
    """Calls to be made on the loop's thread, in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waker = Waker()
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[], None], Allowance | None, int]] = deque()
        self._latest: dict[str, Callable[[], None]] = {}

    def fileno(self) -> int:
        """For a selector: readable while something waits."""
        return self._waker.fileno()

    def put(
        self, call: Callable[[], None], within: Allowance | None = None, size_bytes: int = 0
    ) -> bool:
        """Queue `call`, which holds `size_bytes`; False where `within` has no room for it."""
        with self._lock:
            if within is not None:
                if not within.takes(size_bytes):
                    return False
                within.count(1, size_bytes)
            self._calls.append((call, within, size_bytes))
        self._waker.set()
        return True

    def put_latest(self, name: str, call: Callable[[], None]) -> None:
        """Queue `call` in the place of one of that name that still waits: only the last counts."""
        with self._lock:
            waits = name in self._latest
            self._latest[name] = call
        if not waits:
            self.put(lambda: self._call_latest(name))

    def _call_latest(self, name: str) -> None:
        with self._lock:
            call = self._latest.pop(name)
        call()

    def take(self, slice_s: float = SLICE_S) -> Iterator[Callable[[], None]]:
        """What waits now, for about `slice_s`: the call under way when it ends is the last.

        What comes meanwhile, and what is left, waits for the next turn.
        """
        self._waker.clear()
        end_s = self._clock() + slice_s
        left = len(self._calls)
        try:
            while left:
                left -= 1
                with self._lock:
                    call, within, size_bytes = self._calls.popleft()
                    if within is not None:
                        within.count(-1, -size_bytes)
                yield call
                if self._clock() >= end_s:
                    return
        finally:
            if left:
                self._waker.set()

    def close(self) -> None:
        """Free the descriptors."""
        self._waker.close()
