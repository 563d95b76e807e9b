"""The agent's log quotes strangers, and nothing in it acts on a terminal."""

from __future__ import annotations

import logging
import sys

import pytest

from edge_runtime.agent.logs import Line
from tests.fakes.operators import ESCAPES, clean


def line(message: str, **extras: object) -> str:
    return Line("worker").format(
        logging.makeLogRecord({"msg": message, "levelname": "ERROR", **extras})
    )


def test_escapes_in_a_message_and_in_values_are_harmless() -> None:
    shown = line(f"refused: {ESCAPES}", reason=ESCAPES, path="\x1b[2J", title="\x1b]0;x\x07")
    assert clean(shown)
    assert "\n" not in shown
    assert shown.count("pwned") == 2
    assert shown.endswith(r"path='\x1b[2J' title='\x1b]0;x\x07'")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("word", "word"), ("Größe", "Größe"), ("two words", "'two words'"), ("", "''")]
    + [(f"a{char}b", repr(f"a{char}b")) for char in "\x1b\x9b\x00\u202e\u2028\n\t=\"'"],
)
def test_a_value_is_quoted_where_it_would_not_stay_one_harmless_word(
    value: str, shown: str
) -> None:
    assert line("m", key=value).endswith(f" error worker: m key={shown}")


def test_a_traceback_keeps_its_lines_and_loses_its_escapes() -> None:
    try:
        raise ValueError(ESCAPES)
    except ValueError:
        shown = line("inference failed", exc_info=sys.exc_info(), stack_info=f"at {ESCAPES}")
    assert clean(shown)
    assert "ValueError: " in shown
    assert "pwned" in shown
    assert shown.count("\n") >= 3
    assert "\r" not in shown


def test_a_line_without_end_is_cut() -> None:
    assert len(line("x" * 1_000_000, key="y" * 1_000_000)) < 20_000
