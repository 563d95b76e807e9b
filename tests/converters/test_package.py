"""The bundle: the same inputs give the same bytes, and a new head costs a device a few chunks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edge_runtime
from converters.cache import Cache
from converters.configs import PackageConfig
from converters.data import load_dataset
from converters.model import Job
from converters.package import open_verified, package, self_tests
from converters.pipeline import Conversion, Options, convert
from converters.progress import Silent
from edge_runtime.bundle.files import FileEntry
from edge_runtime.errors import DeviceError
from edge_runtime.inference.tasks.results import Classification, Embedding
from edge_runtime.profile import DeviceProfile, load_profile
from tests.converters.small import CLASSES, HIDDEN, MAX_LENGTH, PROFILE, write_recipe

ORT, LITERT = "ort-cpu-smooth-dynamic-w8-channel", "litert-cpu-dynamic-w8-channel"


def bundle(conversion: Conversion) -> Path:
    assert conversion.model.bundle is not None
    return conversion.model.bundle


@pytest.fixture
def job(converted: Conversion, cache_folder: Path, board: DeviceProfile, tmp_path: Path) -> Job:
    recipe = converted.recipe
    data = load_dataset(recipe.data, recipe.task)
    return Job(recipe, board, data, Cache(cache_folder), Silent(), tmp_path / "out")


def test_the_bundle_is_verified_and_passes_its_own_self_test(converted: Conversion) -> None:
    opened = open_verified(bundle(converted))
    manifest = opened.manifest
    assert bundle(converted).name == "small-1.0.0-board.edge"
    assert [variant.id for variant in manifest.variants] == [ORT, LITERT]
    assert manifest.quality is not None
    assert (manifest.quality.metric, manifest.quality.n) == ("accuracy", 100)
    assert manifest.provenance.licence == "Apache-2.0"
    assert [signature.name for signature in manifest.variants[1].signatures] == [
        "tokens_16", "tokens_48",
    ]  # fmt: skip
    assert all(report.passed for report in self_tests(opened))


def test_it_answers_texts_with_its_labels(converted: Conversion) -> None:
    with edge_runtime.load(bundle(converted)) as model:
        answer = model("a puzzle game with many levels")
    assert isinstance(answer, Classification)
    assert answer.label in CLASSES


def test_the_folder_and_the_file_are_the_same_bundle(converted: Conversion) -> None:
    file, folder = bundle(converted), bundle(converted).with_suffix("")
    assert open_verified(folder).manifest_sha256 == open_verified(file).manifest_sha256


def test_the_same_inputs_give_the_same_bytes(
    converted: Conversion, workshop: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    """Everything again: training, export, quantization, with an empty cache."""
    options = Options(tmp_path / "again", tmp_path / "cache")
    (again,) = convert(workshop / "recipe.toml", [board], options, Silent())
    assert bundle(again).read_bytes() == bundle(converted).read_bytes()


def test_the_shipped_tokenizer_neither_pads_nor_cuts(converted: Conversion) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle(converted).with_suffix("") / "tokenizer.json"))
    assert tokenizer.padding is None
    assert tokenizer.truncation is None


def entries(conversion: Conversion) -> dict[str, FileEntry]:
    return {entry.path: entry for entry in open_verified(bundle(conversion)).manifest.files}


@pytest.mark.parametrize("file", [f"{ORT}.onnx", f"{LITERT}.tflite"])
def test_a_new_head_on_the_same_backbone_costs_a_device_a_few_chunks(
    file: str, converted: Conversion, continued: Conversion
) -> None:
    held = {chunk.sha256 for chunk in entries(converted)[file].chunks}
    entry = entries(continued)[file]
    new = [chunk.size_bytes for chunk in entry.chunks if chunk.sha256 not in held]
    assert new, "the head did change"
    # Of a real encoder's 350 chunks these are one in a hundred.
    assert len(new) <= 4
    assert sum(new) <= 0.2 * entry.size_bytes


def test_the_profiles_first_engine_comes_first(
    workshop: Path, cache_folder: Path, tmp_path: Path
) -> None:
    said, _, sources = PROFILE.partition("[sources]")
    head, first, second = said.split("[[engine]]")
    swapped = "[[engine]]".join([head.replace('"board"', '"swapped"'), second, "\n" + first])
    (tmp_path / "swapped.toml").write_text(f"{swapped}\n[sources]{sources}")
    profile = load_profile(str(tmp_path / "swapped.toml"))
    (done,) = convert(
        workshop / "recipe.toml", [profile], Options(tmp_path, cache_folder), Silent()
    )
    manifest = open_verified(bundle(done)).manifest
    assert [variant.id for variant in manifest.variants] == [LITERT, ORT]
    assert manifest.profile == "swapped"


def test_float_variants_stay_out_unless_wanted(converted: Conversion, job: Job) -> None:
    _, plain = package(converted.model, PackageConfig(keep_float=False), job)
    assert plain["variants"] == [ORT, LITERT]
    _, whole = package(converted.model, PackageConfig(keep_float=True), job)
    assert whole["variants"] == [ORT, LITERT, "ort-cpu-float32", "litert-cpu-float32"]


def test_what_was_refused_is_not_packed(converted: Conversion, job: Job) -> None:
    verdict = converted.model.verdict
    assert verdict is not None
    first, *others = verdict.candidates
    refused = replace(verdict, candidates=(replace(first, refused="it lies"), *others))
    model = replace(converted.model, verdict=refused)
    _, figures = package(model, PackageConfig(keep_float=False), job)
    assert figures["variants"] == [LITERT]
    assert figures["refused"] == {ORT: "it lies"}


@pytest.mark.parametrize("blocked", ["small-1.0.0-board", "small-1.0.0-board.edge/file"])
def test_what_stands_in_the_way_is_one_sentence(
    blocked: str, converted: Conversion, job: Job
) -> None:
    (job.out / blocked).parent.mkdir(parents=True)
    (job.out / blocked).write_text("mine")
    with pytest.raises(DeviceError, match=r"small-1\.0\.0-board"):
        package(converted.model, PackageConfig(keep_float=False), job)
    assert (job.out / blocked).read_text() == "mine"


def test_an_encoder_alone_becomes_an_embedding_bundle(
    workshop: Path, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    kinds = ("export", "fuse", "quantize", "verify", "package")
    passes = "".join(f'[[pass]]\nkind = "{kind}"\n' for kind in kinds)
    path = write_recipe(workshop / "embedding.toml", task='"embedding"', passes=passes,
                        data={"train": ""}, name='"vectors"')  # fmt: skip
    (done,) = convert(path, [board], Options(tmp_path, cache_folder), Silent())
    verdict = done.model.verdict
    assert verdict is not None
    assert verdict.reference.metric == "cosine"
    assert all(one.value > 0.98 for one in verdict.candidates)
    with edge_runtime.load(bundle(done)) as model:
        answer = model("a text")
    assert isinstance(answer, Embedding)
    assert len(answer.vector) == HIDDEN


def test_a_limit_between_two_lengths_of_the_board_gets_an_entry_point_of_its_own(
    workshop: Path, cache_folder: Path, board: DeviceProfile, tmp_path: Path
) -> None:
    path = write_recipe(workshop / "short.toml", data={"max_length": "20"})
    (done,) = convert(path, [board], Options(tmp_path, cache_folder), Silent())
    manifest = open_verified(bundle(done)).manifest
    assert MAX_LENGTH not in manifest.variants[1].signatures[-1].dims.values()
    assert [dict(one.dims) for one in manifest.variants[1].signatures] == [
        {"sequence": 16}, {"sequence": 20},
    ]  # fmt: skip
