from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import DeviceError, IncompatibleError, InputError, UntrustedError
from edge_runtime.inference.backend import BACKENDS, Tensor
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.tasks.results import Classification
from tests.fakes.engine import BACKEND, WEIGHTS, FakeBackend, FakeSession, fake_bundle, fake_variant
from tests.fakes.tiny import LABELS, TEXTS, tensor_json

Open = Callable[..., tuple[Pipeline, FakeSession]]


@pytest.fixture
def open_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setitem(BACKENDS, "fake", BACKEND)
    monkeypatch.setattr(FakeBackend, "sessions", [])

    def open_it(changed: dict[str, Any] | None = None, **options: Any) -> Any:
        bundle = fake_bundle(tmp_path, [fake_variant(**options)], **(changed or {}))
        pipeline = Pipeline.open(bundle, bundle.manifest.variants[0])
        return pipeline, FakeBackend.sessions[-1]

    return open_it


def labels(results: list[Any]) -> list[str]:
    assert all(isinstance(result, Classification) for result in results)
    return [result.label for result in results]


def truncated(result: Any) -> bool:
    assert isinstance(result, Classification)
    return result.truncated


def expected(pipeline: Pipeline, text: str) -> str:
    return LABELS[int(WEIGHTS[pipeline.read(text).tensors["input_ids"]].mean(axis=0).argmax())]


@pytest.mark.parametrize(
    "options",
    [{}, {"max_batch": 3}, {"lengths": [16, 64, 128]}, {"lengths": [16, 64, 128], "max_batch": 1}],
    ids=["free", "three rows", "fixed lengths", "fixed lengths, one row"],
)
def test_texts_are_answered_in_order_whatever_the_engine_takes(
    open_fake: Open, options: dict[str, Any]
) -> None:
    pipeline, _ = open_fake(**options)
    assert labels(pipeline(TEXTS)) == [expected(pipeline, text) for text in TEXTS]
    assert [truncated(result) for result in pipeline(TEXTS)] == [
        pipeline.read(text).truncated for text in TEXTS
    ]


def test_no_texts_have_no_answers(open_fake: Open) -> None:
    pipeline, session = open_fake()
    assert pipeline([]) == []
    assert session.shapes == []


def test_each_text_goes_to_the_smallest_length_that_holds_it(open_fake: Open) -> None:
    pipeline, session = open_fake(lengths=[16, 64, 128], max_batch=1)
    for text, length in ((TEXTS[0], 16), (TEXTS[4], 64), (TEXTS[6], 128), ("", 16)):
        pipeline([text])
        assert session.shapes.pop() == (1, length)


def test_like_texts_share_a_run_where_the_engine_takes_any_batch(open_fake: Open) -> None:
    pipeline, session = open_fake()
    pipeline(["mail server", "mail server", "mail server"])
    assert session.shapes == [(3, pipeline.read("mail server").length)]


def test_a_text_longer_than_the_engines_lengths_is_cut_and_says_so(open_fake: Open) -> None:
    pipeline, session = open_fake(lengths=[16])
    (result,) = pipeline([TEXTS[4]])
    assert truncated(result)
    assert session.shapes == [(1, 16)]


def test_a_faulty_text_among_many_is_named(open_fake: Open) -> None:
    pipeline, session = open_fake()
    with pytest.raises(InputError, match="text 1 of 3: text: 5000 bytes or more"):
        pipeline(["mail", "x" * 5000, "server"])
    assert session.shapes == []


def test_one_text_instead_of_a_list_is_our_own_mistake(open_fake: Open) -> None:
    pipeline, _ = open_fake()
    with pytest.raises(RuntimeError, match="a list of inputs, not one"):
        pipeline("mail server")


def test_an_engine_that_fails_is_a_device_error_and_the_pipeline_lives_on(open_fake: Open) -> None:
    pipeline, session = open_fake(fault="fails")
    with pytest.raises(DeviceError):
        pipeline(["mail"])
    session.fault = ""
    assert labels(pipeline(["mail"])) == [expected(pipeline, "mail")]


