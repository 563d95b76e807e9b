"""What strangers wrote is harmless on a terminal, and sizes are for people."""

from __future__ import annotations

import json

import pytest

from edge_runtime.text import MAX_SHOWN, json_line, plain, size
from tests.fakes.operators import ESCAPES, clean


def test_control_and_direction_characters_become_spaces() -> None:
    shown = plain(ESCAPES)
    assert clean(shown)
    assert "\n" not in shown
    assert "\t" not in shown
    assert "pwned" in shown


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\x9b", "\x7f", "\u2028", "\u202e", "\ud800"])
def test_each_dangerous_character_is_replaced_one_for_one(char: str) -> None:
    assert plain(f"a{char}b") == "a b"


def test_words_in_any_script_pass() -> None:
    text = "Größe 12 °C, 温度, температура"
    assert plain(text) == text


def test_what_is_long_is_cut_with_a_sign() -> None:
    assert plain("x" * MAX_SHOWN) == "x" * MAX_SHOWN
    assert plain("x" * 10**6) == "x" * (MAX_SHOWN - 1) + "…"
    assert plain("abcdef", 4) == "abc…"


def test_json_for_scripts_is_one_line_of_ascii_that_reads_back() -> None:
    line = json_line({"text": ESCAPES})
    assert clean(line)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line) == {"text": ESCAPES}


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (13_420_000, "13.4 MB"), (5e9, "5.0 GB")],
)
def test_a_thousand_is_a_thousand(size_bytes: float, shown: str) -> None:
    assert size(size_bytes) == shown
