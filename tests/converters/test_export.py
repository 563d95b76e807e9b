"""Every exporter gives the same interface, and the numbers of torch."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from converters.encoding import Encoded
from converters.export import require_optimum
from converters.export.litert import signatures
from converters.export.onnx import export_onnx
from converters.export.optimum import export_optimum
from converters.fuse import fuse_onnx
from converters.network import TextNetwork
from edge_runtime.errors import InputError
from tests.converters.engines import litert_answers, onnx_answers, onnx_batch, torch_answers
from tests.converters.small import CLASSES, HEADS, HIDDEN, MAX_LENGTH

CLOSE = 1e-4
EXPORTERS = {"torch": export_onnx, "optimum": export_optimum}
WHOLE = {
    "EmbedLayerNormalization": 1, "Attention": 2, "BiasGelu": 2, "SkipLayerNormalization": 4,
}  # fmt: skip


@pytest.fixture(scope="module", params=list(EXPORTERS))
def exported(request: pytest.FixtureRequest, network: TextNetwork) -> bytes:
    if request.param == "optimum":
        pytest.importorskip("optimum.exporters.onnx")
    return EXPORTERS[request.param](network, opset=17)


def shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_interface_is_two_int64_tensors_and_one_output(exported: bytes) -> None:
    graph = onnx.load_from_string(exported).graph
    assert [(one.name, shape(one)) for one in graph.input] == [
        ("input_ids", ["batch", "sequence"]),
        ("attention_mask", ["batch", "sequence"]),
    ]
    assert {one.type.tensor_type.elem_type for one in graph.input} == {onnx.TensorProto.INT64}
    assert [(one.name, shape(one)) for one in graph.output] == [("logits", ["batch", len(CLASSES)])]


def test_it_answers_as_torch_does(
    exported: bytes, network: TextNetwork, texts: tuple[Encoded, ...]
) -> None:
    expected = torch_answers(network, texts)
    assert np.abs(onnx_answers(exported, texts) - expected).max() < CLOSE
    assert np.abs(onnx_batch(exported, texts) - expected).max() < CLOSE, "padding changes nothing"


def test_it_fuses_whole_and_still_answers_so(
    exported: bytes, network: TextNetwork, texts: tuple[Encoded, ...]
) -> None:
    fused, counts = fuse_onnx(exported, architecture="bert", heads=HEADS, hidden=HIDDEN)
    assert counts == WHOLE
    assert np.abs(onnx_answers(fused, texts) - torch_answers(network, texts)).max() < CLOSE


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_without_a_head_the_output_is_the_embedding(
    exporter: str, network: TextNetwork, texts: tuple[Encoded, ...]
) -> None:
    if exporter == "optimum":
        pytest.importorskip("optimum.exporters.onnx")
    headless = TextNetwork(network.encoder, None).eval()
    model = EXPORTERS[exporter](headless, opset=14)
    graph = onnx.load_from_string(model).graph
    assert [(one.name, shape(one)) for one in graph.output] == [("embedding", ["batch", HIDDEN])]
    answers = onnx_answers(model, texts[:8])
    assert np.abs(answers - torch_answers(headless, texts[:8])).max() < CLOSE


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_same_network_gives_the_same_bytes(exporter: str, network: TextNetwork) -> None:
    if exporter == "optimum":
        pytest.importorskip("optimum.exporters.onnx")
    assert EXPORTERS[exporter](network, opset=17) == EXPORTERS[exporter](network, opset=17)
    assert not network.training


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("opset", [13, 21])
def test_an_opset_out_of_reach_is_refused(exporter: str, opset: int, network: TextNetwork) -> None:
    with pytest.raises(InputError, match=rf"opset {opset}: expected 14\.\.20"):
        EXPORTERS[exporter](network, opset=opset)


def test_optimum_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "optimum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InputError, match=r"install edge-runtime\[optimum\]"):
        require_optimum()


def test_an_architecture_that_optimum_does_not_know_is_refused(
    network: TextNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    monkeypatch.setattr(network.encoder.config, "model_type", "novel")
    with pytest.raises(InputError, match="architecture 'novel' is not known"):
        export_optimum(network, opset=17)


def test_litert_answers_as_torch_does_in_every_entry_point(
    litert_file: bytes, network: TextNetwork, texts: tuple[Encoded, ...]
) -> None:
    assert {len(text) <= 16 for text in texts} == {True, False}, "both entry points are tried"
    answers = litert_answers(litert_file, texts, (16, MAX_LENGTH))
    assert np.abs(answers - torch_answers(network, texts)).max() < CLOSE


def test_litert_entry_points_share_their_weights(litert_file: bytes, plain_onnx: bytes) -> None:
    assert len(litert_file) < 1.1 * len(plain_onnx)
    assert [one.name for one in signatures((48, 16))] == ["tokens_16", "tokens_48"]


def test_an_architecture_without_patterns_is_left_as_it_is(plain_onnx: bytes) -> None:
    assert fuse_onnx(plain_onnx, architecture="mpnet", heads=HEADS, hidden=HIDDEN) == (
        plain_onnx,
        {},
    )


def test_what_is_no_onnx_file_is_not_fused() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        fuse_onnx(b"\x00nonsense", architecture="bert", heads=HEADS, hidden=HIDDEN)
