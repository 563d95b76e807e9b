"""Several sources in order: who is asked, when another one is, and when it is the first one again.

The clock is the test's; a source is a list of what it was asked for.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from edge_runtime.agent.sources import Broker, Sources, open_sources
from edge_runtime.bundle.files import Chunk, FileEntry
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import InputError
from edge_runtime.update.fetching import Fetcher, Transport
from edge_runtime.update.policy import Policy

A, B, C = ("aa" * 32, "bb" * 32, "cc" * 32)
HTTPS, FILE = "https://mirror.example", "file:///media/usb"


class Place:
    """What it is asked for now, and how often it was asked."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self.asked: list[str] = []
        self.closed = False

    def want(self, digests: Sequence[str]) -> None:
        self.asked += digests
        self.wanted += [d for d in digests if d not in self.wanted]

    def drop(self, digests: Sequence[str]) -> None:
        self.wanted = [d for d in self.wanted if d not in digests]

    def close(self) -> None:
        self.closed = True


class Lab:
    """Sources of these names, and the driver's side of them."""

    def __init__(self, *names: str) -> None:
        self.places = {name: Place() for name in names}
        self.told: list[bool] = []
        self.sources = Sources(self.places, self.told.append, patience_s=30.0)
        self.now_s = 1000.0
        self.sources.start()
        self.sources.tick(self.now_s)

    def broker(self, yes: bool) -> None:
        self.sources.connected(yes)
        self.sources.tick(self.now_s)

    def passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.sources.tick(self.now_s)

    def want(self, *digests: str) -> None:
        self.sources.want(digests)
        self.sources.tick(self.now_s)

    def arrives(self, *digests: str) -> None:
        self.sources.arrived()
        self.sources.drop(digests)
        self.sources.tick(self.now_s)

    @property
    def current(self) -> str:
        return self.sources.current


# One source.


def test_the_broker_alone_is_asked_and_waited_for() -> None:
    lab = Lab("mqtt")
    assert lab.told == []
    lab.broker(True)
    lab.want(A, B)
    lab.broker(False)
    lab.passes(1e6)
    lab.broker(True)
    lab.passes(1e6)
    assert lab.told == [True, False, True]
    assert lab.places["mqtt"].asked == [A, B]
    assert lab.sources.failed() is False
    assert lab.sources.tick(lab.now_s) is None


def test_a_server_alone_can_always_be_asked() -> None:
    lab = Lab(HTTPS)
    lab.broker(True)
    lab.broker(False)
    assert lab.told == [True]
    lab.want(A)
    lab.sources.missing(HTTPS, A, "not there")
    assert lab.sources.failed() is False
    assert lab.places[HTTPS].asked == [A]


def test_no_source_at_all_is_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="no source"):
        Sources({}, print)


# The broker is down.


def test_a_broker_that_stays_down_gives_way_after_patience() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.broker(True)
    lab.want(A, B)
    lab.broker(False)
    lab.passes(29.9)
    assert (lab.current, lab.told) == ("mqtt", [True, False])
    lab.passes(0.1)
    assert (lab.current, lab.told) == (HTTPS, [True, False, True])
    assert lab.places["mqtt"].wanted == []
    assert lab.places[HTTPS].wanted == [A, B]


def test_tick_says_when_patience_ends() -> None:
    lab = Lab("mqtt", HTTPS)
    assert lab.sources.tick(lab.now_s) == lab.now_s + 30.0
    assert lab.sources.tick(lab.now_s + 10.0) == lab.now_s + 30.0
    lab.broker(True)
    assert lab.sources.tick(lab.now_s) is None
    lab.want(A)
    assert lab.sources.tick(lab.now_s) == lab.now_s + 30.0


def test_a_broker_that_was_never_there_gives_way_too() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.passes(30.0)
    assert (lab.current, lab.told) == (HTTPS, [True])


def test_each_outage_is_given_its_own_patience() -> None:
    lab = Lab("mqtt", HTTPS)
    for _ in range(5):
        lab.broker(True)
        lab.passes(5.0)
        lab.broker(False)
        lab.passes(25.0)
    assert lab.current == "mqtt"


def test_a_broker_that_comes_back_is_asked_unless_the_other_one_has_proved_itself() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.passes(30.0)
    lab.want(A)
    lab.broker(True)
    assert lab.current == "mqtt"
    assert lab.places["mqtt"].wanted == [A]

    lab.broker(False)
    lab.passes(30.0)
    lab.arrives(A)
    lab.want(B)
    lab.broker(True)
    assert lab.current == HTTPS
    assert lab.places[HTTPS].wanted == [B]


def test_the_next_update_begins_with_the_broker_again() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.passes(30.0)
    lab.want(A)
    lab.arrives(A)
    lab.want(B)  # Between two windows nothing is wanted for a moment.
    lab.broker(True)
    lab.arrives(B)
    lab.passes(29.9)
    assert lab.current == HTTPS
    lab.passes(0.1)
    assert lab.current == "mqtt"
    lab.want(C)
    assert lab.places["mqtt"].wanted == [C]


