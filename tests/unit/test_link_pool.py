"""The threads that fetch chunks: what is wanted, dropped, wanted again; when they start and end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

import pytest

from edge_runtime.errors import TransferError
from edge_runtime.link.pool import MAX_WANTED, ChunkPool
from edge_runtime.link.repository import Repository

WAIT_S = 15.0


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Gate:
    """A place whose every answer waits until the test gives it."""

    address = "gate"

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.asked: list[str] = []
        self._answers: dict[str, list[bytes | Exception | None]] = {}
        self.rested = 0
        self.closed = False

    def get(self, path: str, max_bytes: int) -> bytes | None:
        sha256 = path.rpartition("/")[2]
        with self.changed:
            self.asked.append(sha256)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.closed or self._answers.get(sha256), WAIT_S)
            if self.closed:
                raise TransferError("gate: closed")
            answer = self._answers[sha256].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def give(self, sha256: str, answer: bytes | Exception | None) -> None:
        with self.changed:
            self._answers.setdefault(sha256, []).append(answer)
            self.changed.notify_all()

    def rest(self) -> None:
        with self.changed:
            self.rested += 1
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def until(self, done: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(done, WAIT_S), self.asked


class Lab:
    def __init__(self, *, threads: int = 4, idle_s: float = 60.0) -> None:
        self.gate = Gate()
        self.chunks: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self.by: set[int] = set()
        self.pool = ChunkPool(
            Repository(self.gate), self._chunk, self._failed, threads=threads, idle_s=idle_s
        )

    def _chunk(self, sha256: str, data: bytes) -> None:
        assert digest(data) == sha256
        with self.gate.changed:
            self.by.add(threading.get_ident())
            self.chunks.append(sha256)
            self.gate.changed.notify_all()

    def _failed(self, sha256: str, reason: str) -> None:
        with self.gate.changed:
            self.failures.append((sha256, reason))
            self.gate.changed.notify_all()


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.pool.close()


@pytest.fixture
def single() -> Iterator[Lab]:
    """A pool of one thread, whose order can be told."""
    lab = Lab(threads=1)
    yield lab
    lab.pool.close()


A, B, C = (digest(data) for data in (b"a", b"b", b"c"))


def test_no_thread_starts_before_there_is_work_and_no_more_than_allowed(lab: Lab) -> None:
    assert lab.pool.running == 0
    lab.pool.want([A])
    lab.gate.until(lambda: lab.gate.asked == [A])
    assert lab.pool.running == 1
    lab.pool.want([digest(bytes([n])) for n in range(20)])
    lab.gate.until(lambda: len(lab.gate.asked) == 4)
    assert lab.pool.running == 4


def test_chunks_come_on_the_pools_threads_in_the_order_wanted(single: Lab) -> None:
    for sha256, data in ((A, b"a"), (B, b"b"), (C, b"c")):
        single.gate.give(sha256, data)
    single.pool.want([B, A])
    single.pool.want([C])
    single.gate.until(lambda: len(single.chunks) == 3)
    assert single.chunks == [B, A, C]
    assert threading.get_ident() not in single.by


def test_a_thread_that_had_nothing_to_do_for_a_while_ends_and_the_place_rests() -> None:
    lab = Lab(idle_s=0.01)
    for n in range(3):  # And starts again.
        lab.gate.give(A, b"a")
        lab.pool.want([A])
        lab.gate.until(lambda n=n: lab.gate.rested == n + 1)  # type: ignore[misc]
        assert lab.pool.running == 0
    assert lab.chunks == [A] * 3
    lab.pool.close()


def test_what_is_dropped_before_its_turn_is_never_asked_for(single: Lab) -> None:
    single.pool.want([A, B, C])
    single.gate.until(lambda: single.gate.asked == [A])
    single.pool.drop([B])
    for sha256, data in ((A, b"a"), (C, b"c")):
        single.gate.give(sha256, data)
    single.gate.until(lambda: single.chunks == [A, C])
    assert single.gate.asked == [A, C]


def test_of_what_is_dropped_on_its_way_nothing_is_told(single: Lab) -> None:
    single.pool.want([A])
    single.gate.until(lambda: single.gate.asked == [A])
    single.pool.drop([A])
    single.pool.want([B])
    single.gate.give(A, b"a")
    single.gate.until(lambda: single.gate.asked == [A, B])
    single.pool.drop([B])
    single.pool.want([C])
    single.gate.give(B, TransferError("gone"))
    single.gate.give(C, b"c")
    single.gate.until(lambda: single.chunks == [C])
    assert single.failures == []


def test_what_is_dropped_on_its_way_and_wanted_again_is_told_once(single: Lab) -> None:
    """As the driver asks again for what is late."""
    single.pool.want([A])
    single.gate.until(lambda: single.gate.asked == [A])
    single.pool.drop([A])
    single.pool.want([A])
    single.gate.give(A, b"a")
    single.gate.give(B, b"b")
    single.pool.want([B])
    single.gate.until(lambda: single.chunks == [A, B])
    assert single.gate.asked == [A, B]


def test_what_was_wanted_again_while_it_failed_is_fetched_again(single: Lab) -> None:
    single.pool.want([A])
    single.gate.until(lambda: single.gate.asked == [A])
    single.pool.want([A])
    single.gate.give(A, TransferError("gate: reset"))
    single.gate.give(A, b"a")
    single.gate.until(lambda: single.chunks == [A])
    assert (single.gate.asked, single.failures) == ([A, A], [])


def test_each_way_to_fail_is_told_with_a_sentence(single: Lab) -> None:
    answers = (None, b"other", TransferError("gate: reset"), ValueError("ours"))
    for count, answer in enumerate(answers, 1):
        single.gate.give(A, answer)
        single.pool.want([A])
        single.gate.until(lambda c=count: len(single.failures) == c)  # type: ignore[misc]
    assert [reason for _, reason in single.failures] == [
        "gate: does not have it",
        "gate: has other bytes under its name",
        "gate: reset",
        "gate: ValueError",
    ]


def test_a_handler_that_raises_does_not_end_the_fetching(
    single: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_sha256: str, _data: bytes) -> None:
        raise ValueError("a bug of the caller")

    pool = ChunkPool(Repository(single.gate), fail, single._failed, threads=1)
    single.gate.give(A, b"a")
    single.gate.give(B, None)
    pool.want([A, B])
    single.gate.until(lambda: len(single.failures) == 1)
    assert "handler failed" in caplog.text
    pool.close()


def test_closing_ends_what_is_under_way_and_tells_nothing(lab: Lab) -> None:
    lab.pool.want([A, B, C])
    lab.gate.until(lambda: len(lab.gate.asked) == 3)
    lab.pool.close()
    assert lab.pool.running == 0
    assert (lab.chunks, lab.failures) == ([], [])
    lab.pool.close()


def test_closing_does_not_wait_for_a_place_that_holds_its_reader() -> None:
    """A network drive whose server is gone: nothing ends such a read."""
    lab = Lab()
    lab.gate.close = lambda: None  # type: ignore[method-assign]
    lab.pool.want([A])
    lab.gate.until(lambda: lab.gate.asked == [A])
    closing = threading.Thread(target=lab.pool.close, args=(0.05,), daemon=True)
    closing.start()
    closing.join(WAIT_S / 2)  # The gate itself would let its reader go after WAIT_S.
    assert not closing.is_alive()
    lab.gate.give(A, b"a")
    lab.gate.until(lambda: lab.gate.rested == 1)
    assert lab.chunks == []


def test_more_than_any_window_is_a_bug_of_the_caller(single: Lab) -> None:
    with pytest.raises(RuntimeError, match="wanted at a time"):
        single.pool.want([digest(n.to_bytes(2, "big")) for n in range(MAX_WANTED + 2)])
