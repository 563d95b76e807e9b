"""The window of a transfer: what is asked for, and what harm an unruly broker can do."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.files import Chunk
from edge_runtime.errors import TransferError
from edge_runtime.update.policy import Policy
from edge_runtime.update.transfer import Orders, Transfer

POLICY = Policy(window=4, chunk_timeout_s=10.0, chunk_timeout_max_s=40.0, chunk_tries=3)


def chunks(count: int) -> list[Chunk]:
    return [Chunk(f"{n:064x}", 10 + n) for n in range(count)]


def started(count: int) -> tuple[Transfer, list[str]]:
    transfer = Transfer(chunks(count), POLICY, Random(0))
    return transfer, list(transfer.resume(0.0).want)


def test_nothing_is_asked_for_before_the_link_is_up() -> None:
    transfer = Transfer(chunks(3), POLICY, Random(0))
    assert transfer.tick(1e9) == Orders()
    assert transfer.deadline_s() is None


def test_no_more_than_the_window_is_asked_for() -> None:
    _, asked = started(9)
    assert asked == [chunk.sha256 for chunk in chunks(4)]


def test_each_stored_chunk_makes_room_for_the_next() -> None:
    transfer, asked = started(6)
    assert transfer.stored(asked[2], 1.0) == Orders((asked[2],), (chunks(6)[4].sha256,))


def test_a_chunk_named_twice_is_fetched_once() -> None:
    transfer = Transfer(chunks(2) * 3, POLICY, Random(0))
    assert transfer.remaining == 2


def test_nothing_to_fetch_is_done_at_once() -> None:
    assert Transfer([], POLICY, Random(0)).done


def test_a_chunk_that_was_not_asked_for_is_counted_and_ignored() -> None:
    transfer, asked = started(9)
    assert transfer.offered("f" * 64) is None
    assert transfer.offered(chunks(9)[8].sha256) is None  # wanted, but not yet asked for
    transfer.stored(asked[0], 1.0)
    assert transfer.offered(asked[0]) is None  # a duplicate
    assert transfer.counters.unasked == 3
    assert transfer.remaining == 8


def test_a_late_chunk_is_asked_for_again_with_more_patience_each_time() -> None:
    transfer, asked = started(1)
    first = transfer.deadline_s()
    assert first is not None
    assert 7.5 <= first <= 12.5
    assert transfer.tick(first - 0.01) == Orders()
    assert transfer.tick(first) == Orders(drop=(asked[0],), want=(asked[0],))
    second = transfer.deadline_s()
    assert second is not None
    assert 15.0 <= second - first <= 25.0


def test_what_is_queued_behind_a_chunk_that_comes_gets_its_time_anew() -> None:
    transfer, asked = started(4)
    for place, now_s in enumerate((7.0, 14.0, 21.0)):
        assert transfer.tick(now_s) == Orders()
        transfer.stored(asked[place], now_s)
    due_s = transfer.deadline_s()
    assert due_s is not None
    assert due_s >= 21.0 + 7.5
    assert transfer.tick(due_s) == Orders(drop=(asked[3],), want=(asked[3],))


def test_a_chunk_that_can_be_done_without_is_tried_less_often() -> None:
    transfer = Transfer(chunks(1), POLICY, Random(0), tries=1)
    transfer.resume(0.0)
    with pytest.raises(TransferError, match="asked for 1 times"):
        transfer.tick(100.0)


def test_what_came_and_is_good_for_nothing_is_counted_and_makes_room() -> None:
    transfer, asked = started(5)
    assert transfer.useless(asked[0], 1.0) == Orders((asked[0],), (chunks(5)[4].sha256,))
    assert transfer.counters.useless == 1
    assert transfer.fetched_bytes == chunks(1)[0].size_bytes


def test_a_chunk_that_never_comes_fails_the_transfer_by_name() -> None:
    transfer, asked = started(1)
    transfer.tick(100.0)
    transfer.tick(200.0)
    with pytest.raises(TransferError, match=f"chunk {asked[0]}: asked for 3 times.*nothing came"):
        transfer.tick(300.0)


def test_a_spoiled_chunk_is_not_asked_for_again_before_its_time() -> None:
    transfer, asked = started(1)
    before = transfer.deadline_s()
    transfer.corrupt(asked[0])
    assert transfer.deadline_s() == before
    assert transfer.offered(asked[0]) is not None
    transfer.corrupt("f" * 64)
    assert transfer.counters.corrupt == 1


def test_while_the_link_is_down_no_time_runs_and_no_try_is_spent() -> None:
    transfer, _ = started(1)
    for now_s in range(0, 100_000, 1000):
        transfer.pause()
        transfer.tick(now_s + 500.0)
        assert transfer.resume(now_s + 900.0) == Orders()
    deadline = transfer.deadline_s()
    assert deadline is not None
    assert deadline > 99_000


def test_what_came_before_the_link_went_down_makes_room_only_when_it_is_back() -> None:
    transfer, asked = started(5)
    transfer.pause()
    assert transfer.stored(asked[0], 1.0) == Orders(drop=(asked[0],))
    assert transfer.resume(2.0) == Orders(want=(chunks(5)[4].sha256,))


def test_cancelling_drops_what_was_asked_for_and_asks_for_no_more() -> None:
    transfer, asked = started(9)
    assert transfer.cancel() == Orders(drop=tuple(asked))
    assert transfer.offered(asked[0]) is None
    assert transfer.tick(1e9) == Orders()
    assert transfer.done


@given(st.integers(0, 40), st.data())
def test_whatever_the_broker_does_the_window_holds_and_the_work_ends(
    count: int, data: st.DataObject
) -> None:
    transfer = Transfer(chunks(count), Policy(window=4, chunk_tries=1000), Random(1))
    wanted: set[str] = set()

    def obey(orders: Orders) -> None:
        assert set(orders.drop) <= wanted
        wanted.difference_update(orders.drop)
        wanted.update(orders.want)
        assert len(wanted) <= 4

    obey(transfer.resume(0.0))
    now_s, stored = 0.0, 0
    while not transfer.done:
        now_s += 20.0
        what = data.draw(st.sampled_from(["store", "store", "spoil", "tick", "drop link", "noise"]))
        some = sorted(wanted)[data.draw(st.integers(0, len(wanted) - 1))]
        if what == "store" and transfer.offered(some):
            obey(transfer.stored(some, now_s))
            stored += 1
        elif what == "spoil":
            transfer.corrupt(some)
        elif what == "tick":
            obey(transfer.tick(now_s))
        elif what == "drop link":
            transfer.pause()
            obey(transfer.resume(now_s))
        else:
            transfer.offered("e" * 64)
    assert stored == count == transfer.fetched_chunks
    assert transfer.fetched_bytes == sum(chunk.size_bytes for chunk in chunks(count))
    assert wanted == set()
