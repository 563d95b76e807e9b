"""Spans are those that transformers' pipeline finds in the same probabilities."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TokenClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.spans import FindSpans, Token

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]


def reference(rows: np.ndarray, tokens: list[Token], strategy: str) -> list[Any]:
    pipeline: Any = object.__new__(TokenClassificationPipeline)
    pipeline.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(LABELS))))
    pipeline.tokenizer = SimpleNamespace(convert_tokens_to_string=" ".join)
    entities = [
        {"word": f"w{at}", "scores": row, "start": token.start, "end": token.end, "index": at,
         "is_subword": at > 0 and tokens[at - 1].word == token.word}
        for at, (row, token) in enumerate(zip(rows, tokens, strict=True))
    ]  # fmt: skip
    grouped = pipeline.aggregate(entities, AggregationStrategy(strategy))
    return [one for one in grouped if one["entity_group"] != "O"]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 100),
)
def test_spans_are_those_of_the_reference(
    strategy: str, rows: list[tuple[int, bool]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((len(rows), len(LABELS))).astype(np.float32)
    scores[np.arange(len(rows)), [label for label, _ in rows]] += 1
    scores /= scores.sum(axis=1, keepdims=True)
    words = np.cumsum([begins or at == 0 for at, (_, begins) in enumerate(rows)])
    tokens = [Token(at * 3, at * 3 + 2, int(word)) for at, word in enumerate(words)]
    step = FindSpans.parse(Fields({"labels": LABELS, "strategy": strategy}, "s", IncompatibleError))
    found = step(scores, tokens)
    wanted = reference(scores, tokens, strategy)
    assert [(one.label, one.start, one.end) for one in found] == [
        (one["entity_group"], one["start"], one["end"]) for one in wanted
    ]
    assert [one.score for one in found] == pytest.approx([float(one["score"]) for one in wanted])


def test_special_tokens_are_in_no_span() -> None:
    step = FindSpans.parse(Fields({"labels": LABELS}, "s", IncompatibleError))
    rows = np.eye(5, dtype=np.float32)[[1, 1, 2, 1]]
    found = step(rows, [None, Token(0, 3, 0), Token(3, 5, 0), None])
    assert [(one.label, one.start, one.end) for one in found] == [("PER", 0, 5)]
