"""How other threads reach the supervisor's one: a queue, and a descriptor that its loop watches.

The loop may be busy for seconds, while a large bundle is verified. What strangers may send without
end is bounded meanwhile, in number and in bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from edge_runtime.link.waker import Waker

MAX_REQUESTS = 128
MAX_INBOX_BYTES = 8 << 20


class Inbox:
    """Calls to be made on the loop's thread, in order."""

    def __init__(self) -> None:
        self._waker = Waker()
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[], None], int]] = deque()
        self._latest: dict[str, Callable[[], None]] = {}
        self._requests = 0
        self._request_bytes = 0

    def fileno(self) -> int:
        """For a selector."""
        return self._waker.fileno()

    def put(self, call: Callable[[], None], *, request_bytes: int = 0) -> bool:
        """Queue `call`; False where as many requests (they have `request_bytes`) wait as may."""
        with self._lock:
            if request_bytes:
                waiting_bytes = self._request_bytes + request_bytes
                if self._requests >= MAX_REQUESTS or waiting_bytes > MAX_INBOX_BYTES:
                    return False
                self._requests += 1
                self._request_bytes = waiting_bytes
            self._calls.append((call, request_bytes))
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

    def take(self) -> Iterator[Callable[[], None]]:
        """Everything that waits."""
        self._waker.clear()
        while True:
            with self._lock:
                if not self._calls:
                    return
                call, request_bytes = self._calls.popleft()
                self._requests -= request_bytes > 0
                self._request_bytes -= request_bytes
            yield call

    def close(self) -> None:
        """Free the descriptors."""
        self._waker.close()
