"""docs/doctor.md and the code hold the same findings, levels and commands."""

from __future__ import annotations

import ast
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from edge_runtime.agent.doctor import examine
from edge_runtime.agent.doctor.finding import CATALOGUE, GROUPS, Finding, Level
from edge_runtime.agent.options import parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text()
FOLDER = ROOT / "edge_runtime" / "agent" / "doctor"
MAKERS = {"ok", "warning", "obstacle", "unknown"}


def rows() -> list[tuple[str, str, str]]:
    """(id, what it looks at, what to do) of every finding on the page."""
    found = re.findall(r"^\| `([a-z]+\.[a-z-]+)` \| (.+?) \| ?(.*?) ?\|$", PAGE, re.MULTILINE)
    return [(id, looks, todo) for id, looks, todo in found]


@cache
def made() -> dict[str, set[str]]:
    """The levels that the source gives each id."""
    levels: dict[str, set[str]] = {}
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in MAKERS and node.args and isinstance(node.args[0], ast.Constant):
                levels.setdefault(str(node.args[0].value), set()).add(node.func.id)
    return levels


def test_the_page_explains_every_finding_once_in_the_order_of_the_catalogue() -> None:
    assert [id for id, _, _ in rows()] == list(CATALOGUE)
    assert [id.partition(".")[0] for id in CATALOGUE] == sorted(
        (id.partition(".")[0] for id in CATALOGUE), key=list(GROUPS).index
    )
    headings = [line[3:] for line in PAGE.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in GROUPS.values()] == list(GROUPS.values())


def test_the_code_makes_every_finding_of_the_catalogue_and_no_other() -> None:
    assert made().keys() == CATALOGUE.keys()


def test_the_page_says_what_to_do_for_all_that_may_not_be_ok() -> None:
    for id, looks, todo in rows():
        amiss = made()[id] & {"warning", "obstacle"}
        assert bool(todo) == bool(amiss), (id, amiss, todo)
        assert looks


def test_a_look_that_fails_has_an_id_of_the_catalogue() -> None:
    assert {*examine.LOOKS, *examine.ENGINE_LOOKS} <= CATALOGUE.keys()


def test_the_levels_of_the_page_are_the_levels() -> None:
    assert re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE) == [one.value for one in Level]


def test_the_example_of_the_page_is_one() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    example = json.loads(block)
    finding = Finding(
        example["id"], Level(example["level"]), example["text"], example["advice"],
        example["subject"], example["values"],
    )  # fmt: skip
    assert finding.as_json() == example


def commands() -> list[str]:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    return [line for line in blocks.splitlines() if line.startswith("edge-agent ")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_is_one(command: str) -> None:
    _, *words = shlex.split(command, comments=True)
    assert parser().parse_args(words).verb == "doctor"
