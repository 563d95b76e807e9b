"""The benchmark of pruning runs on a recipe, and its rows are the pass's own figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compression_pruning
from benchmarks.compression_pruning import cases


def test_every_way_is_a_case_of_its_own() -> None:
    assert len(set(cases())) == len(cases()) == 32


def test_a_subset_is_measured(
    workshop: Path,
    cache_folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(cache_folder))
    recipe = workshop / "recipe.toml"
    options = ["--reference", str(recipe), "--only", "heads −50%, obs", "--json"]
    assert compression_pruning.main(options) == 0
    (row,) = json.loads(capfd.readouterr().out)[recipe.stem]
    assert row["after"] * 2 == row["before"]
    assert -1 <= row["cosine_min"] <= row["cosine_mean"] <= 1
    assert 0 <= row["agreement"] <= 1
