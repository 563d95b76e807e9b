"""Training learns, repeats itself exactly, and a head-only pass leaves the encoder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from converters.cache import Cache
from converters.configs import FinetuneConfig
from converters.data import load_dataset
from converters.finetune import finetune
from converters.model import Artifact, Job, TextModel
from converters.pipeline import Conversion
from converters.progress import Silent
from converters.recipe import load_recipe
from converters.source import load_source
from edge_runtime.profile import DeviceProfile


@pytest.fixture
def job(workshop: Path, board: DeviceProfile, tmp_path: Path) -> Job:
    """A job with a cache of its own, so that it really trains."""
    recipe = load_recipe(workshop / "recipe.toml")
    data = load_dataset(recipe.data, recipe.task)
    return Job(recipe, board, data, Cache(tmp_path), Silent(), tmp_path)


@pytest.fixture
def start(job: Job, trained: TextModel) -> TextModel:
    """The model before training."""
    source = load_source(job.recipe.source, base=job.recipe.path.parent, max_length=8)
    return TextModel(source, trained.tokenizer, source.folder, source.sha256)


@pytest.fixture
def short(job: Job) -> FinetuneConfig:
    config = job.recipe.config(FinetuneConfig)
    assert config is not None
    return replace(config, epochs=1, rows=64)


def test_the_small_network_has_learned(converted: Conversion) -> None:
    figures = converted.passes["finetune"]
    assert figures["trained"] == "encoder and head"
    assert figures["rows"] == 240
    verdict = converted.model.verdict
    assert verdict is not None
    assert verdict.reference.value > 0.5, "chance is a quarter"


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    job: Job, start: TextModel, short: FinetuneConfig, tmp_path: Path
) -> None:
    first, figures = finetune(start, short, job)
    other_cache = replace(job, cache=Cache(tmp_path / "again"))
    again, _ = finetune(start, short, other_cache)
    assert (figures["rows"], figures["cached"]) == (64, False)
    assert first.encoder != again.encoder
    assert first.encoder_sha256 == again.encoder_sha256
    assert first.head_sha256() == again.head_sha256()
    reseeded = replace(job, recipe=replace(job.recipe, seed=9))
    other, _ = finetune(start, short, reseeded)
    assert other.encoder_sha256 != first.encoder_sha256


def test_it_is_not_trained_twice(job: Job, start: TextModel, short: FinetuneConfig) -> None:
    first, _ = finetune(start, short, job)
    again, figures = finetune(start, short, job)
    assert again == first
    assert figures["cached"] is True


def test_the_last_steps_are_in_the_history(
    job: Job, start: TextModel, short: FinetuneConfig
) -> None:
    _, figures = finetune(start, short, job)
    history = figures["history"]
    assert isinstance(history, list)
    assert [point[0] for point in history] == [4], "64 rows in batches of 16"


def test_frozen_embeddings_stay_as_they_were(
    job: Job, start: TextModel, short: FinetuneConfig
) -> None:
    done, _ = finetune(start, replace(short, freeze_embeddings=True), job)
    before = load_file(start.encoder / "model.safetensors")
    after = load_file(done.encoder / "model.safetensors")
    same = {name for name in before if (before[name] == after[name]).all()}
    assert same == {"embeddings.word_embeddings.weight"}


def test_quick_mode_trains_on_fewer_rows(job: Job, start: TextModel, short: FinetuneConfig) -> None:
    _, figures = finetune(start, replace(short, quick_rows=32), replace(job, quick=True))
    assert figures["rows"] == 32


def test_a_head_goes_on_from_the_head_before(
    job: Job, trained: TextModel, short: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(short, freeze_backbone=True, continue_from=tmp_path / "named.toml", epochs=2)
    first, figures = finetune(trained, config, job)
    again, _ = finetune(trained, config, replace(job, cache=Cache(tmp_path / "again")))
    assert figures["trained"] == "head"
    assert first.encoder == trained.encoder
    assert first.encoder_sha256 == trained.encoder_sha256
    assert first.head_sha256() == again.head_sha256() != trained.head_sha256()
    assert first.head is not None
    assert trained.head is not None
    before, after = load_file(trained.head), load_file(first.head)
    assert abs(before["weight"] - after["weight"]).max() < 0.5, "it started there"


def test_version_2_is_the_encoder_of_version_1(
    converted: Conversion, continued: Conversion
) -> None:
    assert continued.text.encoder_sha256 == converted.text.encoder_sha256
    assert continued.text.head_sha256() != converted.text.head_sha256()
    assert continued.passes["finetune"]["precision"] == "float32"
    assert Artifact.of(continued.text.encoder / "model.safetensors").size_bytes > 1_000_000
