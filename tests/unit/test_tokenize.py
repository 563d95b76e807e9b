from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.items import Item
from edge_runtime.inference.tasks.spans import Token
from edge_runtime.inference.tasks.tokenize import Tokenize, TokenizeOptions
from tests.fakes.tiny import FIXTURE, TEXTS, tokenize_step

FILE = (FIXTURE / "tokenizer.json").read_bytes()
CLS, SEP = 2, 3


def options(**changed: Any) -> TokenizeOptions:
    values = tokenize_step(**changed)["options"]
    return TokenizeOptions.parse(Fields(values, "step tokenize", IncompatibleError))


def tokenize(limit: int | None = None, **changed: Any) -> Tokenize:
    return Tokenize(options(**changed), FILE, limit)


def ids(item: Item) -> list[int]:
    found: list[int] = item.tensors["input_ids"].tolist()
    assert item.length == len(found)
    return found


STEP = tokenize()


def test_a_text_becomes_ids_between_the_special_tokens() -> None:
    tokens = STEP("mail server")
    assert ids(tokens)[0] == CLS
    assert ids(tokens)[-1] == SEP
    assert not tokens.truncated


def test_an_empty_text_is_its_special_tokens() -> None:
    assert ids(STEP("")) == [CLS, SEP]
    assert not STEP("").truncated


def test_an_empty_text_without_special_tokens_is_one_padding_token() -> None:
    plain = json.loads(FILE)
    plain["post_processor"] = None
    step = Tokenize(options(pad_id=9), json.dumps(plain).encode())
    assert ids(step("")) == [9]
    assert step("").tensors["attention_mask"].tolist() == [1]


def test_a_long_text_is_cut_and_says_so() -> None:
    tokens = STEP("mail " * 500)
    assert len(ids(tokens)) == 128
    assert ids(tokens)[-1] == SEP
    assert tokens.truncated


def test_a_text_that_just_fits_is_not_called_truncated() -> None:
    word = ids(STEP("mail"))[1:-1]
    assert len(word) == 1
    assert not STEP("mail " * 126).truncated
    assert len(ids(STEP("mail " * 126))) == 128
    assert STEP("mail " * 127).truncated


def test_the_engines_longest_sequence_bounds_the_length() -> None:
    step = tokenize(limit=16)
    assert step.max_length == 16
    assert len(ids(step(TEXTS[6]))) == 16
    assert step(TEXTS[6]).truncated
    assert tokenize(limit=512).max_length == 128


def test_padding_and_truncation_of_the_file_do_not_count() -> None:
    file = json.loads(FILE)
    file["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    file["truncation"] = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    step = Tokenize(options(), json.dumps(file).encode())
    assert ids(step(TEXTS[2])) == ids(STEP(TEXTS[2]))


@pytest.mark.parametrize(
    ("text", "size"),
    [("x" * 4097, "4097"), ("é" * 2049, "4098"), ("x" * 100_000, "100000"), ("😀" * 1025, "4100")],
    ids=["ascii", "two bytes", "far over", "four bytes"],
)
def test_a_text_over_the_limit_is_refused(text: str, size: str) -> None:
    with pytest.raises(InputError, match=f"text: {size} bytes or more, at most 4096"):
        STEP(text)


@pytest.mark.parametrize("text", ["x" * 4096, "é" * 2048, "😀" * 1024])
def test_a_text_at_the_limit_is_taken(text: str) -> None:
    assert ids(STEP(text))


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="not valid Unicode"):
        STEP("mail \ud800 server")


@pytest.mark.parametrize("text", [None, 7, b"mail", ["mail"]])
def test_what_is_not_a_string_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="expected a string, found"):
        STEP(text)


@given(st.text(max_size=300))
def test_every_text_gets_ids_within_the_length(text: str) -> None:
    try:
        tokens = STEP(text)
    except InputError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in text)
        return
    assert 2 <= len(ids(tokens)) <= 128


def test_only_the_declared_inputs_are_made() -> None:
    names = ["input_ids", "attention_mask", "token_type_ids"]
    made = tokenize(inputs=names)("mail").tensors
    assert list(made) == names
    assert made["token_type_ids"].tolist() == [0, 0, 0]
    assert {value.dtype for value in made.values()} == {np.dtype(np.int64)}
    assert list(tokenize(inputs=["input_ids"])("mail").tensors) == ["input_ids"]


def test_tokens_say_where_they_stand() -> None:
    text = "a mail server"
    places = STEP(text).tokens
    assert places[0] is None
    assert places[-1] is None
    inner = [place for place in places if place is not None]
    assert all(isinstance(place, Token) for place in inner)
    assert "".join(text[place.start : place.end] for place in inner) == text.replace(" ", "")
    assert [place.word for place in inner] == sorted(place.word for place in inner)
    assert len(places[1:3]) == 2


def paired() -> Tokenize:
    file = json.loads(FILE)
    (name,) = (one for one in file["added_tokens"] if one["id"] == SEP)
    special = {"SpecialToken": {"id": name["content"], "type_id": 0}}
    file["post_processor"]["pair"] = [
        {"Sequence": {"id": "A", "type_id": 0}}, special, {"Sequence": {"id": "B", "type_id": 1}},
    ]  # fmt: skip
    names = ["input_ids", "attention_mask", "token_type_ids"]
    return Tokenize(options(pair=True, inputs=names, max_length=16), json.dumps(file).encode())


def test_two_texts_are_put_together_by_the_tokenizers_template() -> None:
    step = paired()
    item = step(("mail", "server"))
    mail, server = (ids(STEP(text))[1] for text in ("mail", "server"))
    assert ids(item) == [mail, SEP, server]
    assert item.tensors["token_type_ids"].tolist() == [0, 0, 1]
    assert step.options.takes == ("text-pair",)
    assert step(("mail " * 50, "server")).truncated


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("mail", "expected two texts, found str"),
        (("a", "b", "c"), "expected two texts, found 3 of them"),
        (("a", 7), "expected two strings, found int"),
        (("a", "x" * 5000), "second text: 5000 bytes or more"),
    ],
)
def test_what_is_no_pair_is_refused(given: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        paired()(given)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": ["input_ids", "position_ids"]}, "position_ids.*known are input_ids"),
        ({"inputs": ["attention_mask"]}, "must hold input_ids"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": "long"}, "max_length must be an integer"),
        ({"max_bytes": 1 << 30}, "max_bytes is"),
        ({"pad_id": -1}, "pad_id is -1"),
        ({"file": 7}, "file must be a string"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_faulty_option_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        options(**changed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"{}",
        lambda: b"\xff\xfe\x00",
        lambda: FILE[: len(FILE) // 2],
        lambda: b'{"version": "1.0", "model": {"type": "Telepathy"}}',
    ],
    ids=["empty", "no model", "not text", "cut off", "unknown model"],
)
def test_a_file_that_is_no_tokenizer_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(IncompatibleError, match=r"tokenizer\.json cannot be used"):
        Tokenize(options(), make())


def test_a_length_that_the_special_tokens_fill_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="2 special tokens fill a length of 2"):
        tokenize(max_length=2)
