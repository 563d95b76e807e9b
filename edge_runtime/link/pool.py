"""A few threads that fetch chunks out of a repository, for one who only says what is wanted.

A chunk is handed on only if it is the one that its name says; everything else is a failure, told
with its reason, and what follows from it is for others to decide. Threads start when there is work
and end when there has been none for a while. They are daemons: a network drive whose server is
gone may hold one for ever, and must not hold the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum

from edge_runtime.bundle.files import sha256_hex
from edge_runtime.errors import EdgeError
from edge_runtime.link.repository import Repository

log = logging.getLogger(__name__)

THREADS = 4
IDLE_S = 5.0
MAX_WANTED = 1000

OnChunk = Callable[[str, bytes], None]
OnFailed = Callable[[str, str], None]
"""Both are called on the pool's threads, several at a time, and must return soon."""


class _Wish(Enum):
    """What is to become of a chunk that is being fetched."""

    KEEP = "hand it on"
    AGAIN = "hand it on; if it fails, fetch it once more, for it was wanted anew"
    DROP = "nobody wants it"


class ChunkPool:
    """Chunks of one repository. What is wanted is fetched once, or fails once; then it is over."""

    def __init__(
        self,
        repository: Repository,
        on_chunk: OnChunk,
        on_failed: OnFailed,
        *,
        threads: int = THREADS,
        idle_s: float = IDLE_S,
    ) -> None:
        self._repository = repository
        self._on_chunk = on_chunk
        self._on_failed = on_failed
        self._max_threads = threads
        self._idle_s = idle_s
        self._changed = threading.Condition()
        self._queue: dict[str, None] = {}  # Digests, in the order in which they were wanted.
        self._under_way: dict[str, _Wish] = {}
        self._threads: set[threading.Thread] = set()
        self._closed = False

    @property
    def running(self) -> int:
        """How many threads there are now."""
        return len(self._threads)

    def want(self, digests: Sequence[str]) -> None:
        """Fetch these; one that is being fetched is left to come, and one that came comes again.

        Raises:
            RuntimeError: more is wanted at a time than any window holds.
        """
        with self._changed:
            if self._closed:
                return
            for digest in digests:
                if digest in self._under_way:
                    self._under_way[digest] = _Wish.AGAIN
                else:
                    self._queue[digest] = None
            if len(self._queue) > MAX_WANTED:
                raise RuntimeError(f"{len(self._queue)} chunks are wanted at a time")
            self._changed.notify(len(digests))
            lacking = len(self._queue) + len(self._under_way) - len(self._threads)
            for _ in range(min(lacking, self._max_threads - len(self._threads))):
                self._start_thread()

    def drop(self, digests: Sequence[str]) -> None:
        """Nobody waits for these any more: neither a chunk nor a failure is told of them."""
        with self._changed:
            for digest in digests:
                self._queue.pop(digest, None)
                if digest in self._under_way:
                    self._under_way[digest] = _Wish.DROP

    def close(self, timeout_s: float = 2.0) -> None:
        """End, and the repository with it; wait for the threads, but not longer than that."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._under_way = dict.fromkeys(self._under_way, _Wish.DROP)
            self._changed.notify_all()
            threads = list(self._threads)
        self._repository.close()
        end_s = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(end_s - time.monotonic(), 0.0))

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="chunks", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            log.warning("no thread to fetch chunks with, %d at work", len(self._threads))
        else:
            self._threads.add(thread)

    def _work(self) -> None:
        try:
            while (digest := self._next()) is not None:
                self._fetch(digest)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
            self._repository.rest()

    def _next(self) -> str | None:
        """What to fetch now; None: end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed, self._idle_s)
            if self._closed or not self._queue:
                # Under the same lock, so that `want` does not count on a thread that ends.
                self._threads.discard(threading.current_thread())
                return None
            digest = next(iter(self._queue))
            del self._queue[digest]
            self._under_way[digest] = _Wish.KEEP
            return digest

    def _fetch(self, digest: str) -> None:
        data, reason = None, f"{self._repository.address}: does not have it"
        try:
            data = self._repository.chunk(digest)
        except EdgeError as error:
            reason = str(error)
        except Exception as error:
            # A fault of ours: nothing that a server sends may end the thread and the update.
            log.exception("chunk cannot be fetched", extra={"sha256": digest})
            reason = f"{self._repository.address}: {type(error).__name__}"
        if data is not None and sha256_hex(data) != digest:
            data, reason = None, f"{self._repository.address}: has other bytes under its name"
        with self._changed:
            wish = self._under_way.pop(digest)
            if data is None and wish is _Wish.AGAIN:
                self._queue[digest] = None
                return
        if wish is not _Wish.DROP:
            self._tell(digest, data, reason)

    def _tell(self, digest: str, data: bytes | None, reason: str) -> None:
        try:
            if data is not None:
                self._on_chunk(digest, data)
            else:
                self._on_failed(digest, reason)
        except Exception:
            log.exception("handler failed", extra={"sha256": digest})
