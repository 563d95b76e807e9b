"""A search from end to end on a small real network: what it writes, says, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.distil.config import DistilConfig
from converters.model import Artifact
from converters.pipeline import Options as ConvertOptions
from converters.pipeline import convert
from converters.progress import Silent
from converters.quantize.config import QuantizeConfig
from converters.recipe import load_recipe
from converters.search.base import base_recipe
from converters.search.budget import Budget
from converters.search.result import ORIGINAL, Found
from converters.search.search import NotMet, Options, optimize
from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import InputError
from edge_runtime.profile import DeviceProfile
from tests.converters.small import EdgeConvert, as_lines, picked

MINUTES = 0.4
SMALL = Budget(size_bytes=1.05e6, drop=0.6)
"""The original takes 1.9 MB with INT8 weights, 1.1 with four bits where they lose least; two thirds
of it are the embedding of 12,000 tokens."""


@pytest.fixture(scope="module")
def found(
    workshop: Path,
    cache_folder: Path,
    board: DeviceProfile,
    tmp_path_factory: pytest.TempPathFactory,
) -> Found:
    """A search that may lose much, if only the file is small."""
    out = tmp_path_factory.mktemp("search")
    recipe = load_recipe(workshop / "recipe.toml")
    return optimize(recipe, board, SMALL, Options(out, cache_folder, MINUTES), Silent())


def test_a_smaller_shape_is_found(found: Found) -> None:
    assert found.tried
    assert found.choice is not None
    chosen = found.finalist(found.choice)
    assert not chosen.candidate.startswith(ORIGINAL)
    assert chosen.cost.size_bytes <= SMALL.size_bytes
    assert all(
        one.cost.size_bytes > SMALL.size_bytes
        for one in found.finalists
        if one.candidate == ORIGINAL
    )
    assert chosen.cost.ram_bytes > 10e6
    assert chosen.evidence.n == 100
    assert found.choice in found.front


def test_the_bundle_of_the_choice_holds_its_variant_alone(found: Found) -> None:
    assert found.chosen is not None
    assert found.choice is not None
    bundle = found.chosen.model.bundle
    assert bundle is not None
    manifest = verify(open_bundle(bundle)).manifest
    assert [one.id for one in manifest.variants] == [found.finalist(found.choice).name]
    assert manifest.quality is not None
    assert manifest.quality.bundle == pytest.approx(found.finalist(found.choice).evidence.value)


def test_the_recipe_that_was_written_makes_the_same_bundle(
    found: Found, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    assert found.recipe is not None
    assert found.chosen is not None
    (again,) = convert(found.recipe, [board], ConvertOptions(tmp_path, cache_folder), Silent())
    first, second = found.chosen.model.bundle, again.model.bundle
    assert first is not None
    assert second is not None
    assert Artifact.of(first).sha256 == Artifact.of(second).sha256


def test_a_search_that_is_run_again_goes_on_from_what_was_trained(
    found: Found, workshop: Path, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    recipe = load_recipe(workshop / "recipe.toml")
    again = optimize(recipe, board, SMALL, Options(tmp_path, cache_folder, MINUTES), Silent())
    after = {one.name: one for one in again.tried}
    for one in found.tried:
        assert after[one.name].rungs[: len(one.rungs)] == one.rungs
    # What took time then is found, and was not trained again: it tells how long it took then.
    first = found.tried[-1]
    if after[first.name].rungs == first.rungs:
        assert after[first.name] == first


def test_another_budget_takes_what_is_there(
    found: Found, workshop: Path, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    recipe = load_recipe(workshop / "recipe.toml")
    bound = Budget(size_bytes=1e9, drop=0.5)
    options = Options(tmp_path, cache_folder, MINUTES, training=False)
    result = optimize(recipe, board, bound, options, Silent())
    assert result.tried == ()
    assert result.choice is not None
    assert result.choice.startswith(ORIGINAL)


def test_where_int8_is_too_large_layers_go_to_four_bits(
    workshop: Path, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    recipe = load_recipe(workshop / "recipe.toml")
    options = Options(tmp_path, cache_folder, MINUTES, training=False)
    result = optimize(recipe, board, Budget(size_bytes=1.75e6, drop=0.6), options, Silent())
    assert result.choice is not None
    chosen = result.finalist(result.choice)
    assert chosen.candidate == f"{ORIGINAL}-mixed"
    assert chosen.name.endswith("-mixed")
    assert chosen.cost.size_bytes <= 1.75e6
    assert result.recipe is not None
    quantization = load_recipe(result.recipe).config(QuantizeConfig)
    assert quantization is not None
    assert quantization.engines[chosen.backend].layers


def test_a_budget_that_nothing_meets_names_the_nearest(
    workshop: Path, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    recipe = load_recipe(workshop / "recipe.toml")
    options = Options(tmp_path, cache_folder, MINUTES, training=False)
    made = optimize(recipe, board, Budget(drop=0.1), options, Silent()).chosen
    assert made is not None
    assert made.model.bundle is not None
    assert made.model.bundle.is_file()
    with pytest.raises(
        NotMet, match=r"no candidate meets it; the nearest is original/.* what binds"
    ):
        optimize(recipe, board, Budget(size_bytes=1000), options, Silent())
    assert not list(tmp_path.glob("small-*")), "no bundle that is over the budget is left"


def test_what_a_search_decides_may_not_stand_in_the_recipe(
    found: Found, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    assert found.recipe is not None
    again = load_recipe(found.recipe)
    options = Options(tmp_path, cache_folder, MINUTES)
    with pytest.raises(InputError, match=r"has the pass '\w+', which a search decides"):
        optimize(again, board, SMALL, options, Silent())


def test_the_command_prints_a_table_and_writes_everything(
    edge_convert: EdgeConvert, found: Found, workshop: Path, cache_folder: Path, tmp_path: Path
) -> None:
    code, out, err = edge_convert(
        "optimize", workshop / "recipe.toml", "--profile", workshop / "board.toml",
        "--budget", "size_bytes=1.05MB,drop=0.6", "--minutes", str(MINUTES), "--out", tmp_path,
        "--cache", cache_folder,
    )  # fmt: skip
    assert code == 0, err
    assert "choice" in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"chosen.toml", "optimize.json", "optimize.html", "small-1.0.0-board.edge"} <= names
    told: dict[str, Any] = json.loads((tmp_path / "optimize.json").read_text())
    assert told["choice"] in told["front"]
    assert told["recipe"] == str(tmp_path / "chosen.toml")
    assert "<svg" in (tmp_path / "optimize.html").read_text()


def test_a_budget_that_is_not_met_ends_with_one_and_still_shows_what_there_is(
    edge_convert: EdgeConvert, workshop: Path, cache_folder: Path, tmp_path: Path
) -> None:
    code, out, err = edge_convert(
        "optimize", workshop / "recipe.toml", "--profile", workshop / "board.toml",
        "--budget", "size_bytes=1k", "--no-training", "--out", tmp_path, "--cache", cache_folder,
    )  # fmt: skip
    assert code == 1
    assert "over budget" in out
    last = err.strip().splitlines()[-1]
    assert "what binds is size" in last
    assert (tmp_path / "optimize.json").is_file()
    assert not (tmp_path / "chosen.toml").exists()


# The recipe that a search starts from


def data_folder(folder: Path, **splits: list[dict[str, str]]) -> Path:
    folder.mkdir()
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text(as_lines(rows))
    return folder


def test_a_model_and_a_folder_of_data_are_enough(workshop: Path, tmp_path: Path) -> None:
    labelled = data_folder(
        tmp_path / "My Data", train=picked("train", 5), calibration=picked("calibration", 3),
        test=picked("test", 3),
    )  # fmt: skip
    recipe = base_recipe(str(workshop / "encoder"), labelled, tmp_path)
    assert (recipe.name, recipe.task) == ("my-data", "text-classification")
    assert recipe.data.test == labelled / "test.jsonl"


def test_texts_without_labels_are_embedded(workshop: Path, tmp_path: Path) -> None:
    texts = data_folder(
        tmp_path / "texts",
        train=[{"text": row["text"]} for row in picked("train", 5)],
        calibration=picked("calibration", 3),
        test=picked("test", 3),
    )
    recipe = base_recipe(str(workshop / "encoder"), texts, tmp_path)
    assert recipe.task == "embedding"
    assert recipe.data.train == texts / "train.jsonl"
    assert not any(isinstance(one, DistilConfig) for one in recipe.passes)


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({}, "calibration and test missing; expected a folder with train, calibration, test"),
        ({"test": [{"text": "a"}]}, "calibration missing"),
        (
            {"calibration": [{"text": "a"}], "test": [{"text": "b", "label": "x"}]},
            "have a label, but train is missing; expected it for a classifier",
        ),
    ],
)
def test_a_folder_that_lacks_a_split_is_refused(
    tmp_path: Path, splits: dict[str, list[dict[str, str]]], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        base_recipe("some/model", data_folder(tmp_path / "data", **splits), tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, found in (("file", "a file"), ("gone", "nothing")):
        with pytest.raises(InputError, match=f"data .*{name}: expected a folder, found {found}"):
            base_recipe("some/model", tmp_path / name, tmp_path)


def test_a_model_without_data_and_a_recipe_with_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs --data"):
        base_recipe("some/model", None, tmp_path)
    with pytest.raises(InputError, match="leave --data out"):
        base_recipe("recipe.toml", tmp_path, tmp_path)