def feeds(rows: int, length: int) -> dict[str, Tensor]:
    ids = np.arange(rows * length, dtype=np.int64).reshape(rows, length) % 200
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.mark.parametrize(
    "options", [{}, {"max_batch": 2}, {"lengths": [16, 64], "max_batch": 1}], ids=str
)
def test_tensors_run_as_they_are(open_fake: Open, options: dict[str, Any]) -> None:
    pipeline, _ = open_fake(**options)
    given = feeds(5, 10)
    found = pipeline.run(given)
    assert list(found) == ["logits"]
    np.testing.assert_allclose(
        found["logits"], WEIGHTS[given["input_ids"]].mean(axis=1), rtol=1e-5, atol=1e-6
    )


def test_an_output_with_a_sequence_is_cut_to_the_length_that_was_asked(open_fake: Open) -> None:
    pipeline, session = open_fake(
        changed={"outputs": [tensor_json("states", "float32", ["batch", "sequence"])]},
        lengths=[16],
    )
    session.run = lambda feeds: {  # type: ignore[method-assign]
        "states": feeds["input_ids"].astype(np.float32)
    }
    assert pipeline.run(feeds(1, 10))["states"].shape == (1, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("attention_mask"), "input attention_mask is missing, the model takes"),
        (lambda f: f.update(extra=f["input_ids"]), "input 'extra' is not known, the model takes"),
        (
            lambda f: f.update(input_ids=f["input_ids"].astype(np.float32)),
            "input input_ids: expected int64, found float32",
        ),
        (
            lambda f: f.update(input_ids=f["input_ids"].astype(np.int32)),
            "input input_ids: expected int64, found int32",
        ),
        (
            lambda f: f.update(input_ids=f["input_ids"][0]),
            r"expected the shape \[batch, sequence\], found \[10\]",
        ),
        (
            lambda f: f.update(attention_mask=f["attention_mask"][:, :4]),
            r"found \[2, 4\]; sequence is 10 in another input",
        ),
        (lambda f: f.update(feeds(2, 0)), r"found \[2, 0\]"),
        (lambda f: f.update(feeds(0, 10)), r"found \[0, 10\]"),
        (lambda f: f.update(feeds(1, 65)), "a sequence of 65, variant fake runs at most 64"),
    ],
)
def test_a_tensor_that_does_not_match_its_spec_is_refused_in_a_sentence(
    open_fake: Open, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    pipeline, session = open_fake(lengths=[16, 64])
    given = feeds(2, 10)
    change(given)
    with pytest.raises(InputError, match=message):
        pipeline.run(given)
    assert session.shapes == []


def test_a_faulty_tokenizer_closes_the_session_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_fake: Open
) -> None:
    bundle = fake_bundle(tmp_path)
    step = bundle.manifest.preprocess[0]
    monkeypatch.setitem(step.options, "file", "fake.bin")
    with pytest.raises(IncompatibleError, match=r"fake\.bin cannot be used"):
        Pipeline.open(bundle, bundle.manifest.variants[0])
    assert FakeBackend.sessions[-1].closed


def test_a_file_that_changed_after_verification_is_not_loaded(
    tmp_path: Path, open_fake: Open
) -> None:
    bundle = fake_bundle(tmp_path)
    (tmp_path / "fake.bin").write_bytes(b"evil")
    with pytest.raises(UntrustedError):
        Pipeline.open(bundle, bundle.manifest.variants[0])


def test_an_unknown_backend_lists_the_known_ones(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path)
    with pytest.raises(IncompatibleError, match=r"'fake' is not known.*onnxruntime, litert"):
        Pipeline.open(bundle, bundle.manifest.variants[0])


def test_what_goes_in_and_out_is_described_for_clients(open_fake: Open) -> None:
    pipeline, _ = open_fake(lengths=[16])
    assert pipeline.takes == "text"
    assert [spec.name for spec in pipeline.task.outputs] == ["label", "score"]
    assert [spec.name for spec in pipeline.manifest.inputs] == ["input_ids", "attention_mask"]
    assert pipeline.lengths == (16,)
    assert pipeline.accelerator.actual == "fake: chip"
