"""docs/trust.md says what the code does: its commands are ones, its defaults are the defaults."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edge_runtime.fleet.keyring import PIN_VARIABLE
from edge_runtime.fleet.metadata import MAX_BYTES
from edge_runtime.fleet.options import parser
from edge_runtime.fleet.settings import EXPIRY_DAYS
from edge_runtime.fleet.tree import KEPT_VERSIONS

PAGE = (Path(__file__).parents[2] / "docs" / "trust.md").read_text()


def commands() -> list[str]:
    """Every `edge-fleet` command in a block of shell."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [line for line in blocks.splitlines() if line.startswith("edge-fleet ")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_is_one(command: str) -> None:
    _, *words = shlex.split(command, comments=True)
    assert parser().parse_args(words).verb == words[0]


def test_the_page_has_the_defaults_and_limits() -> None:
    assert len(commands()) > 20
    for role, days in EXPIRY_DAYS.items():
        assert re.search(rf"^\| {role} \|.*\| {days} days \|", PAGE, re.MULTILINE), role
    assert {role: size >> 10 for role, size in MAX_BYTES.items()} == {
        "root": 128, "targets": 128, "snapshot": 128, "timestamp": 16,
    }  # fmt: skip
    assert "128 KiB\nfor root, targets and snapshot, 16 KiB for timestamp" in PAGE
    assert KEPT_VERSIONS == 3
    assert "the newest three" in PAGE
    assert PIN_VARIABLE in PAGE
