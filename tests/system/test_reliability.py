"""A small share of every kind of fault; `make reliability` runs all of them and writes the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fakes.brokers import ROOT
from tests.reliability import strace
from tests.reliability.__main__ import KINDS
from tests.reliability.case import Setting
from tests.reliability.page import COLUMNS

SHARE = {
    "kill-journal": 8,
    "kill-calls": 10,
    "no-space": 6,
    "io-error": 10,
    "random-kills": 3,
    "broker-killed": 1,
    "network": 1,
    "chunks": 2,
}
TRACED = ("kill-journal", "kill-calls", "no-space", "io-error")


@pytest.mark.parametrize("name", KINDS)
def test_an_update_survives(name: str, tmp_path: Path) -> None:
    if name in TRACED and (obstacle := strace.obstacle()):
        pytest.skip(obstacle)
    cases = list(KINDS[name].run(Setting(tmp_path, SHARE[name])))
    assert len(cases) == SHARE[name]
    broken = [f"{case.what}: {'; '.join(case.broken)}" for case in cases if case.broken]
    assert broken == []


def test_every_kind_has_its_row_on_the_page_and_no_case_is_broken() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| (.+?) \|(.+)\|$", page, re.MULTILINE)
    # A kind of which only a share was run says so behind its title.
    by_title = {title.removesuffix(" (a share)"): figures.split("|") for title, figures in rows}
    for kind in KINDS.values():
        figures = [int(figure.replace(",", "")) for figure in by_title[kind.title]]
        assert len(figures) == len(COLUMNS) - 1
        assert figures[0] == sum(figures[1:4]) > 0
        assert figures[-1] == 0