def test_a_broker_that_is_down_is_not_returned_to() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.passes(30.0)
    lab.want(A)
    lab.arrives(A)
    lab.passes(1000.0)
    assert (lab.current, lab.told) == (HTTPS, [True])


def test_in_another_order_the_broker_is_the_fallback() -> None:
    lab = Lab(HTTPS, "mqtt")
    assert lab.told == [True]
    lab.want(A)
    lab.broker(True)
    assert lab.current == HTTPS
    lab.sources.missing(HTTPS, A, "not there")
    assert lab.current == "mqtt"
    assert lab.told == [True, True]
    lab.arrives(A)
    lab.passes(30.0)
    assert lab.current == HTTPS


# A source that does not bring it.


def test_a_source_that_brings_nothing_gives_way_after_patience() -> None:
    """A broker that lost what it had kept says nothing at all."""
    lab = Lab("mqtt", HTTPS)
    lab.broker(True)
    lab.want(A, B)
    lab.passes(20.0)
    lab.arrives(A)
    lab.passes(29.0)
    assert lab.current == "mqtt"
    lab.passes(1.0)
    assert lab.current == HTTPS
    assert lab.places[HTTPS].wanted == [B]
    assert lab.told == [True, True]  # The second lets the time of what is asked for begin anew.


def test_a_source_that_lacks_all_that_is_wanted_gives_way_at_once() -> None:
    lab = Lab(HTTPS, FILE)
    lab.want(A, B)
    lab.sources.missing(HTTPS, A, "not there")
    assert lab.current == HTTPS
    lab.sources.missing(HTTPS, B, "not there")
    assert lab.current == FILE
    assert lab.places[FILE].wanted == [A, B]
    assert lab.sources.fault == "not there"
    lab.arrives(A)
    assert lab.sources.fault == ""


def test_when_every_source_lacks_it_none_is_asked_in_circles() -> None:
    lab = Lab(HTTPS, FILE)
    lab.want(A)
    lab.sources.missing(HTTPS, A, "not there")
    lab.sources.missing(FILE, A, "not there")
    for _ in range(5):
        lab.passes(300.0)
    assert lab.current == FILE
    assert (lab.places[HTTPS].asked, lab.places[FILE].asked) == ([A], [A])


def test_what_is_asked_again_may_be_missing_again() -> None:
    lab = Lab(HTTPS, FILE)
    lab.want(A, B)
    lab.sources.missing(HTTPS, A, "reset")
    lab.sources.drop([A])
    lab.want(A)
    lab.sources.missing(HTTPS, B, "reset")
    assert lab.current == HTTPS
    lab.sources.missing(HTTPS, A, "reset")
    assert lab.current == FILE


def test_a_late_word_of_a_source_that_was_left_changes_nothing() -> None:
    lab = Lab(HTTPS, FILE, "file:///third")
    lab.want(A)
    lab.sources.missing(HTTPS, A, "not there")
    lab.sources.missing(HTTPS, A, "not there")
    lab.sources.missing(FILE, B, "not wanted")
    assert lab.current == FILE


def test_what_one_source_lacks_is_not_held_against_the_next() -> None:
    lab = Lab(HTTPS, FILE, "file:///third")
    lab.want(A, B)
    for digest in (A, B):
        lab.sources.missing(HTTPS, digest, "not there")
    lab.sources.missing(FILE, A, "not there")
    assert lab.current == FILE
    lab.sources.missing(FILE, B, "not there")
    assert lab.current == "file:///third"


def test_a_broker_that_comes_and_goes_and_brings_nothing_gives_way() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.broker(True)
    lab.want(A)
    for _ in range(3):
        lab.passes(5.0)
        lab.broker(False)
        lab.passes(5.0)
        if lab.current == "mqtt":
            lab.broker(True)
    assert lab.current == HTTPS


def test_a_broker_that_is_back_is_worth_trying_again() -> None:
    lab = Lab(HTTPS, "mqtt")
    lab.broker(True)
    lab.want(A)
    lab.sources.missing(HTTPS, A, "not there")
    lab.broker(False)
    lab.passes(30.0)
    assert lab.current == HTTPS
    lab.broker(True)
    lab.sources.missing(HTTPS, A, "not there")
    assert lab.current == "mqtt"


def test_a_broker_that_comes_back_is_asked_for_what_nobody_else_has() -> None:
    lab = Lab(HTTPS, "mqtt")
    lab.want(A)
    lab.sources.missing(HTTPS, A, "not there")
    assert lab.current == HTTPS
    lab.broker(True)
    assert lab.current == "mqtt"


