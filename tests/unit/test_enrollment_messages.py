"""Tokens as people paste them, and what board and server say to each other: what is taken."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import EdgeError, IncompatibleError, InputError, UntrustedError
from edge_runtime.messages.enrollment import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    TOKEN_HEAD,
    Address,
    EnrollAnswer,
    EnrollRequest,
    OwnProfile,
    Token,
    refusal_bytes,
    refusal_of,
)

SECRET = "s3cret_-" * 5 + "abc"
TOKEN = Token("press-7", (Address("fleet.example"), Address("fd00::7", 9000)), "ab" * 32, SECRET)
REQUEST = EnrollRequest("press-7", SECRET, "a csr", "0.2.0", "aarch64", "3.11.2")
ANSWER = EnrollAnswer("press-7", "cert", "ca", "{}", "x = 1", OwnProfile("b.toml", "y"))


def forged(body: bytes) -> str:
    """A token whose checksum is right, whatever it holds."""
    data = hashlib.sha256(body).digest()[:4] + body
    return TOKEN_HEAD + base64.urlsafe_b64encode(data).decode().rstrip("=")


def changed(**values: object) -> str:
    value = {"device": "d", "addresses": ["h"], "pin": "ab" * 32, "secret": SECRET, **values}
    return forged(json.dumps(value).encode())


def test_a_token_comes_back_as_it_was_made() -> None:
    assert Token.parse(TOKEN.text) == TOKEN
    assert Token.parse(f"  {TOKEN.text}\n") == TOKEN


def test_a_token_is_one_word_that_no_shell_changes() -> None:
    assert TOKEN.text.replace("-", "").replace("_", "").isalnum()
    assert not TOKEN.text.startswith("-")
    assert len(TOKEN.text) < 400


def test_a_token_and_a_request_are_shown_without_their_secret() -> None:
    assert SECRET not in repr(TOKEN)
    assert SECRET not in repr(REQUEST)
    assert SECRET not in TOKEN.sha256


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not begin with edge1_"),
        ("correct horse", "does not begin with edge1_"),
        (TOKEN.text[:-1], "was cut or mistyped"),
        (TOKEN.text[: len(TOKEN.text) // 2], "was cut or mistyped"),
        (TOKEN_HEAD, "was cut or mistyped"),
        (TOKEN.text.replace(TOKEN.text[50], "A" if TOKEN.text[50] != "A" else "B", 1), "was cut"),
        (TOKEN.text + "=", "was cut or mistyped"),
        (TOKEN.text[:40] + "ü" + TOKEN.text[41:], "was cut or mistyped"),
        (TOKEN_HEAD + "x" * 5000, "5006 characters, at most 4096"),
        (forged(b"not json"), "not valid JSON"),
        (forged(b"[]"), "expected an object"),
        (changed(device="../etc"), "device is"),
        (changed(pin="zz"), "pin is"),
        (changed(addresses=[]), "names no address"),
        (changed(addresses=["h"] * 17), "17 entries"),
        (changed(addresses=["http://h"]), "expected HOST or HOST:PORT"),
        (changed(addresses=["h:99999"]), "expected HOST or HOST:PORT"),
        (changed(addresses=["h$(reboot)"]), "expected HOST or HOST:PORT"),
        (changed(secret="short"), "secret has 5 characters"),
    ],
)
def test_what_is_no_token_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Token.parse(text)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_token_of_another_format_says_which_software_is_too_old() -> None:
    with pytest.raises(IncompatibleError, match="begins with edge2_, this software reads edge1_"):
        Token.parse("edge2_abc")


@given(st.text(max_size=300))
def test_no_text_raises_anything_else(text: str) -> None:
    for wrong in (text, TOKEN_HEAD + text):
        with pytest.raises(EdgeError):
            Token.parse(wrong)


def test_request_and_answer_come_back_as_they_were_written() -> None:
    assert EnrollRequest.from_bytes(REQUEST.to_bytes()) == REQUEST
    assert EnrollAnswer.from_bytes(ANSWER.to_bytes()) == ANSWER
    assert refusal_of(refusal_bytes("no")) == "no"
    assert refusal_of(b"<html>") == ""


def test_a_request_is_bounded_and_its_secret_is_never_quoted() -> None:
    with pytest.raises(InputError, match="at most"):
        EnrollRequest.from_bytes(b" " * (MAX_REQUEST_BYTES + 1))
    value = json.loads(REQUEST.to_bytes())
    for secret in ("x" * 42, "x" * 44, f"{SECRET[:-1]}!"):
        with pytest.raises(InputError) as caught:
            EnrollRequest.from_bytes(json.dumps({**value, "secret": secret}).encode())
        assert secret not in str(caught.value)
    with pytest.raises(IncompatibleError, match="format 2"):
        EnrollRequest.from_bytes(json.dumps({**value, "format": 2}).encode())


@pytest.mark.parametrize("file", ["../x.toml", "/etc/x.toml", "agent.txt", ".toml", "a/b.toml"])
def test_a_profile_in_an_answer_cannot_leave_its_folder(file: str) -> None:
    value = json.loads(ANSWER.to_bytes())
    value["profile"]["file"] = file
    with pytest.raises(UntrustedError, match="file is"):
        EnrollAnswer.from_bytes(json.dumps(value).encode())


def test_an_answer_without_end_is_refused_before_it_is_read() -> None:
    with pytest.raises(UntrustedError, match="at most"):
        EnrollAnswer.from_bytes(b"{" * (MAX_ANSWER_BYTES + 1))
