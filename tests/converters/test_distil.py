"""A smaller student comes close to its teacher, and an interrupted training to the same student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from converters.anatomy import layers_of
from converters.cache import Cache
from converters.configs import FinetuneConfig
from converters.data import Rows, load_dataset
from converters.distil import distil as module
from converters.distil.config import LOSSES, DistilConfig, distil_words, parse_distil
from converters.distil.lessons import gather
from converters.distil.losses import NO_LABEL
from converters.distil.student import spread
from converters.embed import embed_rows
from converters.encoding import load_tokenizer
from converters.finetune import finetune
from converters.model import Artifact, Job, TextModel
from converters.network import load_encoder, load_head
from converters.progress import Silent
from converters.recipe import load_recipe
from converters.source import load_source
from converters.vocabulary.config import VocabularyConfig
from converters.vocabulary.trim import trim
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.profile import DeviceProfile
from tests.converters.small import as_lines, picked, write_recipe

SHORT = {"epochs": 3, "batch": 32, "lr": 1e-3, "precision": "float32", "max_length": 32}


def settings(**changed: Any) -> DistilConfig:
    """A configuration as a recipe would give it."""
    return parse_distil(Fields(SHORT | changed, "recipe", InputError), Path())


def distil(model: TextModel, config: DistilConfig, job: Job) -> tuple[TextModel, dict[str, Any]]:
    """The pass."""
    done, figures = module.distil(model, config, job)
    return done, dict(figures)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distil")


@pytest.fixture(scope="module")
def job(workshop: Path, board: DeviceProfile, folder: Path) -> Job:
    recipe = load_recipe(workshop / "recipe.toml")
    data = load_dataset(recipe.data, recipe.task)
    more = tuple(row["text"] for row in picked("train", 120)[480 - 240 :])
    seen = set(data.test.texts)
    texts = tuple(text for text in more if text not in seen)
    unlabelled = Rows(folder / "more.jsonl", texts, None, "more")
    return Job(recipe, board, replace(data, unlabelled=unlabelled), Cache(folder), Silent(), folder)


@pytest.fixture(scope="module")
def teacher(workshop: Path, job: Job, folder: Path) -> TextModel:
    """A trained classifier that is to be compressed."""
    source = load_source(job.recipe.source, base=workshop, max_length=8)
    path = folder / "tokenizer.json"
    tokenizer = load_tokenizer(source.folder / "tokenizer.json", max_length=8)
    tokenizer.no_truncation()
    tokenizer.save(str(path))
    config = job.recipe.config(FinetuneConfig)
    assert config is not None
    start = TextModel(source, Artifact.of(path), source.folder, source.sha256)
    done, _ = finetune(start, config, job)
    return replace(done, uncompressed=done)


@pytest.fixture(scope="module")
def plain(teacher: TextModel) -> TextModel:
    """The same encoder for an embedding task."""
    bare = replace(teacher, head=None, classes=(), uncompressed=None)
    return replace(bare, uncompressed=bare)


def test_a_student_of_half_the_layers_agrees_more_after_than_before(
    job: Job, teacher: TextModel
) -> None:
    untrained, first = distil(teacher, settings(depth=1, lr=0, head_lr=0, epochs=1), job)
    done, figures = distil(teacher, settings(depth=1), job)
    assert len(layers_of(load_encoder(done.encoder))) == 1
    held, before = figures["held_out"], first["held_out"]
    assert held["n"] == before["n"] > 20
    assert held["cosine"] > before["cosine"] + 0.01
    assert held["agreement"] > 0.95
    assert figures["parameters"][0] > figures["parameters"][1]
    assert done.head_sha256() != teacher.head_sha256()
    assert untrained.original is done.original is teacher.original
    assert "agreement with the teacher" in distil_words(figures)


def test_an_embedding_comes_closer_to_the_teachers(job: Job, plain: TextModel) -> None:
    _, first = distil(plain, settings(depth=1, lr=0, head_lr=0, epochs=1), job)
    done, figures = distil(plain, settings(depth=1, similarity=1.0), job)
    assert done.head is None
    assert figures["held_out"]["cosine"] > first["held_out"]["cosine"] + 0.02
    assert "agreement" not in figures["held_out"]
    rows_ = job.data.test.first(40)
    told, wanted = embed_rows(done, rows_, job), embed_rows(plain, rows_, job)
    cosines = (told * wanted).sum(1) / np.linalg.norm(told, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.mean() == pytest.approx(figures["held_out"]["cosine"], abs=0.05)


def test_the_history_ends_at_the_last_step_and_its_loss_falls(job: Job, teacher: TextModel) -> None:
    _, figures = distil(teacher, settings(depth=1), job)
    history = figures["history"]
    taught = figures["rows"]
    assert history[-1][0] == 3 * -(-taught // 32)
    assert 5 <= len(history) <= 8
    assert history[-1][1] < 0.7 * history[0][1]
    assert history[-1][2] == figures["held_out"]["agreement"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    job: Job, teacher: TextModel, tmp_path: Path
) -> None:
    quick = settings(depth=1, epochs=1, rows=96)
    first, figures = distil(teacher, quick, replace(job, cache=Cache(tmp_path / "one")))
    again, _ = distil(teacher, quick, replace(job, cache=Cache(tmp_path / "two")))
    assert figures["cached"] is False
    assert (first.encoder_sha256, first.head_sha256()) == (
        again.encoder_sha256, again.head_sha256()
    )  # fmt: skip
    other, _ = distil(teacher, quick, replace(job, recipe=replace(job.recipe, seed=8)))
    assert other.encoder_sha256 != first.encoder_sha256


def test_it_is_not_trained_twice(job: Job, teacher: TextModel) -> None:
    quick = settings(epochs=1, rows=64)
    first, _ = distil(teacher, quick, job)
    again, figures = distil(teacher, quick, job)
    assert again == first
    assert figures["cached"] is True


@pytest.mark.parametrize(
    ("depth", "kept"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, [*range(6)])]
)
def test_layers_are_chosen_evenly_from_first_to_last(depth: int, kept: list[int]) -> None:
    assert spread(depth, 6) == kept


def test_layers_may_be_chosen_by_name(job: Job, teacher: TextModel) -> None:
    done, _ = distil(teacher, settings(layers=[1], epochs=1, lr=0, head_lr=0), job)
    before = load_file(teacher.encoder / "model.safetensors")
    after = load_file(done.encoder / "model.safetensors")
    name = "encoder.layer.{}.output.dense.weight"
    assert (after[name.format(0)] == before[name.format(1)]).all()


def test_more_layers_than_there_are_is_refused(job: Job, teacher: TextModel) -> None:
    with pytest.raises(InputError, match="depth is 3, the encoder has 2 layers"):
        distil(teacher, settings(depth=3), job)


def test_frozen_embeddings_stay_and_others_learn(job: Job, teacher: TextModel) -> None:
    name = "embeddings.word_embeddings.weight"
    before = load_file(teacher.encoder / "model.safetensors")[name]
    frozen, _ = distil(teacher, settings(epochs=1, rows=64), job)
    free, _ = distil(teacher, settings(epochs=1, rows=64, freeze_embeddings=False), job)
    assert (load_file(frozen.encoder / "model.safetensors")[name] == before).all()
    assert (load_file(free.encoder / "model.safetensors")[name] != before).any()


def test_a_student_with_a_trimmed_vocabulary_learns_from_outputs_alone(
    job: Job, teacher: TextModel
) -> None:
    trimmed, _ = trim(teacher, VocabularyConfig(1, 0, "all"), job)
    _, figures = distil(trimmed, settings(depth=1), job)
    assert figures["held_out"]["agreement"] > 0.8
    with pytest.raises(InputError, match="put this pass before vocabulary"):
        distil(trimmed, settings(hidden=1.0), job)


def test_held_out_rows_do_not_depend_on_the_order_and_equal_texts_stay_together(job: Job) -> None:
    lessons = gather(job, [], 0)
    held = {text for text, out in zip(lessons.texts, lessons.held_out, strict=True) if out}
    taught = {text for text, out in zip(lessons.texts, lessons.held_out, strict=True) if not out}
    assert held
    assert not held & taught
    assert len(lessons) == 240 + len(job.data.unlabelled or ())
    assert set(lessons.labels[240:]) == {NO_LABEL}
    assert NO_LABEL not in lessons.labels[:240]
    assert not set(lessons.texts) & set(job.data.test.texts)


def test_other_tasks_rows_never_hold_a_text_of_the_test_set(job: Job) -> None:
    other = Rows(Path("other"), (*job.data.test.texts[:5], "a new text"), None, "other")
    lessons = gather(job, [other], 0)
    assert lessons.texts[-1] == "a new text"
    assert not set(lessons.texts) & set(job.data.test.texts)


def test_quick_mode_learns_from_fewer_rows(job: Job, teacher: TextModel) -> None:
    _, figures = distil(teacher, settings(epochs=1, quick_rows=50), replace(job, quick=True))
    assert figures["rows"] + figures["held_out"]["n"] in (49, 50)


def test_hidden_states_and_relations_come_closer_too(job: Job, teacher: TextModel) -> None:
    alone = {"soft": 0, "embedding": 0, "epochs": 2, "rows": 150}
    for loss in ("hidden", "relation"):
        _, figures = distil(teacher, settings(depth=1, **alone, **{loss: 1.0}), job)
        history = figures["history"]
        assert history[-1][1] < 0.95 * history[0][1], loss


def test_a_narrow_student_learns_through_projections_and_is_saved_without(
    job: Job, teacher: TextModel
) -> None:
    config = settings(width=64, hidden=0.1, relation=0.1, rows=150)
    done, figures = distil(teacher, config, job)
    assert (done.source.hidden, done.source.heads) == (64, 2)
    names = set(load_file(done.encoder / "model.safetensors"))
    assert not any("projection" in name for name in names)
    assert done.head is not None
    assert load_file(done.head)["weight"].shape == (4, 64)
    assert figures["held_out"]["agreement"] > 0.8
    before, after = figures["parameters"]
    assert after < 0.55 * before
    told = embed_rows(done, job.data.test.first(5), job)
    assert told.shape == (5, 64), "it exports, and the fast engine runs it"


def test_an_embedding_keeps_its_width(job: Job, plain: TextModel) -> None:
    with pytest.raises(InputError, match="must stay as wide as the original's, 128"):
        distil(plain, settings(width=64), job)
    with pytest.raises(InputError, match="soft and label need classes"):
        distil(plain, settings(embedding=0), job)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_rounding_while_it_learns_saves_float_weights_that_round_well(
    scheme: str, job: Job, teacher: TextModel
) -> None:
    rounds = {"fake_quantize": scheme, "depth": 1, "relation": 0.1}
    done, figures = distil(teacher, settings(**rounds), job)
    _, before = distil(teacher, settings(**rounds, epochs=1, lr=0, head_lr=0), job)
    plain_student, _ = distil(teacher, settings(depth=1), job)
    assert set(load_file(done.encoder / "model.safetensors")) == set(
        load_file(plain_student.encoder / "model.safetensors")
    )
    assert figures["held_out"]["cosine"] > before["held_out"]["cosine"]


def test_one_student_learns_the_tasks_of_two_recipes(
    job: Job, teacher: TextModel, workshop: Path, folder: Path
) -> None:
    def relabelled(name: str, each: int) -> list[dict[str, str]]:
        return [
            row | {"label": "work" if row["label"] in ("mail", "math") else "play"}
            for row in picked(name, each)
        ]

    (folder / "coarse.jsonl").write_text(as_lines(relabelled("train", 60)))
    (folder / "coarse-test.jsonl").write_text(as_lines(relabelled("test", 10)))
    other = write_recipe(
        folder / "coarse.toml",
        name='"coarse"',
        source={"model": f'"{workshop / "encoder"}"'},
        data={
            "train": '"coarse.jsonl"',
            "test": '"coarse-test.jsonl"',
            "calibration": f'"{workshop / "calibration.jsonl"}"',
        },
    )
    config = settings(depth=1, tasks=[{"recipe": str(other), "weight": 0.5}])
    done, figures = distil(teacher, config, job)
    assert figures["tasks"] == ["small", "coarse"]
    head = load_head(done.encoder.parent / "tasks" / "coarse")
    texts = relabelled("test", 25)
    told = embed_rows(done, job.data.test.first(len(texts)), job)
    assert [row["text"] for row in texts] == list(job.data.test.texts)
    answers = (torch.from_numpy(told) @ head.weight.T + head.bias).argmax(1).tolist()
    right = [("play", "work")[one] == row["label"] for one, row in zip(answers, texts, strict=True)]
    assert sum(right) > 0.8 * len(right)
    assert figures["held_out"]["agreement"] > 0.8


def test_faulty_settings_are_named() -> None:
    for faulty, told in (
        ({"depth": 2, "layers": [0]}, "depth and layers both choose layers"),
        (dict.fromkeys(LOSSES, 0), "nothing to learn"),
        ({"layers": [-1]}, "layers must be different indexes"),
        ({"layers": [1, 1]}, "layers must be different indexes"),
        ({"tasks": [{"weight": 1.0}]}, "recipe is missing"),
        ({"tasks": [{"recipe": "a.toml", "wieght": 1.0}]}, "wieght is not a field of a task"),
    ):
        with pytest.raises(InputError, match=told):
            settings(**faulty)
