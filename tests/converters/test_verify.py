"""Every candidate is measured on its own engine, and one that answers wrong is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from converters.cache import Cache
from converters.configs import PackageConfig, VerifyConfig
from converters.data import load_dataset
from converters.model import Artifact, Candidate, Evidence, Job, Model
from converters.pipeline import Conversion
from converters.progress import Silent
from converters.verify import _refusal, verify
from edge_runtime.errors import InputError
from edge_runtime.profile import DeviceProfile
from tests.converters.small import CLASSES, HIDDEN

ORT_INT8, ORT_FLOAT = "ort-cpu-smooth-dynamic-w8-channel", "ort-cpu-float32"
LITERT_INT8, LITERT_FLOAT = "litert-cpu-dynamic-w8-channel", "litert-cpu-float32"


@pytest.fixture
def job(converted: Conversion, cache_folder: Path, board: DeviceProfile, tmp_path: Path) -> Job:
    recipe = converted.recipe
    data = load_dataset(recipe.data, recipe.task)
    return Job(recipe, board, data, Cache(cache_folder), Silent(), tmp_path)


@pytest.fixture
def config(job: Job) -> VerifyConfig:
    found = job.recipe.config(VerifyConfig)
    assert found is not None
    return found


def evidence(model: Model) -> Mapping[str, Evidence]:
    assert model.verdict is not None
    return {one.id: one for one in model.verdict.candidates}


def ruined(candidate: Candidate, folder: Path, factor: float) -> Candidate:
    """The candidate, the head's weights multiplied: the engine runs it and says nothing."""
    proto = onnx.load(candidate.artifact.path)
    shapes = [len(CLASSES), HIDDEN], [len(CLASSES)]
    head = [tensor for tensor in proto.graph.initializer if list(tensor.dims) in shapes]
    assert len(head) == 2
    for tensor in head:
        array = np.asarray(numpy_helper.to_array(tensor) * np.float32(factor))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path = folder / "ruined.onnx"
    path.write_bytes(proto.SerializeToString())
    return replace(candidate, artifact=Artifact.of(path))


def with_candidate(model: Model, candidate: Candidate) -> Model:
    swapped = tuple(candidate if one.id == candidate.id else one for one in model.candidates)
    return replace(model, candidates=swapped)


def candidate(model: Model, id: str) -> Candidate:
    return next(one for one in model.candidates if one.id == id)


def test_every_candidate_has_its_figures(converted: Conversion) -> None:
    found = evidence(converted.model)
    assert list(found) == [ORT_INT8, LITERT_INT8, ORT_FLOAT, LITERT_FLOAT]
    for one in found.values():
        assert not one.refused
        assert set(one.latency_ms) == {16, 48}
        assert all(value > 0 for value in one.latency_ms.values())
        assert one.interval[0] < one.value < one.interval[1]
        assert one.golden_cosine > 0.98
    assert found[ORT_INT8].n == 100
    assert found[ORT_INT8].agreement > 0.9
    assert sum(one.rows for one in found[ORT_INT8].classes) == 100


def test_a_float_variant_that_only_proves_the_export_says_its_smaller_n(
    converted: Conversion,
) -> None:
    for id in (ORT_FLOAT, LITERT_FLOAT):
        one = evidence(converted.model)[id]
        assert one.n == 30
        assert one.agreement == 1.0
        assert one.value == one.reference, "the reference on the same rows"
        assert one.cosine_min > 0.9999


def test_a_float_variant_that_is_packed_answers_every_row(
    converted: Conversion, config: VerifyConfig, job: Job
) -> None:
    passes = tuple(
        PackageConfig(keep_float=True) if isinstance(one, PackageConfig) else one
        for one in job.recipe.passes
    )
    job = replace(job, recipe=replace(job.recipe, passes=passes))
    done, _ = verify(converted.model, config, job)
    assert {one.n for one in evidence(done).values()} == {100}


def test_golden_texts_are_of_many_lengths_and_none_is_a_test_row(
    converted: Conversion, job: Job
) -> None:
    verdict = converted.model.verdict
    assert verdict is not None
    texts = verdict.golden.raw
    assert len(texts) == 4
    assert len(texts[0].split()) <= 5
    assert not set(texts) & set(job.data.test.texts)


def test_a_candidate_that_answers_nonsense_is_refused_with_its_figure(
    converted: Conversion, config: VerifyConfig, job: Job, tmp_path: Path
) -> None:
    wrong = ruined(candidate(converted.model, ORT_INT8), tmp_path, -1)
    done, _ = verify(with_candidate(converted.model, wrong), config, job)
    refused = evidence(done)[ORT_INT8].refused
    assert "cosine -1.0000 to the reference on a golden vector" in refused
    assert "expected 0.95 or more" in refused
    assert not evidence(done)[LITERT_INT8].refused


def test_not_a_number_is_refused_not_passed_over(
    converted: Conversion, config: VerifyConfig, job: Job, tmp_path: Path
) -> None:
    wrong = ruined(candidate(converted.model, ORT_INT8), tmp_path, float("nan"))
    done, _ = verify(with_candidate(converted.model, wrong), config, job)
    one = evidence(done)[ORT_INT8]
    assert "cosine 0.0000" in one.refused
    assert (one.cosine_mean, one.golden_cosine) == (0.0, 0.0)


def test_where_no_quantized_variant_is_left_the_conversion_fails(
    converted: Conversion, config: VerifyConfig, job: Job, tmp_path: Path
) -> None:
    wrong = ruined(candidate(converted.model, ORT_INT8), tmp_path, 0.0)
    model = with_candidate(converted.model, wrong)
    alone = replace(model, candidates=(wrong, candidate(model, ORT_FLOAT)))
    with pytest.raises(InputError, match=rf"no variant is good enough: {ORT_INT8}: cosine 0\.0"):
        verify(alone, config, job)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"golden_cosine": 0.5}, "cosine 0.5000 to the reference on a golden vector"),
        ({"value": 0.75}, "accuracy 75.00% on 100 rows, the reference has 80.00%"),
        ({"agreement": 0.95}, "agrees with the reference on 95.00% of 100 rows"),
        ({"value": float("nan")}, "accuracy nan% on 100 rows"),
        ({"metric": "cosine", "value": 0.94, "reference": 1.0}, "cosine 0.9400 on 100 rows, the "),
        ({"metric": "cosine", "value": 0.995, "reference": 1.0, "agreement": 0, "classes": ()}, ""),
    ],
)
def test_each_bound_refuses_by_itself(
    changed: dict[str, Any], says: str, converted: Conversion, config: VerifyConfig
) -> None:
    good = replace(
        evidence(converted.model)[ORT_INT8],
        value=0.8, reference=0.8, agreement=1.0, golden_cosine=1.0,
    )  # fmt: skip
    strict = replace(config, max_drop=0.01, min_agreement=0.97, min_cosine=0.95)
    told = _refusal(replace(good, **changed), strict)
    assert says in told
    assert bool(told) == bool(says)
