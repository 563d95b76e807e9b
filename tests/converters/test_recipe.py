"""A recipe is read whole or refused whole, with every fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.configs import ExportConfig, FinetuneConfig, VerifyConfig
from converters.passes import kind_of
from converters.recipe import load_recipe, parse_recipe
from edge_runtime.errors import InputError
from tests.converters.small import EXAMPLE, recipe_text

HERE = Path("/recipes/recipe.toml")


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_recipe(text.encode(), HERE)
    return str(caught.value)


@pytest.mark.parametrize("name", ["recipe.toml", "recipe-v2.toml"])
def test_the_recipes_of_the_example_are_sound(name: str) -> None:
    recipe = load_recipe(EXAMPLE / name)
    assert recipe.name == "debian-sections"
    assert recipe.data.test == EXAMPLE / "test.jsonl.xz"
    assert len(recipe.passes) == 6


def test_paths_are_relative_to_the_file_and_defaults_fill_in() -> None:
    recipe = parse_recipe(recipe_text(finetune={}).encode(), HERE)
    assert recipe.data.train == Path("/recipes/train.jsonl")
    training = recipe.config(FinetuneConfig)
    assert training is not None
    assert (training.epochs, training.batch, training.rows) == (1, 32, 0)
    assert recipe.config(ExportConfig) == ExportConfig(17, "torch")


def test_every_fault_is_told_in_one_go() -> None:
    told = refusal(
        recipe_text(
            name='"no spaces please"',
            version='"1"',
            colour='"red"',
            source={"model": "7", "license": '"MIT"'},
            data={"calibration": "", "max_length": "4", "shuffle": "true"},
            finetune={"epochs": "0", "momentum": "0.9"},
            export={"opset": "99", "exporter": '"tensorflow"'},
            verify={"min_agreement": "97"},
        )
    )
    for part in (
        "name is 'no spaces please'",
        "version is '1'",
        "colour is not a field",
        ".source: model must be a string, found 7",
        "license is not a field",
        "calibration is missing",
        "max_length is 4, expected 8..512",
        "shuffle is not a field",
        "epochs is 0, expected 1..1000",
        "momentum is not a field",
        "opset is 99, expected 14..20",
        "exporter is 'tensorflow', expected one of torch, optimum",
        "min_agreement is 97, expected 0..1",
    ):
        assert part in told
    assert "\n" not in told
    assert told.count(";") == 12


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"passes": '[[pass]]\nkind = "prune_everything"\n'}, "expected one of finetune, "),
        ({"passes": "", "pass": "3"}, "pass must be a list"),
        ({"passes": ""}, "pass is missing"),
        ({"data": {"test": '"calibration.jsonl"'}}, "the same file"),
        ({"data": {"test": '"./train.jsonl"'}}, "train and test are the same file"),
        ({"data": {"test": ""}}, "test is missing"),
        ({"data": {"train": ""}}, "train is missing"),
        ({"task": '"embedding"', "data": {"test": "", "train": ""}}, "test is missing"),
        ({"task": '"translation"'}, "expected one of text-classification, text-pair-"),
        ({"created": '"yesterday"'},
         "created is 'yesterday', expected a time in UTC, such as 2026-01-31T12:00:00Z"),
        ({"version": '"1"'}, "version is '1', expected three numbers with dots between, such as"),
        ({"version": '""'}, "version is ''"),
        ({"version": "1"}, "version must be a string, found 1"),
        ({"name": '"My Model"'}, "name is 'My Model', expected lower-case letters, digits"),
        ({"finetune": {"freeze_backbone": "true"}}, "freeze_backbone needs continue_from"),
        ({"finetune": {"continue_from": '"a.toml"'}}, "continue_from needs freeze_backbone"),
        ({"quantize": 'recipes = "all"\n'}, "recipes must be an object"),
        ({"quantize": "recipes = { litert = 8 }\n"}, "litert must be a string"),
    ],
)  # fmt: skip
def test_a_fault_is_named(changed: dict[str, str], says: str) -> None:
    assert says in refusal(recipe_text(**changed))  # type: ignore[arg-type]


def test_passes_stand_once_each_and_in_order() -> None:
    kinds = ["export", "finetune", "verify", "package"]
    swapped = "".join(f'[[pass]]\nkind = "{kind}"\n' for kind in kinds)
    assert "in the order finetune, vocabulary" in refusal(recipe_text(passes=swapped))
    twice = "".join(
        f'[[pass]]\nkind = "{kind}"\n'
        for kind in ("finetune", "export", "export", "verify", "package")
    )
    assert "may be repeated" in refusal(recipe_text(passes=twice))
    late = "".join(
        f'[[pass]]\nkind = "{kind}"\n'
        for kind in ("distil", "finetune", "export", "verify", "package")
    )
    assert "finetune must be the first pass" in refusal(recipe_text(passes=late))


def test_what_changes_weights_may_be_repeated() -> None:
    kinds = ["finetune", "distil", "vocabulary", "distil", "export", "verify", "package"]
    passes = "".join(f'[[pass]]\nkind = "{kind}"\n' for kind in kinds)
    recipe = parse_recipe(recipe_text(passes=passes).encode(), Path("recipe.toml"))
    assert [kind_of(config) for config in recipe.passes] == kinds


def test_passes_that_nothing_can_do_without_are_missed() -> None:
    told = refusal(recipe_text(passes='[[pass]]\nkind = "export"\n'))
    assert "the passes verify, package are missing" in told


def test_what_is_not_toml_is_refused_in_one_line() -> None:
    told = refusal("name = \n[[")
    assert "not valid TOML" in told
    assert "\n" not in told


def test_a_file_too_large_to_be_a_recipe_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"#" * (300 << 10))
    with pytest.raises(InputError, match="at most 262144 are accepted"):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read \(No such file"):
        load_recipe(tmp_path / "nowhere.toml")


def test_source_date_epoch_replaces_the_time_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert parse_recipe(recipe_text().encode(), HERE).created == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH is 'today'"):
        parse_recipe(recipe_text().encode(), HERE)


def test_bounds_of_verify_are_read() -> None:
    recipe = parse_recipe(recipe_text(verify={"min_agreement": "0.5"}).encode(), HERE)
    config = recipe.config(VerifyConfig)
    assert config is not None
    assert config.min_agreement == 0.5
