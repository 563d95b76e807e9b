"""docs/threat-model.md: what it says shows a defence exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from edge_runtime.update.trust import client
from tests.fakes.attacks import ATTACKS, ROLES, TEAM

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
ROWS = {attack.name for attack in ATTACKS}


def names_of_all_tests() -> set[str]:
    """The names of all test functions."""
    return {
        node.name
        for path in (ROOT / "tests").glob("**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def table_cells() -> list[str]:
    """The last cell of each row of each table."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ")[-1] for line in rows]


def rows_named(name: str) -> set[str]:
    return {name.format(role=role) for role in (*ROLES, TEAM)}


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 30
    assert named - names_of_all_tests() == set()


def test_every_attack_that_the_page_names_is_a_row_of_the_table() -> None:
    named = {n for cell in table_cells() for n in re.findall(r"`([^`]+)`", cell)}
    rows = {name for name in named if not name.startswith("test_")}
    assert len(rows) > 30
    assert [name for name in rows if not rows_named(name) <= ROWS] == []


def test_every_row_of_an_attack_table_says_what_shows_it() -> None:
    """But for the two against which nothing helps."""
    heads = {"shown by", "what ends it, and what shows it", "---|---|---", "|---|---|---|"}
    bare = [c for c in table_cells() if "`" not in c and c not in heads]
    assert bare == ["nothing; flash again", "a new authority; every device is flashed anew"]


def test_the_page_tells_the_bounds_that_the_code_has() -> None:
    assert f"{client.MAX_DELEGATIONS} at most" in PAGE
    assert f"More than {client.MAX_ROOT_ROTATIONS} roots" in PAGE
