"""The journal: what is written is read back, and nothing else ever is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.messages.fleet import BundleRef, Desired, Refusal
from edge_runtime.update.journal import MAX_JOURNAL_BYTES, Journal, from_bytes, to_bytes
from edge_runtime.update.lifecycle import State
from edge_runtime.update.record import Record
from tests.fakes.fleet import bundle

MADE = bundle("1.0.0", size=20_000)
FULL = Record(
    state=State.TESTING,
    desired=Desired(7, MADE.release, 2),
    local=True,
    active=BundleRef("demo", "0.9.0", "1" * 64),
    previous=BundleRef("demo", "0.8.0", "2" * 64),
    candidate=MADE.release.ref,
    good=False,
    refused=(Refusal("3" * 64, 1, "cosine 0.07, floor 0.99 – «garbage»"),),
    boots=2,
    fetched_bytes=123,
    update_s=4.5,
    reason="why",
)


@pytest.mark.parametrize("record", [Record(), FULL, Record(desired=Desired(1, None))])
def test_what_is_saved_is_loaded(record: Record, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    journal.save(record)
    assert journal.load() == record
    assert journal.exists


def test_no_journal_is_no_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    assert journal.load() is None
    assert not journal.exists


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(EdgeError):
        from_bytes(data, "journal")


@given(st.integers(0, len(to_bytes(FULL)) - 2))
def test_a_torn_journal_is_refused(length: int) -> None:
    with pytest.raises(EdgeError):
        from_bytes(to_bytes(FULL)[:length], "journal")


@given(st.integers(0, len(to_bytes(FULL)) - 2), st.integers(0, 255))
def test_a_journal_with_a_spoiled_byte_is_a_valid_record_or_refused(at: int, byte: int) -> None:
    data = bytearray(to_bytes(FULL))
    data[at] = byte
    try:
        record = from_bytes(bytes(data), "journal")
    except EdgeError:
        return
    assert from_bytes(to_bytes(record), "journal") == record


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 2},
        {"state": "dreaming"},
        {"state": "idle"},
        {"candidate": None},
        {"active": {"name": "demo"}},
        {"boots": -1},
        {"boots": True},
        {"good": 1},
        {"update_s": "soon"},
        {"refused": [{}]},
        {"refused": [{"manifest_sha256": "3" * 64, "attempt": 1, "reason": ""}] * 65},
        {"desired": {"format": 1}},
        {"desired": 5},
    ],
)
def test_a_journal_at_odds_with_itself_is_refused(changed: dict[str, Any]) -> None:
    value = json.loads(to_bytes(FULL)) | changed
    with pytest.raises(EdgeError):
        from_bytes(json.dumps(value).encode(), "journal")


def test_a_journal_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.write_bytes(b" " * (MAX_JOURNAL_BYTES + 1) + to_bytes(FULL))
    assert Journal(path).load() is None


def test_a_folder_in_the_journals_place_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.mkdir()
    assert Journal(path).load() is None


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal.json")
    journal.save(Record())

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DeviceError, match="No space left"):
            journal.save(FULL)
    assert journal.load() == Record()
