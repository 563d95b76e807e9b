"""Memory of activations: what lives at the same time, an arena for it, and folding's effect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.encoding import Encoded
from converters.fold import fold_constants
from converters.memory import ALIGNMENT, Life, Node, activations, arena, lifetimes, peak
from converters.ort import open_session
from converters.pipeline import Conversion
from converters.placement.here import KERNELS, XNNPACK, placement
from converters.placement.result import MEASURED
from converters.words import fuse as fuse_words
from tests.converters.small import HIDDEN, LAYERS, MAX_LENGTH


def test_a_tensor_lives_from_its_maker_to_its_last_reader() -> None:
    nodes = [Node(("in",), ("a",)), Node(("a",), ("b",)), Node(("a", "b"), ("out",))]
    lives = lifetimes(nodes, {"in": 1, "a": 10, "b": 100, "out": 1000}, ["out"])
    assert lives == [Life(0, 0, 1), Life(0, 2, 10), Life(1, 2, 100), Life(2, 3, 1000)]
    assert peak(lives) == 1110


def test_a_view_takes_no_memory_and_keeps_what_it_looks_at_alive() -> None:
    nodes = [
        Node(("in",), ("a",)),
        Node(("a",), ("view",), view=True),
        Node(("in",), ("b",)),
        Node(("view", "b"), ("out",)),
    ]
    sizes = {"in": 1, "a": 10, "view": 10, "b": 100, "out": 1000}
    lives = lifetimes(nodes, sizes, ["out"])
    assert Life(0, 3, 10) in lives
    assert len(lives) == 4
    assert peak(lives) == 1110


def test_an_arena_reuses_the_gap_that_fits_best() -> None:
    # Two long ones leave gaps of 3 and of 1 behind once the short ones between them are gone.
    unit = ALIGNMENT
    lives = [Life(0, 0, 4 * unit), Life(1, 1, 4 * unit), Life(0, 1, unit)]
    assert arena(lives) == 5 * unit
    assert arena([]) == 0


lives = st.builds(
    lambda first, length, size: Life(first, first + length, size),
    st.integers(0, 12), st.integers(0, 6), st.integers(1, 5000),
)  # fmt: skip


@given(st.lists(lives, max_size=14))
def test_an_arena_is_between_the_peak_and_the_sum(some: list[Life]) -> None:
    padded = [-(-one.size_bytes // ALIGNMENT) * ALIGNMENT for one in some]
    assert peak(some) <= arena(some) <= sum(padded)


def test_activations_grow_with_the_tokens_and_shrink_by_fusing(
    plain_onnx: bytes, fused_onnx: bytes
) -> None:
    short, long = (activations("onnxruntime", plain_onnx, tokens) for tokens in (8, MAX_LENGTH))
    assert short.peak_bytes < long.peak_bytes <= long.arena_bytes
    fused = activations("onnxruntime", fused_onnx, MAX_LENGTH)
    assert fused.peak_bytes < long.peak_bytes
    # The feed-forward part holds its input and its wide middle at the same time.
    assert fused.peak_bytes >= 4 * MAX_LENGTH * (HIDDEN + 2 * HIDDEN)


def test_of_a_litert_file_the_entry_point_that_fits_counts(litert_file: bytes) -> None:
    short, long = (activations("litert", litert_file, tokens) for tokens in (16, MAX_LENGTH))
    assert short == activations("litert", litert_file, 3)
    assert long == activations("litert", litert_file, 1000)
    assert short.peak_bytes < long.peak_bytes <= long.arena_bytes < 4_000_000


def test_folding_takes_nodes_away_and_changes_no_answer(
    fused_onnx: bytes, texts: tuple[Encoded, ...]
) -> None:
    folded, gone = fold_constants(fused_onnx)
    assert gone > 0
    before, after = open_session(fused_onnx), open_session(folded)
    for text in texts[:4]:
        expected, found = (one.run(None, text.tensors())[0] for one in (before, after))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_folding_names_no_domain_that_was_not_there(fused_onnx: bytes) -> None:
    import onnx

    folded = onnx.load_from_string(fold_constants(fused_onnx)[0])
    assert {one.domain for one in folded.opset_import} == {"", "com.microsoft"}
    assert fold_constants(fused_onnx)[0] == fold_constants(fused_onnx)[0]


def test_folding_twice_changes_nothing(fused_onnx: bytes) -> None:
    once, _ = fold_constants(fused_onnx)
    assert fold_constants(once) == (once, 0)


def test_the_fuse_pass_tells_what_activations_took_before_and_after(converted: Conversion) -> None:
    figures = converted.passes["fuse"]
    memory = figures["peak_activation_bytes"]
    assert isinstance(memory, dict)
    assert isinstance(memory["before"], int)
    assert isinstance(memory["after"], int)
    assert 0 < memory["after"] < memory["before"]
    assert "nodes folded" in fuse_words(figures)
    assert "kB → " in fuse_words(figures)


def test_every_node_that_runs_has_a_place(converted: Conversion) -> None:
    candidates = {one.id: one for one in converted.model.candidates}
    onnx = candidates["ort-cpu-float32"]
    found = placement(onnx.backend, onnx.artifact.path)
    assert found.evidence == MEASURED
    counts = {one.operator: one.count for one in found.nodes}
    assert counts["Attention"] == LAYERS
    assert counts["SkipLayerNormalization"] == 2 * LAYERS
    assert {one.runs_on for one in found.nodes} == {"CPUExecutionProvider"}
    assert sum(counts.values()) <= found.in_file


def test_what_xnnpack_takes_of_a_litert_file_is_told(converted: Conversion) -> None:
    candidates = {one.id: one for one in converted.model.candidates}
    litert = candidates["litert-cpu-float32"]
    found = placement(litert.backend, litert.artifact.path)
    homes = {(one.operator, one.runs_on) for one in found.nodes}
    assert ("FULLY_CONNECTED", XNNPACK) in homes
    assert ("EMBEDDING_LOOKUP", KERNELS) in homes
    assert sum(one.count for one in found.nodes) == found.in_file


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_the_quantized_file_has_activations_too(converted: Conversion, backend: str) -> None:
    candidate = next(one for one in converted.model.candidates if one.backend == backend)
    assert candidate.quantized
    found = activations(backend, candidate.artifact.path.read_bytes(), MAX_LENGTH)
    assert 0 < found.peak_bytes <= found.arena_bytes
