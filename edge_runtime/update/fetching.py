"""The fetcher: a transfer joined to the chunk store and to the transport that subscribes.

It owns the effects of fetching and no decision: errors go up to the driver, which asks the
lifecycle what they mean. Bytes that are here already are never asked for.

Where there is a delta, its index and its pieces are fetched first, as the chunks that they are, and
what they make is stored; then whatever is still missing is fetched as it is. A delta that fails, in
whatever way, is let go of: it never fails the fetch.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable, Sequence
from random import Random
from typing import Protocol

from edge_runtime.bundle.files import Chunk, FileEntry
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import EdgeError, TransferError, UntrustedError
from edge_runtime.messages.fleet import Progress
from edge_runtime.update.policy import Policy
from edge_runtime.update.rebuild import Rebuild
from edge_runtime.update.transfer import Counters, Orders, Transfer

DELTA_TRIES = 2
"""A part of a delta that does not come when asked for twice: the repository has lost it."""

log = logging.getLogger(__name__)


class Transport(Protocol):
    """Where chunks come from: one source or several, which the agent knows.

    What is wanted stays wanted over a reconnect until it is dropped.
    """

    @property
    def fault(self) -> str:
        """What a source gave as its reason since a chunk came, for people; or nothing."""

    def want(self, digests: Sequence[str]) -> None:
        """Subscribe to these chunks."""

    def drop(self, digests: Sequence[str]) -> None:
        """Unsubscribe from them."""

    def arrived(self) -> None:
        """A chunk that was wanted has come and is kept."""

    def failed(self) -> bool:
        """A transfer was given up; whether there is another source, to be tried at once."""


class _Stage(enum.Enum):
    INDEX = enum.auto()
    PIECES = enum.auto()
    CHUNKS = enum.auto()


class Fetcher:
    """At most one transfer at a time."""

    def __init__(
        self, store: ChunkStore, transport: Transport, policy: Policy, random: Random
    ) -> None:
        self._store = store
        self._transport = transport
        self._policy = policy
        self._random = random
        self.online = False
        self._transfer: Transfer | None = None
        self._stage = _Stage.CHUNKS
        self._rebuild: Rebuild | None = None
        self._entries: Sequence[FileEntry] = ()
        self._needed = 0
        self._missing: set[str] = set()
        self._bytes_before = 0
        self._let_go_of: set[str] = set()
        self.counters = Counters()

    @property
    def running(self) -> bool:
        """Whether chunks are being fetched."""
        return self._transfer is not None

    @property
    def done(self) -> bool:
        """Whether a fetch was begun and has everything."""
        return self._transfer is not None and self._stage is _Stage.CHUNKS and self._transfer.done

    @property
    def fetched_bytes(self) -> int:
        """Payload that came since `forget`, over all fetches of one update."""
        return self._bytes_before + (self._transfer.fetched_bytes if self._transfer else 0)

    @property
    def progress(self) -> Progress | None:
        """Of the fetch that runs: chunks held and needed."""
        if self._transfer is None:
            return None
        return Progress(self._needed - len(self._missing), self._needed, self.fetched_bytes)

    def forget(self) -> None:
        """A new update: count its bytes from zero."""
        self.stop()
        self._bytes_before = 0
        self._let_go_of.clear()

    def begin(
        self, entries: Sequence[FileEntry], now_s: float, rebuild: Rebuild | None = None
    ) -> None:
        """Fetch what is missing of `entries`; `done` at once where nothing is.

        Args:
            rebuild: makes some of it out of what is held, where there is a delta.

        Raises:
            UntrustedError: one digest is said to have two sizes, so it can never be had.
        """
        self.stop()
        sizes: dict[str, int] = {}
        for chunk in (chunk for entry in entries for chunk in entry.chunks):
            if sizes.setdefault(chunk.sha256, chunk.size_bytes) != chunk.size_bytes:
                raise UntrustedError(
                    f"chunk {chunk.sha256}: listed with {sizes[chunk.sha256]} and with "
                    f"{chunk.size_bytes} bytes"
                )
        self._entries = entries
        self._needed = len(sizes)
        self._missing = {chunk.sha256 for chunk in self._store.missing(entries)}
        self._rebuild = rebuild
        if rebuild is not None and self._missing and rebuild.index.sha256 not in self._let_go_of:
            self._enter(_Stage.INDEX, self._store.missing((rebuild.index,)), now_s)
        else:
            self._enter(_Stage.CHUNKS, self._store.missing(entries), now_s)

    def stop(self) -> None:
        """End the fetch; what is stored stays."""
        if self._transfer is not None:
            self._obey(self._transfer.cancel())
            self._bytes_before += self._transfer.fetched_bytes
            self._transfer = None

    def connected(self, yes: bool, now_s: float) -> None:
        """The link came up or went down."""
        self.online = yes
        if self._transfer is not None:
            if yes:
                self._obey(self._transfer.resume(now_s))
            else:
                self._transfer.pause()

    def chunk(self, sha256: str, data: bytes, now_s: float) -> bool:
        """A chunk arrived, perhaps; True where it was asked for and is done with.

        Raises:
            DeviceError: it cannot be stored.
        """
        if self._transfer is None:
            self.counters.unasked += 1
            return False
        chunk = self._transfer.offered(sha256)
        if chunk is None:
            return False
        try:
            useful = self._keep(chunk, data)
        except UntrustedError:
            self._transfer.corrupt(sha256)
            return False
        if useful:
            self._obey(self._transfer.stored(sha256, now_s))
        else:
            self._obey(self._transfer.useless(sha256, now_s))
        self._go_on(now_s)
        return True

    def tick(self, now_s: float) -> None:
        """Ask again for what is late.

        Raises:
            TransferError: a chunk did not come in the tries allowed.
        """
        if self._transfer is None:
            return
        try:
            self._obey(self._transfer.tick(now_s))
        except TransferError as reason:
            if self._stage is _Stage.CHUNKS:
                raise
            self._let_go(reason, now_s)

    def deadline_s(self) -> float | None:
        """When `tick` has something to do, or None."""
        return self._transfer.deadline_s() if self._transfer is not None else None

    # Stages.

    def _enter(self, stage: _Stage, chunks: Iterable[Chunk], now_s: float) -> None:
        """Begin a stage, and the next ones as well as long as there is nothing to do in them."""
        self.stop()
        self._stage = stage
        tries = None if stage is _Stage.CHUNKS else DELTA_TRIES
        self._transfer = Transfer(chunks, self._policy, self._random, tries)
        self._transfer.counters = self.counters
        if self.online:
            self._obey(self._transfer.resume(now_s))
        self._go_on(now_s)

    def _go_on(self, now_s: float) -> None:
        """To the next stage where this one has everything."""
        if self._transfer is None or self._rebuild is None:
            return
        if self._stage is _Stage.INDEX and self._transfer.done:
            try:
                data = b"".join(self._store.get(chunk) for chunk in self._rebuild.index.chunks)
                pieces = self._rebuild.pieces(data)
            except EdgeError as reason:
                self._let_go(reason, now_s)
            else:
                self._enter(_Stage.PIECES, pieces, now_s)
        elif self._stage is _Stage.PIECES and (self._transfer.done or not self._missing):
            log.info(
                "delta used", extra={"made": self._rebuild.made, "failed": self._rebuild.failed}
            )
            self._enter(_Stage.CHUNKS, self._store.missing(self._entries), now_s)

    def _let_go(self, reason: EdgeError, now_s: float) -> None:
        """The rest comes as it is, in this update's next tries too."""
        log.info("delta let go of: %s", reason)
        if self._rebuild is not None:
            self._let_go_of.add(self._rebuild.index.sha256)
        self._enter(_Stage.CHUNKS, self._store.missing(self._entries), now_s)

    def _keep(self, chunk: Chunk, data: bytes) -> bool:
        """Store what came, or what comes of it; False where that is nothing.

        Raises:
            UntrustedError: not the chunk that was asked for.
            DeviceError: it cannot be stored.
        """
        if self._stage is not _Stage.PIECES or self._rebuild is None:
            self._store.put(chunk, data)
            self._missing.discard(chunk.sha256)
            return True
        stored = self._rebuild.apply(chunk.sha256, data)
        self._missing.difference_update(stored)
        return bool(stored)

    def _obey(self, orders: Orders) -> None:
        if orders.drop:
            self._transport.drop(orders.drop)
        if orders.want:
            self._transport.want(orders.want)