def test_trouble_is_logged_once_until_a_chunk_comes(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab(HTTPS)
    lab.want(A, B, C)
    for digest in (A, B, A):
        lab.sources.missing(HTTPS, digest, f"{HTTPS}: refused")
    assert caplog.text.count("refused") == 1
    lab.arrives(C)
    lab.sources.missing(HTTPS, A, f"{HTTPS}: refused")
    assert caplog.text.count("refused") == 2


# The driver gives up.


def test_a_transfer_that_failed_is_tried_at_once_with_every_other_source() -> None:
    lab = Lab("mqtt", HTTPS, FILE)
    lab.broker(True)
    assert [lab.sources.failed(), lab.current] == [True, HTTPS]
    assert [lab.sources.failed(), lab.current] == [True, FILE]
    assert [lab.sources.failed(), lab.current] == [False, "mqtt"]
    assert [lab.sources.failed(), lab.current] == [True, HTTPS]


def test_a_chunk_that_arrived_makes_every_source_worth_trying_again() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.broker(True)
    assert lab.sources.failed() is True
    lab.want(A, B)
    lab.arrives(A)
    assert [lab.sources.failed(), lab.current] == [True, "mqtt"]


def test_a_broker_that_is_down_is_not_worth_trying_at_once() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.passes(30.0)
    assert [lab.sources.failed(), lab.current] == [False, HTTPS]


def test_nothing_stays_stuck_with_a_broker_that_goes_down_last() -> None:
    """All were tried in vain, and the driver waits for a broker that does not come back."""
    lab = Lab(HTTPS, "mqtt")
    lab.broker(True)
    assert lab.sources.failed() is True
    lab.broker(False)
    lab.passes(30.0)
    assert (lab.current, lab.told[-1]) == (HTTPS, True)


def test_what_is_dropped_is_not_wanted_of_the_next_source() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.broker(True)
    lab.want(A, B)
    lab.sources.drop([A])
    lab.sources.failed()
    assert lab.places[HTTPS].asked == [B]


def test_closing_closes_every_source() -> None:
    lab = Lab("mqtt", HTTPS)
    lab.sources.close()
    assert all(place.closed for place in lab.places.values())


# With the real fetcher.


def test_a_fetch_goes_on_where_the_first_source_fell_silent(tmp_path: Path) -> None:
    data = [bytes([number]) * 100 for number in range(40)]
    chunks = {hashlib.sha256(piece).hexdigest(): piece for piece in data}
    entry = FileEntry("weights", 4000, "0" * 64, tuple(Chunk(name, 100) for name in chunks))
    lab = Lab("mqtt", HTTPS)
    fetcher: Fetcher
    lab.sources = Sources(lab.places, lambda yes: fetcher.connected(yes, lab.now_s))
    transport: Transport = lab.sources
    fetcher = Fetcher(ChunkStore(tmp_path), transport, Policy(window=8), Random(1))

    def bring(name: str, having: set[str]) -> None:
        while ready := [d for d in lab.places[name].wanted if d in having]:
            for digest in ready:
                assert fetcher.chunk(digest, chunks[digest], lab.now_s)
                lab.sources.arrived()

    lab.broker(True)
    fetcher.begin((entry,), lab.now_s)
    kept = set(list(chunks)[:25])
    bring("mqtt", kept)
    for _ in range(31):
        lab.passes(1.0)
        fetcher.tick(lab.now_s)
    assert (fetcher.done, lab.current) == (False, HTTPS)
    bring(HTTPS, set(chunks))
    assert fetcher.done
    assert not set(lab.places[HTTPS].asked) & kept
    assert lab.places["mqtt"].wanted == lab.places[HTTPS].wanted == []


# Real sources.


def test_a_folder_brings_what_a_silent_broker_does_not(tmp_path: Path) -> None:
    data = b"weights"
    sha256 = hashlib.sha256(data).hexdigest()
    chunk = tmp_path / "chunks" / sha256[:2] / sha256
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(data)
    subscribed: list[str] = []
    came, told = threading.Event(), threading.Event()
    heard: list[tuple[object, ...]] = []

    def on_chunk(*what: object) -> None:
        heard.append(what)
        came.set()

    def on_missing(*what: object) -> None:
        heard.append(what)
        told.set()

    url = tmp_path.as_uri()
    broker = Broker(subscribed.extend, lambda digests: subscribed.clear())
    sources = Sources(open_sources(["mqtt", url], broker, on_chunk, on_missing), lambda _: None)
    try:
        sources.connected(True)
        sources.want([sha256])
        sources.tick(0.0)
        assert subscribed == [sha256]
        sources.tick(30.0)
        assert subscribed == []
        assert came.wait(15.0)
        assert heard == [(sha256, data)]
        sources.want([A])
        assert told.wait(15.0)
        assert heard[1] == (url, A, f"{tmp_path}: does not have it")
    finally:
        sources.close()


def test_a_source_that_is_none_is_refused() -> None:
    broker = Broker(print, print)
    with pytest.raises(InputError, match="starts with 'ftp'"):
        open_sources(["mqtt", "ftp://h/e"], broker, print, print)
    with pytest.raises(InputError, match="plain http"):
        open_sources(["http://mirror.example/e"], broker, print, print)
    assert list(
        open_sources(["http://mirror.example/e"], broker, print, print, allow_http=True)
    ) == ["http://mirror.example/e"]
