"""The agent's log quotes strangers, and nothing in it acts on a terminal."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.agent.logs import JournalLine, Line, is_journal
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


@pytest.mark.parametrize(
    ("level", "head"),
    [
        ("CRITICAL", "<2>critical "),
        ("ERROR", "<3>error "),
        ("WARNING", "<4>warning "),
        ("INFO", "<6>info "),
        ("DEBUG", "<7>debug "),
    ],
)
def test_the_journal_gets_a_priority_and_no_time(level: str, head: str) -> None:
    record = logging.makeLogRecord(
        {"msg": "ended", "levelname": level, "levelno": getattr(logging, level), "pid": 7}
    )
    assert JournalLine("worker").format(record) == f"{head}worker: ended pid=7"


def test_every_line_of_a_traceback_has_its_priority() -> None:
    try:
        raise ValueError(f"{ESCAPES}\n<0>not for everybody's terminal")
    except ValueError:
        record = logging.makeLogRecord(
            {"msg": "m", "levelname": "ERROR", "levelno": logging.ERROR, "exc_info": sys.exc_info()}
        )
    lines = JournalLine("worker").format(record).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def test_the_journal_is_told_by_its_file_not_by_a_variable_alone(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("wb") as file:
        found = os.fstat(file.fileno())
        told = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(file.fileno(), told)
        assert not is_journal(file.fileno(), {})
    with (tmp_path / "elsewhere").open("wb") as file:
        assert not is_journal(file.fileno(), told)
    assert not is_journal(-1, told)


def test_a_process_of_ours_whose_stderr_is_the_journal_writes_for_it(tmp_path: Path) -> None:
    script = (
        "import logging; from edge_runtime.agent import logs; logs.configure('info', 'worker');"
        "logging.getLogger('x').warning('disk is slow', extra={'took_s': 2})"
    )
    with (tmp_path / "journal").open("w+b") as file:
        found = os.fstat(file.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        subprocess.run(
            [sys.executable, "-c", script], stderr=file, env=environment, check=True, timeout=60
        )
        file.seek(0)
        assert file.read() == b"<4>warning worker: disk is slow took_s=2\n"
