"""A whole ARM64 board: flashed, serving, updated through a power cut. See tests/board/whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.board import host, image
from tests.board.whole.run import Options, run
from tests.board.whole.story import CUTS

HOURS_S = 3 * 3600

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(HOURS_S),
]


@pytest.mark.parametrize("flavour", ["bookworm", "trixie", "jetson"])
def test_a_flashed_board_serves_by_itself_and_a_power_cut_does_not_stop_its_update(
    flavour: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.missing(images=True) == []
    model = os.environ.get("EDGE_BOARD_MODEL", "minilm")
    logs = image.cache_folder() / "logs" / flavour

    def say(what: str) -> None:
        with capsys.disabled():
            print(f"\n  board, {flavour}: {what}", end="", flush=True)

    say(f"serial logs in {logs}")
    outcome = run(Options(flavour, model, Path(logs)), say)
    assert outcome.broken == []
    assert [one.variant.split("-")[0] for one in outcome.agreements] == ["litert", "ort"]
    assert [cut.split(":")[0] for cut in outcome.cuts] == list(CUTS)
