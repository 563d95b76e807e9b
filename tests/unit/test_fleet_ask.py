"""Asking a device's model over the broker."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from edge_runtime.errors import InputError, TransferError, UntrustedError
from edge_runtime.fleet.ask import ask
from edge_runtime.fleet.question import (
    MAX_FILES_BYTES,
    of_files,
    of_pairs,
    of_rows,
    of_texts,
)
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import InferRequest, InferResult, Online, to_bytes
from tests.fakes.messages import RELEASE
from tests.fakes.operators import FakeDevice, operator


def answered(payload: bytes | None) -> MemoryBroker:
    broker = MemoryBroker()
    FakeDevice(broker, "d1", answer=lambda _asked: payload, active=RELEASE.ref)
    return broker


def test_each_text_is_answered() -> None:
    broker = MemoryBroker()
    FakeDevice(broker, "d1")
    with operator(broker) as connection:
        found = ask(connection, "d1", of_texts(["one", "zwei ü"]), 5.0)
    assert [result["text"] for result in found.results] == ["one", "zwei ü"]


def test_why_there_is_no_answer_comes_through() -> None:
    reason = InferResult(error="no bundle serves on this device now")
    with operator(answered(to_bytes(reason))) as connection:
        assert ask(connection, "d1", of_texts(["one"]), 5.0) == reason


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (to_bytes(InferResult(({"label": "a"},))), "answered with 1 results for 2 inputs"),
        (b"garbage", "not valid JSON"),
    ],
)
def test_an_answer_that_is_none_is_not_believed(payload: bytes, says: str) -> None:
    with operator(answered(payload)) as connection, pytest.raises(UntrustedError, match=says):
        ask(connection, "d1", of_texts(["one", "two"]), 5.0)


def test_silence_is_explained_by_what_the_broker_knows() -> None:
    broker = answered(None)
    FakeDevice(broker, "empty", answer=lambda _asked: None)
    away = FakeDevice(broker, "away", answer=lambda _asked: None)
    away.say("online", to_bytes(Online(False, "b1")))
    for device, why in {
        "d1": "it is online",
        "empty": "it is online but has no bundle",
        "away": "it is offline",
        "never": "it has never been on this broker",
    }.items():
        with operator(broker) as connection, pytest.raises(TransferError) as error:
            ask(connection, device, of_texts(["one"]), 0.05)
        assert str(error.value) == f"device {device}: no answer within 0.05 s; {why}"


@pytest.mark.parametrize(
    ("device", "texts", "says"),
    [
        ("d1", [], "expected at least one"),
        ("d1", ["x" * 200_000], "at most 131072 bytes"),
        ("d1", ["x"] * 65, "65 entries"),
        ("d1", ["\udcff"], "not valid Unicode"),
        ("+", ["x"], "wildcard"),
        ("a/b", ["x"], "device id"),
    ],
)
def test_a_question_that_cannot_be_asked_is_not_sent(
    device: str, texts: list[str], says: str
) -> None:
    broker = MemoryBroker()
    FakeDevice(broker, "d1")
    with operator(broker) as connection, pytest.raises(InputError, match=says):
        ask(connection, device, of_texts(texts), 5.0)


def echoing(broker: MemoryBroker) -> list[InferRequest]:
    """A device that answers whatever it is asked; what it was asked."""
    seen: list[InferRequest] = []

    def answer(asked: InferRequest) -> bytes:
        seen.append(asked)
        return to_bytes(InferResult(tuple({"score": 1.0} for _ in asked.inputs)))

    FakeDevice(broker, "d1", answer=answer)
    return seen


def test_a_file_travels_as_base64_and_may_be_larger_than_a_text(tmp_path: Path) -> None:
    data = bytes(range(256)) * 800
    paths = [tmp_path / "a.png", tmp_path / "b.wav"]
    for path in paths:
        path.write_bytes(data)
    broker = MemoryBroker()
    seen = echoing(broker)
    question = of_files(paths)
    with operator(broker) as connection:
        assert len(ask(connection, "d1", question, 5.0).results) == 2
    assert [base64.b64decode(str(one)) for one in seen[0].inputs] == [data, data]
    assert question.shown == tuple(map(str, paths))


def test_files_as_large_as_a_question_may_have_fit_the_message(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(b"x" * (MAX_FILES_BYTES - 126))
    small = tmp_path / "small"
    small.write_bytes(b"xy")
    broker = MemoryBroker()
    seen = echoing(broker)
    with operator(broker) as connection:
        ask(connection, "d1", of_files([whole] + [small] * 63), 5.0)
    assert len(seen[0].inputs) == 64
    whole.write_bytes(b"x" * MAX_FILES_BYTES)
    with pytest.raises(InputError, match=r"small: more than the 0 bytes that are left of the 785"):
        of_files([whole, small])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none", r"none: cannot be read \(No such file"),
        ("folder", r"folder: cannot be read \(Is a directory"),
        ("empty", "empty: is empty"),
        ("/dev/zero", "/dev/zero: more than the 785664 bytes"),
        ("a\0b", "cannot be the name of a file"),
    ],
)
def test_a_file_that_cannot_be_sent_is_named(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=says):
        of_files([tmp_path / name])
    with pytest.raises(InputError, match="65 files, at most 64"):
        of_files([tmp_path / name] * 65)


def test_a_large_question_without_an_answer_may_have_been_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 200_000)
    with operator(answered(None)) as connection, pytest.raises(TransferError) as error:
        ask(connection, "d1", of_files([tmp_path / "a"]), 0.05)
    assert "it is online; the question has 266" in str(error.value)
    assert str(error.value).endswith("throw away what has more than 131072")


def test_rows_and_pairs_travel_as_json() -> None:
    broker = MemoryBroker()
    seen = echoing(broker)
    with operator(broker) as connection:
        ask(connection, "d1", of_rows(['{"heat": 3}', "[[1, 2], [3, 4]]"]), 5.0)
        ask(connection, "d1", of_pairs([["a", "b"]]), 5.0)
    assert seen[0].inputs == ({"heat": 3}, [[1, 2], [3, 4]])
    assert seen[1].inputs == (["a", "b"],)
    assert of_pairs([["a", "b"]]).shown == ("a | b",)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "row 1: not valid JSON"),
        ("3", "row 1: expected an object or a list, found '3'"),
        ("[NaN]", "NaN is not a JSON number"),
        ("\udcff", "row 1: not valid JSON"),
        ("[" + "1," * 100_000 + "1]", "at most 131072"),
    ],
)
def test_a_row_that_is_none_is_not_sent(row: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        of_rows(["{}", row])
