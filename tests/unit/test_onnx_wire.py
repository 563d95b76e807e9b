from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import IncompatibleError
from edge_runtime.inference.onnx_wire import _varint, external_tensors, nodes, operators
from tests.fakes.onnx_files import onnx_file
from tests.fakes.tiny import FIXTURE

MODEL = (FIXTURE / "model.onnx").read_bytes()


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


NAME = record(8, b"weights")
LOCATION = record(13, record(1, b"location") + record(2, b"../../etc/shadow"))
OUTSIDE = number(14, 1)
GRAPH, NODE, ATTRIBUTE = 7, 1, 5


@pytest.mark.parametrize("tensor", [NAME + LOCATION, NAME + OUTSIDE, OUTSIDE + NAME + LOCATION])
@pytest.mark.parametrize(
    "path",
    [
        (GRAPH, 5),
        (GRAPH, 15, 1),
        (GRAPH, 15, 2),
        (GRAPH, NODE, ATTRIBUTE, 5),
        (GRAPH, NODE, ATTRIBUTE, 10),
        (GRAPH, NODE, ATTRIBUTE, 22, 1),
        (GRAPH, NODE, ATTRIBUTE, 6, 5),
        (GRAPH, NODE, ATTRIBUTE, 11, NODE, ATTRIBUTE, 6, 5),
        (25, 7, ATTRIBUTE, 5),
        (25, 11, 5),
        (20, 1, 5),
        (20, 2, 5),
    ],
    ids=[
        "initializer",
        "sparse values",
        "sparse indices",
        "attribute",
        "attribute list",
        "sparse attribute",
        "subgraph",
        "subgraph of a subgraph",
        "function",
        "default of a function",
        "training",
        "training step",
    ],
)
def test_a_tensor_that_lives_elsewhere_is_found_wherever_it_hides(
    path: tuple[int, ...], tensor: bytes
) -> None:
    for field in reversed(path):
        tensor = record(field, tensor)
    assert external_tensors(number(1, 8) + tensor + record(2, b"pytorch"), "model") == ["weights"]


@pytest.mark.parametrize("bit", [32, 34, 40, 63])
@pytest.mark.parametrize("path", [(GRAPH,), (5, GRAPH), (13, 5, GRAPH)], ids=str)
def test_a_tag_that_an_engine_reads_as_another_field_is_refused(
    path: tuple[int, ...], bit: int
) -> None:
    """Engines keep 32 bits of a tag: what we would skip as unknown is a graph to them."""
    hidden, *around = path
    model = varint(hidden << 3 | 2 | 1 << bit) + varint(len(NAME)) + NAME
    for field in around:
        model = record(field, model)
    with pytest.raises(IncompatibleError, match="m: is not a whole ONNX model"):
        external_tensors(model, "m:")


def test_an_engine_really_drops_the_upper_bits_of_a_tag() -> None:
    """The reason for the refusal above. Should this fail, the engine has become stricter."""
    onnxruntime = pytest.importorskip("onnxruntime")
    hidden = retagged(MODEL, GRAPH, 1 << 32)
    onnxruntime.InferenceSession(hidden, providers=["CPUExecutionProvider"])
    with pytest.raises(IncompatibleError):
        external_tensors(hidden, "m")


def retagged(model: bytes, field: int, bits: int) -> bytes:
    """`model` with `bits` set in the tag of every `field` at its top."""
    data, at, out = memoryview(model), 0, b""
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        if key & 7 == 2:
            size, at = _varint(data, at)
            out += varint(key | bits if key >> 3 == field else key) + varint(size)
            start, at = at, at + size
        else:
            _, at = _varint(data, at)
        out += data[start:at]
    return out


def test_a_tensor_without_a_name_is_found_too() -> None:
    model = record(GRAPH, record(5, OUTSIDE))
    assert external_tensors(model, "model") == ["a tensor without a name"]


@pytest.mark.parametrize("file", ["model.onnx", "model-int8.onnx"])
def test_an_honest_model_has_everything_inside(file: str) -> None:
    assert external_tensors((FIXTURE / file).read_bytes(), file) == []


def test_a_node_whose_name_holds_the_word_location_is_not_taken_for_one() -> None:
    node = record(NODE, record(3, b"/encoder/location") + record(4, b"location"))
    assert external_tensors(record(GRAPH, node), "model") == []


@pytest.mark.parametrize("cut", [1, 2, 100, len(MODEL) // 2])
def test_a_model_that_was_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(IncompatibleError, match="m: is not a whole ONNX model"):
        external_tensors(MODEL[:-cut], "m:")


def test_nesting_without_end_is_refused() -> None:
    model = OUTSIDE
    for _ in range(200):
        model = record(NODE, record(ATTRIBUTE, record(6, model)))
    with pytest.raises(IncompatibleError):
        external_tensors(record(GRAPH, model), "model")


@given(st.binary(max_size=200))
def test_noise_is_refused_or_harmless(data: bytes) -> None:
    try:
        external_tensors(data, "model")
    except IncompatibleError as reason:
        assert str(reason) == "model is not a whole ONNX model"  # noqa: PT017


def test_the_operators_of_a_file_are_known_without_reading_its_weights() -> None:
    nodes = [("MatMul", ["x", "w"], "a"), ("Relu", ["a"], "y")]
    file = onnx_file(("x", (1, 2)), ("y", (1, 2)), nodes, {"w": np.eye(2, dtype=np.float32)})
    assert operators(file) == ["MatMul", "Relu"]
    with pytest.raises(IncompatibleError):
        operators(file[:-3])


def test_every_node_is_known_with_its_number_of_inputs() -> None:
    made = [("MatMul", ["x", "w"], "a"), ("Relu", ["a"], "y")]
    file = onnx_file(("x", (1, 2)), ("y", (1, 2)), made, {"w": np.eye(2, dtype=np.float32)})
    assert nodes(file) == [("MatMul", 2), ("Relu", 1)]
    with pytest.raises(IncompatibleError, match="not a whole ONNX model"):
        nodes(b"\x3a\xff")
