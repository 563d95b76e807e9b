"""What `fields` lets in from outside, and how it says no."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fields import MAX_DEPTH, Fields, Json, decode_json, encode_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def decode(data: bytes, max_bytes: int = 1000) -> Json:
    return decode_json(data, max_bytes=max_bytes, where="it", error=UntrustedError)


def fields(value: object, faults: list[str] | None = None) -> Fields:
    return Fields(value, "it", InputError, faults)


@given(JSON)
def test_what_is_encoded_decodes_to_the_same(value: Json) -> None:
    assert decode(encode_json(value), 1 << 20) == value


def test_equal_objects_have_equal_bytes() -> None:
    assert (
        encode_json({"b": 1, "a": "é"})
        == encode_json({"a": "é", "b": 1})
        == ('{"a":"é","b":1}\n'.encode())
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"1" * 1001, "1001 bytes, at most 1000"),
        (b"\xff", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a":1,"a":2}', "same key twice"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"[1e999]", "out of range"),
        (b"[" + b"9" * 900 + b".0]", "out of range"),
        (b'["\\ud800"]', "surrogates not allowed"),
        (b"[" * 100, "nested deeper"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper"),
        (b'"\x00"', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
    ],
)
def test_json_that_no_honest_writer_sends_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(UntrustedError, match=says):
        decode(data)


def test_an_integer_of_too_many_digits_is_refused_and_not_converted() -> None:
    with pytest.raises(UntrustedError, match="an integer of 5000 digits"):
        decode(b"[" + b"9" * 5000 + b"]", 10_000)


def test_nesting_up_to_the_limit_is_read() -> None:
    assert decode(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


def test_brackets_inside_a_string_are_not_nesting() -> None:
    text = '[{"' * 50 + "\\"
    assert decode(encode_json([text])) == [text]


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert decode(b'"\\ud83d\\ude00"') == "\U0001f600"


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_the_given_error(data: bytes) -> None:
    with contextlib.suppress(UntrustedError):
        decode(data)


@pytest.mark.parametrize(
    ("value", "read", "says"),
    [
        ({}, lambda f: f.text("k"), "it: k is missing, expected a string"),
        ({"k": 1}, lambda f: f.text("k"), "it: k must be a string, found 1"),
        ({"k": None}, lambda f: f.text("k"), "it: k must be a string, found nothing"),
        ({"k": "x" * 9}, lambda f: f.text("k", max_len=8), "k has 9 characters, at most 8"),
        ({"k": "B"}, lambda f: f.text("k", pattern="[a-z]"), "k is 'B', expected the form"),
        ({"k": "a\n"}, lambda f: f.text("k", pattern="[a-z]"), "expected the form"),
        ({"k": "c"}, lambda f: f.choice("k", ("a", "b")), "'c', expected one of a, b"),
        ({"k": True}, lambda f: f.integer("k"), "k must be an integer, found true"),
        ({"k": 1.5}, lambda f: f.integer("k"), "k must be an integer, found 1.5"),
        ({"k": -1}, lambda f: f.integer("k"), "k is -1, expected 0.."),
        ({"k": 16**9999}, lambda f: f.integer("k"), "an integer of 39997 bits"),
        ({"k": float("nan")}, lambda f: f.number("k"), "k is nan, expected"),
        ({"k": 10**400}, lambda f: f.number("k"), "an integer of 1329 bits"),
        ({"k": "1"}, lambda f: f.number("k"), "k must be a number, found '1'"),
        ({"k": 1}, lambda f: f.boolean("k"), "k must be true or false, found 1"),
        ({"k": []}, lambda f: f.object("k"), "k must be an object, found a list"),
        ({"k": {}}, lambda f: f.items("k"), "k must be a list, found an object"),
        ({"k": "ab"}, lambda f: f.items("k"), "k must be a list, found 'ab'"),
        ({"k": [1, 2, 3]}, lambda f: f.items("k", max_items=2), "has 3 entries, expected 0..2"),
        ({"k": [1]}, lambda f: f.objects("k", max_items=2), r"it.k\[0\]: expected an object"),
        ({"k": ["a", 1]}, lambda f: f.texts("k", max_items=2), r"k\[1\] must be a string"),
        ({"k": [1, True]}, lambda f: f.numbers("k", max_items=2), r"k\[1\] must be a finite"),
        ({"k": [10**400]}, lambda f: f.numbers("k", max_items=2), r"k\[0\] must be a finite"),
        ([], lambda f: f.text("k", ""), "it: expected an object, found a list"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(value, read, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=says):
        read(fields(value))


def test_defaults_stand_in_for_absent_keys_only() -> None:
    f = fields({"null": None, "there": 3})
    assert (f.text("a", "x"), f.integer("b", 7), f.texts("c", (), max_items=1)) == ("x", 7, ())
    assert f.number("there") == 3.0
    assert not f.present("null")
    assert f.present("there")
    assert "null" in f


def test_an_inner_object_says_where_it_stands() -> None:
    with pytest.raises(InputError, match=r"it\.a\.b\[1\]: c is missing"):
        fields({"a": {"b": [{"c": 1}, {}]}}).object("a").objects("b", max_items=2)[1].integer("c")


def test_collected_faults_come_as_one_error() -> None:
    f = fields({"a": 1, "n": 10**400, "o": 3}, [])
    f.text("a")
    f.integer("b")
    f.number("n")
    f.object("o").text("p")
    with pytest.raises(InputError) as caught:
        f.done()
    assert [part in str(caught.value) for part in ("a must", "b is missing", "bits", "o must")] == (
        [True] * 4
    )


def test_unknown_keys_are_those_that_nobody_asked_for() -> None:
    f = fields({"a": 1, "z": 1, "b": 2})
    f.integer("a")
    assert f.unknown() == ["b", "z"]
    assert f.rest("a") == {"z": 1, "b": 2}
    assert f.unknown() == []


def test_a_hostile_key_does_not_make_a_long_message() -> None:
    with pytest.raises(InputError) as caught:
        fields({"x" * 100_000: "y"}).integer("x" * 100_000)
    assert len(str(caught.value)) < 600


def test_a_sentence_for_people_is_cut_and_not_refused() -> None:
    assert fields({"why": "x" * 5000}).sentence("why") == "x" * 2048
    assert fields({}).sentence("why", "") == ""
    with pytest.raises(InputError, match="why must be a string"):
        fields({"why": 1}).sentence("why")
