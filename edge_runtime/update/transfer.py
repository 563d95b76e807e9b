"""The transfer: which chunks to ask for now, of all that are wanted. Pure.

Over MQTT asking is subscribing, so only a small window is asked for at a time: that bounds memory
and stays far below the queue at which brokers drop silently. Nothing that arrives is believed: the
caller offers a digest, stores the bytes if it gets a chunk back, and tells how that went. Lost,
spoiled, repeated and unasked-for chunks are counted and cost time, nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from edge_runtime.bundle.files import Chunk
from edge_runtime.errors import TransferError
from edge_runtime.update.policy import Policy, backoff_s


@dataclass(frozen=True, slots=True)
class Orders:
    """Digests to unsubscribe from, then digests to subscribe to."""

    drop: tuple[str, ...] = ()
    want: tuple[str, ...] = ()


@dataclass(slots=True)
class Counters:
    """What came that was of no use."""

    unasked: int = 0
    corrupt: int = 0
    late: int = 0
    useless: int = 0


@dataclass(slots=True)
class _Asked:
    chunk: Chunk
    tries: int
    deadline_s: float


class Transfer:
    """One fetch of `chunks`, each wanted once. It begins paused; `resume` when connected.

    Args:
        tries: how often each is asked for; None: as often as `policy` says.
    """

    def __init__(
        self, chunks: Iterable[Chunk], policy: Policy, random: Random, tries: int | None = None
    ) -> None:
        self._tries = policy.chunk_tries if tries is None else tries
        self._waiting = deque(dict.fromkeys(chunks))
        self._asked: dict[str, _Asked] = {}
        self._policy = policy
        self._random = random
        self._running = False
        self.counters = Counters()
        self.fetched_bytes = 0
        self.fetched_chunks = 0

    @property
    def done(self) -> bool:
        """Whether every chunk was stored."""
        return not self._waiting and not self._asked

    @property
    def remaining(self) -> int:
        """Chunks that have not been stored."""
        return len(self._waiting) + len(self._asked)

    def resume(self, now_s: float) -> Orders:
        """The link is up. What was asked for stays subscribed; its time starts anew."""
        self._running = True
        for asked in self._asked.values():
            asked.deadline_s = now_s + self._patience_s(asked.tries)
        return Orders(want=self._fill(now_s))

    def pause(self) -> None:
        """The link is down: no time runs, no try is spent."""
        self._running = False

    def cancel(self) -> Orders:
        """Ask for nothing any more. What is stored stays stored."""
        orders = Orders(drop=tuple(self._asked))
        self._waiting.clear()
        self._asked.clear()
        return orders

    def offered(self, sha256: str) -> Chunk | None:
        """The chunk to check and store under that digest, or None where it was not asked for."""
        asked = self._asked.get(sha256)
        if asked is None:
            self.counters.unasked += 1
            return None
        return asked.chunk

    def stored(self, sha256: str, now_s: float) -> Orders:
        """The chunk is on disk, or what it was good for: go on to the next.

        What was asked for beside it gets its time anew: on a slow line it is queued behind this
        one, and asking again would queue it twice.
        """
        asked = self._asked.pop(sha256)
        self.fetched_bytes += asked.chunk.size_bytes
        self.fetched_chunks += 1
        for other in self._asked.values():
            other.deadline_s = max(other.deadline_s, now_s + self._patience_s(other.tries))
        return Orders(drop=(sha256,), want=self._fill(now_s))

    def useless(self, sha256: str, now_s: float) -> Orders:
        """It came as it was named and is good for nothing: go on to the next."""
        self.counters.useless += 1
        return self.stored(sha256, now_s)

    def corrupt(self, sha256: str) -> None:
        """What came is not the chunk.

        It is asked for again when its time is up, not at once: a broker that holds spoiled bytes
        would send them for ever.
        """
        if sha256 in self._asked:
            self.counters.corrupt += 1

    def tick(self, now_s: float) -> Orders:
        """Ask again for what is late.

        Raises:
            TransferError: a chunk did not come in the tries allowed.
        """
        if not self._running:
            return Orders()
        late = [asked for asked in self._asked.values() if asked.deadline_s <= now_s]
        for asked in late:
            asked.tries += 1
            self.counters.late += 1
            if asked.tries >= self._tries:
                raise TransferError(
                    f"chunk {asked.chunk.sha256}: asked for {asked.tries} times, expected "
                    f"{asked.chunk.size_bytes} bytes, {self._found()}"
                )
            asked.deadline_s = now_s + self._patience_s(asked.tries)
        digests = tuple(asked.chunk.sha256 for asked in late)
        # Subscribing anew is what makes a broker send a retained message again.
        return Orders(drop=digests, want=digests)

    def deadline_s(self) -> float | None:
        """When `tick` has something to do, or None."""
        if not self._running or not self._asked:
            return None
        return min(asked.deadline_s for asked in self._asked.values())

    def _fill(self, now_s: float) -> tuple[str, ...]:
        fresh = []
        while self._running and self._waiting and len(self._asked) < self._policy.window:
            chunk = self._waiting.popleft()
            self._asked[chunk.sha256] = _Asked(chunk, 0, now_s + self._patience_s(0))
            fresh.append(chunk.sha256)
        return tuple(fresh)

    def _patience_s(self, tries: int) -> float:
        p = self._policy
        return backoff_s(p.chunk_timeout_s, p.chunk_timeout_max_s, tries, self._random.random())

    def _found(self) -> str:
        spoiled = self.counters.corrupt
        return f"{spoiled} spoiled chunks came" if spoiled else "nothing came"
