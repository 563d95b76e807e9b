"""Several sources of chunks in order: the update driver's transport, which falls over by itself.

One source is current. What is wanted is asked of it alone, and on a switch asked anew of the next
one, so that the driver never learns where a chunk came from. The rules:

1. The first source is tried first, and first again once nothing was wanted for `patience_s`.
2. The broker as current source that is down for `patience_s` gives way to another. When it is
   back, it is current again, unless the other one has proved itself meanwhile.
3. A source that brings nothing of what is wanted for `patience_s`, or says of all that is wanted
   that it does not have it, gives way to one that was not tried since the last chunk arrived. A
   broker that comes and goes, and brings nothing, gets no new time with every connection.
4. The same where the driver gives up a transfer (`failed`). Where all were tried, the driver waits,
   and begins anew with the first.

Everything here runs on the supervisor's thread; what a pool says on its own comes by the `Inbox`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Protocol

from edge_runtime.link.address import NO_FILES, TlsFiles
from edge_runtime.link.pool import ChunkPool
from edge_runtime.link.repository import open_repository

log = logging.getLogger(__name__)

MQTT = "mqtt"
PATIENCE_S = 30.0


class Source(Protocol):
    """One place that chunks come from."""

    def want(self, digests: Sequence[str]) -> None:
        """Ask for these chunks."""

    def drop(self, digests: Sequence[str]) -> None:
        """Ask for them no more."""

    def close(self) -> None:
        """Ask for nothing any more; ends within a bound."""


class Broker:
    """Chunks by exact topic, as a source: what the supervisor does with its link."""

    def __init__(
        self,
        subscribe: Callable[[Sequence[str]], None],
        unsubscribe: Callable[[Sequence[str]], None],
    ) -> None:
        self.want = subscribe
        self.drop = unsubscribe

    def close(self) -> None:
        """The link has an end of its own."""


def open_sources(
    names: Sequence[str],
    broker: Source,
    on_chunk: Callable[[str, bytes], None],
    on_missing: Callable[[str, str, str], None],
    files: TlsFiles = NO_FILES,
    *,
    allow_http: bool = False,
) -> dict[str, Source]:
    """By name: `broker` for "mqtt", for every URL a pool of threads that starts when it is needed.

    Args:
        on_chunk: called with (sha256, data) on a pool's threads.
        on_missing: called with (name, sha256, reason) on a pool's threads.

    Raises:
        InputError: a URL, or a file for TLS, is not usable.
    """
    return {
        name: broker
        if name == MQTT
        else ChunkPool(
            open_repository(name, files, allow_http=allow_http), on_chunk, partial(on_missing, name)
        )
        for name in names
    }


class _Watch(Enum):
    """What patience is being had with; None of them: nothing has to change."""

    LACKING = "the broker is down, or nothing comes of what is wanted"
    IDLE = "nothing is wanted, and this is not the source to begin with"


class Sources:
    """The driver's transport over `sources`, in their order.

    Args:
        ready: called with whether the current source can be asked, whenever that changes and after
            every switch: what the driver is to be told as `connected`. Never before `start`.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        ready: Callable[[bool], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        if not sources:
            raise RuntimeError("there is no source")
        self._sources = dict(sources)
        self._names = tuple(sources)
        self._tell = ready
        self._patience_s = patience_s
        self._online = False  # Whether the broker is connected.
        self._current = self._names[0]
        self._proved = False  # The current source has brought a chunk since it became current.
        self._tried: set[str] = set()  # Given up since the last chunk came.
        self._wanted: dict[str, None] = {}
        self._missing: set[str] = set()  # Of what is wanted: the current source does not have it.
        self._fault = ""
        self._watch: _Watch | None = None
        self._since_s: float | None = None

    @property
    def current(self) -> str:
        """Name of the source that is asked now."""
        return self._current

    @property
    def fault(self) -> str:
        """What a source last gave as its reason since a chunk came, for people; or nothing."""
        return self._fault

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return self._usable(self._current)

    def start(self) -> None:
        """The driver can hear from now on."""
        if self.ready:
            self._tell(True)

    def close(self) -> None:
        """Close every source; each within its own bound."""
        for source in self._sources.values():
            source.close()

    # The driver's transport.

    def want(self, digests: Sequence[str]) -> None:
        """Ask the current source, and every later one until they are dropped."""
        self._wanted.update(dict.fromkeys(digests))
        self._sources[self._current].want(digests)

    def drop(self, digests: Sequence[str]) -> None:
        """These are here, or not wanted any more."""
        for digest in digests:
            self._wanted.pop(digest, None)
        self._missing.difference_update(digests)
        self._sources[self._current].drop(digests)

    def failed(self) -> bool:
        """The transfer was given up: whether another source is current now, to be tried at once."""
        if self._next("the transfer was given up"):
            return True
        self._tried.clear()
        if self._current != self._first:
            self._switch(self._first, "every source failed")
        return False

    # What the supervisor hears.

    def connected(self, yes: bool) -> None:
        """The broker is connected, or is not any more."""
        self._online = yes
        self._tried.discard(MQTT)
        if self._current == MQTT:
            self._tell(yes)
        elif yes and MQTT in self._sources:
            better = self._first == MQTT and not (self._wanted and self._proved)
            if better or self._lacks_all:
                self._switch(MQTT, "the broker is back")

    def arrived(self) -> None:
        """The driver has stored a chunk that was wanted."""
        self._proved = True
        self._fault = ""
        self._tried.clear()
        self._watch = None

    def missing(self, name: str, sha256: str, reason: str) -> None:
        """The source called `name` says that it cannot give this chunk."""
        if name != self._current or sha256 not in self._wanted:
            return
        if not self._fault:
            log.warning("chunks cannot be had: %s", reason, extra={"source": name})
        self._fault = reason
        self._missing.add(sha256)
        if self._lacks_all:
            self._next(reason)

    def tick(self, now_s: float) -> float | None:
        """Do what is due; when to call again at the latest, or None."""
        watch = self._to_watch()
        if watch is not self._watch or self._since_s is None:
            self._watch, self._since_s = watch, now_s
        if watch is None:
            return None
        if now_s - self._since_s >= self._patience_s:
            self._since_s = now_s
            self._lose_patience(watch)
            return self.tick(now_s)
        return self._since_s + self._patience_s

    # The rules.

    def _to_watch(self) -> _Watch | None:
        if len(self._sources) == 1:
            return None
        if self._wanted or not self.ready:
            return _Watch.LACKING
        return _Watch.IDLE if self._current != self._first else None

    def _lose_patience(self, watch: _Watch) -> None:
        if watch is _Watch.IDLE:
            self._tried.clear()
            self._switch(self._first, "nothing is wanted")
            return
        why = f"nothing came for {self._patience_s:g} s" if self.ready else "the broker is down"
        if not self._next(why) and not self.ready:
            # The driver waits for the broker, so it will not give up by itself.
            self._tried.clear()
            self._next(why)

    def _next(self, why: str) -> bool:
        """Switch to the next source that can be asked and was not tried in vain, if any."""
        self._tried.add(self._current)
        here = self._names.index(self._current)
        for name in (*self._names[here + 1 :], *self._names[:here]):
            if name not in self._tried and self._usable(name):
                self._switch(name, why)
                return True
        return False

    def _switch(self, name: str, why: str) -> None:
        log.info("source", extra={"source": name, "before": self._current, "reason": why})
        wanted = tuple(self._wanted)
        if wanted:
            self._sources[self._current].drop(wanted)
        self._current, self._proved, self._watch = name, False, None
        self._missing.clear()
        if wanted:
            self._sources[name].want(wanted)
        self._tell(self.ready)  # True again: the time of what is asked for begins anew.

    def _usable(self, name: str) -> bool:
        return name != MQTT or self._online

    @property
    def _first(self) -> str:
        """The first that can be asked; where none can, the first."""
        return next((name for name in self._names if self._usable(name)), self._names[0])

    @property
    def _lacks_all(self) -> bool:
        return bool(self._wanted) and len(self._missing) == len(self._wanted)
