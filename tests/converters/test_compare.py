"""Two bundles side by side: what differs, whether it may be compared, and what both do here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.compare import Answers, Comparison, alike, compare, comparison_json, comparison_text
from converters.pipeline import Conversion
from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.results import Classification, Embedding
from tests.converters.small import MAX_LENGTH, EdgeConvert

IDS = ("one", "other")


def bundle(conversion: Conversion) -> Path:
    assert conversion.model.bundle is not None
    return conversion.model.bundle


def changed(conversion: Conversion, folder: Path, change: Any) -> Path:
    """The bundle with another manifest, as a folder."""
    source = bundle(conversion).with_suffix("")
    shutil.copytree(source, folder)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    change(manifest)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def compared(converted: Conversion, continued: Conversion) -> Comparison:
    return compare(bundle(converted), bundle(continued), runs=3)


def test_what_both_answer_is_counted(compared: Comparison, converted: Conversion) -> None:
    assert compared.answers is not None
    verdict = converted.model.verdict
    assert verdict is not None
    assert compared.answers.texts == len(verdict.golden.raw) == 4
    assert compared.answers.same is not None
    assert compared.answers.same >= 0.5, "the head was only trained a little further"
    assert compared.answers.score_change is not None
    assert 0 < compared.answers.score_change < 0.5
    assert compared.answers.cosine_mean is None


def test_every_variant_of_both_is_timed_at_the_same_lengths(compared: Comparison) -> None:
    assert {name.partition(" ")[0] for name in compared.latency_ms} == {"A", "B"}
    assert len(compared.latency_ms) == 4
    for times in compared.latency_ms.values():
        assert sorted(times) == [16, MAX_LENGTH]
        assert all(p50 > 0 for p50 in times.values())


def test_a_bundle_agrees_with_itself(converted: Conversion) -> None:
    found = compare(bundle(converted), bundle(converted).with_suffix(""), runs=1)
    assert found.answers is not None
    assert (found.answers.same, found.answers.score_change) == (1.0, 0.0)
    assert found.cautions == ()
    told = comparison_json(found)
    assert set(told["same_files"]) == set(told["bundles"][0]["files"])
    assert "+0.00 points" in comparison_text(found)


def test_the_table_fits_a_terminal(compared: Comparison, converted: Conversion) -> None:
    text = comparison_text(compared)
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert "A  small 1.0.0 for board: text-classification" in text
    assert "B  small 2.0.0" in text
    assert "accuracy" in text
    assert "the same label" in text


def test_the_json_holds_everything(compared: Comparison) -> None:
    told = json.loads(json.dumps(comparison_json(compared), allow_nan=False))
    first, second = told["bundles"]
    assert (first["version"], second["version"]) == ("1.0.0", "2.0.0")
    assert first["quality"]["n"] == 100
    assert {"tokenizer.json"} <= set(told["same_files"])
    assert first["variants"][0]["latency_ms"].keys() == {"16", str(MAX_LENGTH)}


def test_figures_of_other_test_rows_are_not_compared(converted: Conversion, tmp_path: Path) -> None:
    def other_rows(manifest: Any) -> None:
        manifest["quality"]["data_sha256"] = "0" * 64
        manifest["provenance"]["source_sha256"] = "1" * 64

    other = changed(converted, tmp_path / "other", other_rows)
    found = compare(bundle(converted), other, runs=1)
    assert any("different test rows" in one for one in found.cautions)
    assert any("different models" in one for one in found.cautions)
    text = comparison_text(found)
    assert "points" not in text
    assert "caution: their quality was measured on different test rows" in text


def test_a_bundle_without_figures_has_none_made_up(converted: Conversion, tmp_path: Path) -> None:
    other = changed(converted, tmp_path / "other", lambda m: m.update(quality=None))
    found = compare(bundle(converted), other, runs=1)
    assert "not both say how good they are" in found.cautions
    assert "–" in comparison_text(found)


def test_golden_vectors_without_texts_leave_the_answers_out(
    converted: Conversion, tmp_path: Path
) -> None:
    other = changed(converted, tmp_path / "other", lambda m: m["golden"].update(raw=[]))
    found = compare(other, bundle(converted), runs=1)
    assert found.answers is None
    assert any("without raw inputs" in one for one in found.skipped)


def test_a_variant_whose_engine_is_not_here_is_left_out(
    converted: Conversion, tmp_path: Path
) -> None:
    def strange(manifest: Any) -> None:
        manifest["variants"][0]["backend"] = "tensorrt"

    other = changed(converted, tmp_path / "other", strange)
    found = compare(bundle(converted), other, runs=1)
    assert len(found.latency_ms) == 3
    assert any(one.startswith("B ") and "tensorrt" in one for one in found.skipped)
    assert "left out: B " in comparison_text(found)


def test_two_tasks_are_refused(converted: Conversion, tmp_path: Path) -> None:
    other = changed(converted, tmp_path / "other", lambda m: m.update(task="embedding"))
    with pytest.raises(InputError, match="tasks are text-classification and embedding"):
        compare(bundle(converted), other, runs=1)


def classified(label: str, score: float) -> Classification:
    return Classification(label, score, ((label, score), ("rest", 1 - score)))


def test_another_label_counts_with_the_probability_that_it_took() -> None:
    first = [classified("a", 0.9), classified("a", 0.8)]
    second = [classified("a", 0.7), classified("b", 0.6)]
    found = alike(first, second, IDS)
    assert found.same == 0.5
    assert found.score_change == pytest.approx((0.2 + 0.8) / 2)


def test_vectors_are_compared_by_their_angle() -> None:
    one = Embedding(np.array([1, 0], dtype=np.float32))
    up = Embedding(np.array([0, 2], dtype=np.float32))
    found = alike([one, one], [one, up], IDS)
    assert (found.cosine_mean, found.cosine_min) == (0.5, 0.0)
    longer = Embedding(np.ones(3, dtype=np.float32))
    assert alike([one], [longer], IDS) == Answers(1, IDS)


def test_the_command_compares_and_checks(
    edge_convert: EdgeConvert, converted: Conversion, continued: Conversion, tmp_path: Path
) -> None:
    first, second = bundle(converted), bundle(continued)
    code, out, err = edge_convert("compare", first, second, "--runs", "1")
    assert code == 0, err
    assert "B against A" in out
    code, out, _ = edge_convert("compare", "--json", first, second, "--runs", "1")
    assert code == 0
    assert json.loads(out)["answers"]["texts"] == 4
    code, _, err = edge_convert("compare", first, tmp_path / "none.edge")
    assert code == 1
    assert "none.edge" in err
    code, _, err = edge_convert("compare", first, second, "--runs", "0")
    assert code == 1
    assert "--runs 0" in err


def test_a_damaged_bundle_is_not_run(
    edge_convert: EdgeConvert, converted: Conversion, tmp_path: Path
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(bundle(converted).with_suffix(""), folder)
    pack(FolderReader(folder), tmp_path / "good.edge")
    model = next(folder.glob("*.onnx"))
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    code, _, err = edge_convert("compare", tmp_path / "good.edge", folder)
    assert code == 3
    assert model.name in err
