"""The fetcher: a transfer joined to the chunk store and to the transport that subscribes.

It owns the effects of fetching and no decision: errors go up to the driver, which asks the
lifecycle what they mean. Bytes that are here already are never asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

from edge_runtime.bundle.files import FileEntry
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import UntrustedError
from edge_runtime.messages.fleet import Progress
from edge_runtime.update.policy import Policy
from edge_runtime.update.transfer import Counters, Orders, Transfer


class Transport(Protocol):
    """Where chunks come from; the agent wires it to the link by exact topics.

    What is wanted stays wanted over a reconnect until it is dropped.
    """

    def want(self, digests: Sequence[str]) -> None:
        """Subscribe to these chunks."""

    def drop(self, digests: Sequence[str]) -> None:
        """Unsubscribe from them."""


class Fetcher:
    """At most one transfer at a time."""

    def __init__(
        self, store: ChunkStore, transport: Transport, policy: Policy, random: Random
    ) -> None:
        self._store = store
        self._transport = transport
        self._policy = policy
        self._random = random
        self._connected = False
        self._transfer: Transfer | None = None
        self._needed = 0
        self._bytes_before = 0
        self.counters = Counters()

    @property
    def running(self) -> bool:
        """Whether chunks are being fetched."""
        return self._transfer is not None

    @property
    def done(self) -> bool:
        """Whether a fetch was begun and has everything."""
        return self._transfer is not None and self._transfer.done

    @property
    def fetched_bytes(self) -> int:
        """Payload stored since `forget`, over all fetches of one update."""
        return self._bytes_before + (self._transfer.fetched_bytes if self._transfer else 0)

    @property
    def progress(self) -> Progress | None:
        """Of the fetch that runs: chunks held and needed."""
        if self._transfer is None:
            return None
        held = self._needed - self._transfer.remaining
        return Progress(held, self._needed, self.fetched_bytes)

    def forget(self) -> None:
        """A new update: count its bytes from zero."""
        self.stop()
        self._bytes_before = 0

    def begin(self, entries: Sequence[FileEntry], now_s: float) -> None:
        """Fetch what is missing of `entries`; `done` at once where nothing is.

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
        self._needed = len(sizes)
        self._transfer = Transfer(self._store.missing(entries), self._policy, self._random)
        self._transfer.counters = self.counters
        if self._connected:
            self._obey(self._transfer.resume(now_s))

    def stop(self) -> None:
        """End the fetch; what is stored stays."""
        if self._transfer is not None:
            self._obey(self._transfer.cancel())
            self._bytes_before += self._transfer.fetched_bytes
            self._transfer = None

    def connected(self, yes: bool, now_s: float) -> None:
        """The link came up or went down."""
        self._connected = yes
        if self._transfer is not None:
            if yes:
                self._obey(self._transfer.resume(now_s))
            else:
                self._transfer.pause()

    def chunk(self, sha256: str, data: bytes, now_s: float) -> bool:
        """A chunk arrived, perhaps; True where it was of use and is stored.

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
            self._store.put(chunk, data)
        except UntrustedError:
            self._transfer.corrupt(sha256)
            return False
        self._obey(self._transfer.stored(sha256, now_s))
        return True

    def tick(self, now_s: float) -> None:
        """Ask again for what is late.

        Raises:
            TransferError: a chunk did not come in the tries allowed.
        """
        if self._transfer is not None:
            self._obey(self._transfer.tick(now_s))

    def deadline_s(self) -> float | None:
        """When `tick` has something to do, or None."""
        return self._transfer.deadline_s() if self._transfer is not None else None

    def _obey(self, orders: Orders) -> None:
        if orders.drop:
            self._transport.drop(orders.drop)
        if orders.want:
            self._transport.want(orders.want)
