"""How other threads reach the supervisor's one: a queue, and a descriptor that its loop watches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from edge_runtime.link.waker import Waker

MAX_REQUESTS = 128


class Inbox:
    """Calls to be made on the loop's thread, in order."""

    def __init__(self) -> None:
        self._waker = Waker()
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[], None], bool]] = deque()
        self._requests = 0

    def fileno(self) -> int:
        """For a selector."""
        return self._waker.fileno()

    def put(self, call: Callable[[], None], *, request: bool = False) -> bool:
        """Queue `call`; False where as many calls of strangers (`request`) wait as may."""
        with self._lock:
            if request:
                if self._requests >= MAX_REQUESTS:
                    return False
                self._requests += 1
            self._calls.append((call, request))
        self._waker.set()
        return True

    def take(self) -> Iterator[Callable[[], None]]:
        """Everything that waits."""
        self._waker.clear()
        while True:
            with self._lock:
                if not self._calls:
                    return
                call, request = self._calls.popleft()
                self._requests -= request
            yield call

    def close(self) -> None:
        """Free the descriptors."""
        self._waker.close()
