from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields, encode_json
from edge_runtime.inference.tasks.items import Item
from edge_runtime.inference.tasks.postprocess import L2Normalize, Softmax, TopK
from edge_runtime.inference.tasks.results import Classification, Embedding, FloatArray
from edge_runtime.inference.tasks.table import POSTPROCESS, PREPROCESS, TASKS, declared_steps
from tests.fakes.tiny import LABELS, tensor_json, tiny_bundle, tokenize_step, variant_json

ANY_ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@given(ANY_ROWS)
def test_softmax_gives_probabilities_for_scores_of_any_size(rows: FloatArray) -> None:
    with np.errstate(over="ignore"):  # a difference of two of the largest floats is infinite
        found = Softmax()(rows)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)


def test_softmax_is_the_textbooks() -> None:
    rows = np.array([[1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_allclose(Softmax()(rows), np.exp(rows) / np.exp(rows).sum(), rtol=1e-6)


@given(ANY_ROWS)
def test_normalized_vectors_have_length_one_or_zero(rows: FloatArray) -> None:
    found = L2Normalize()(rows)
    assert found.dtype == np.float32
    lengths = np.linalg.norm(found.astype(np.float64), axis=-1)
    expected = (np.abs(rows).max(axis=-1) > 0).astype(float)
    np.testing.assert_allclose(lengths, expected, atol=1e-5)


def test_top_k_ranks_labels_and_keeps_their_order_on_a_tie() -> None:
    step = TopK(("a", "b", "c", "d"), 3)
    found = step(np.array([[0.25, 0.5, 0.0, 0.25], [0, 0, 0, 1]], np.float32))
    assert found == [
        (("b", 0.5), ("a", 0.25), ("d", 0.25)),
        (("d", 1.0), ("a", 0.0), ("b", 0.0)),
    ]


def test_top_k_says_when_labels_and_outputs_differ_in_number() -> None:
    with pytest.raises(IncompatibleError, match="step top_k: 2 labels for 3 outputs"):
        TopK(("a", "b"), 1)(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "labels is missing"),
        ({"labels": []}, "labels is empty"),
        ({"labels": ["a", 1]}, r"labels\[1\] must be a string"),
        ({"labels": ["a"], "k": 0}, "k is 0"),
    ],
)
def test_faulty_options_of_top_k_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        TopK.parse(Fields(options, "step top_k", IncompatibleError))


def test_k_beyond_the_labels_means_all_of_them() -> None:
    assert TopK.parse(Fields({"labels": ["a", "b"], "k": 9}, "s", IncompatibleError)).k == 2


def test_results_are_json(tmp_path: Path) -> None:
    answer = Classification("mail", 0.75, (("mail", 0.75), ("net", 0.25)), True)
    assert answer.as_json() == {
        "label": "mail",
        "score": 0.75,
        "scores": [{"label": "mail", "score": 0.75}, {"label": "net", "score": 0.25}],
        "truncated": True,
    }
    vector = Embedding(np.array([0.5, -1.0], np.float32))
    assert vector.as_json() == {"vector": [0.5, -1.0], "truncated": False}
    assert encode_json(vector.as_json())


def one(folder: Path, **changed: Any) -> Any:
    variants = [variant_json("ort", "model.onnx")]
    return declared_steps(tiny_bundle(folder, variants, **changed).manifest)


def step(name: str, **options: Any) -> dict[str, Any]:
    return {"step": name, "options": options}


def test_declared_steps_turn_logits_into_a_classification(tmp_path: Path) -> None:
    logits = np.array([[0, 3, 1, 0]], np.float32)
    (found,) = one(tmp_path).results({"logits": logits}, {}, [Item({}, truncated=True)])
    assert isinstance(found, Classification)
    assert found.label == LABELS[1]
    assert found.score == pytest.approx(float(np.exp(3) / np.exp([0, 3, 1, 0]).sum()))
    assert [label for label, _ in found.scores] == [LABELS[1], LABELS[2]]
    assert found.truncated


def test_declared_steps_turn_a_vector_into_an_embedding(tmp_path: Path) -> None:
    steps = one(
        tmp_path,
        task="embedding",
        outputs=[tensor_json("embedding", "float32", ["batch", 2])],
        postprocess=[step("l2_normalize")],
    )
    rows = np.array([[3, 4], [0, 2]], np.float32)
    first, second = steps.results({"embedding": rows}, {}, [Item({}), Item({}, truncated=True)])
    assert isinstance(first, Embedding)
    np.testing.assert_allclose(first.vector, [0.6, 0.8], rtol=1e-6)
    assert not first.truncated
    assert second.truncated


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "telepathy"}, f"task 'telepathy'.*known are {', '.join(TASKS)}"),
        ({"preprocess": [step("blur")]}, f"'blur'.*known are {', '.join(PREPROCESS)}"),
        ({"postprocess": [step("nms")]}, f"'nms'.*known are {', '.join(POSTPROCESS)}"),
        ({"preprocess": []}, "text-classification must begin with tokenize and end in"),
        (
            {"preprocess": [tokenize_step(), tokenize_step()]},
            "step tokenize takes text, the one before it gives item",
        ),
        ({"preprocess": [tokenize_step(max_length=-1)]}, "step tokenize: max_length is -1"),
        (
            {"preprocess": [tokenize_step(inputs=["input_ids"])]},
            "makes input_ids, the model takes attention_mask, input_ids",
        ),
        ({"postprocess": [step("softmax")]}, "must end in one step top_k"),
        (
            {"postprocess": [step("top_k", labels=LABELS), step("softmax")]},
            "must end in one step top_k",
        ),
        (
            {"task": "embedding", "postprocess": [step("top_k", labels=LABELS)]},
            "must have no step top_k",
        ),
        ({"postprocess": [step("top_k")]}, "step top_k: labels is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_steps_that_do_not_add_up_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        one(tmp_path, **changed)
