"""Arm's compiler itself, on nets that our own quantizer made."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.placement.environments import process
from converters.placement.place import Tools
from converters.placement.tflite_graph import read_graphs
from converters.quantize import quantizer
from converters.quantize.config import Options
from edge_runtime.errors import InputError
from edge_runtime.profile import Engine, load_profile
from tests.converters.nets import calibration, litert_of
from tests.converters.targets import needs_target
from tests.fakes.tiny import FIXTURE

pytestmark = needs_target("vela")


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    with Tools() as tools:
        yield tools


@pytest.fixture(scope="module")
def ethos() -> Engine:
    found = load_profile("imx93").engine("litert", "ethos-u65")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net with one operator that the NPU does not take: a mean over depth."""
    path = tmp_path_factory.mktemp("vela") / "residual.tflite"
    options = Options("static_w8a8_channel", integer=True)
    path.write_bytes(quantizer("litert", options)(litert_of("residual"), calibration()).model)
    return path


def test_an_integer_net_is_compiled_and_its_cpu_operators_have_reasons(
    tools: Tools, ethos: Engine, model: Path, tmp_path: Path
) -> None:
    found = tools.place(model, ethos, folder=tmp_path / "kept")
    assert found.evidence == "vendor-compiled"
    assert re.fullmatch(r"ethos-u-vela \d+\.\d+\.\d+", found.tool)
    assert found.share is not None
    assert found.share >= 0.9
    assert all(node.reason and "does not say why" not in node.reason for node in found.off)
    assert found.estimated_ms is not None
    assert 0.001 < found.estimated_ms < 100
    assert "what runs on the CPU is not in it" in found.estimate
    assert found.notes["accelerator_config"] == "Ethos_U65_256"
    assert found.notes["sram_bytes"] > 0  # type: ignore[operator]

    # The compiled file says the same: the NPU's parts, and the operators that are left.
    assert found.compiled is not None
    (graph,) = read_graphs(found.compiled)
    left = Counter(one.name for one in graph.operators if not one.converts_float)
    assert left.pop("CUSTOM:ethos-u") == found.partitions
    assert left == Counter(node.operator for node in found.off)
    # Every operator of the source that Vela knows is a node, once.
    (source,) = read_graphs(model)
    assert {node.name for node in found.nodes} <= {one.title for one in source.operators}
    with pytest.raises(InputError, match="has compiled it already"):
        tools.place(found.compiled, ethos)


def test_a_net_of_floats_stays_on_the_cpu(tools: Tools, ethos: Engine, tmp_path: Path) -> None:
    model = tmp_path / "float.tflite"
    model.write_bytes(litert_of("residual"))
    found = tools.place(model, ethos)
    assert (found.share, found.partitions, found.estimated_ms) == (0.0, 0, None)
    assert all("Float32" in node.reason for node in found.off if node.operator == "CONV_2D")


def test_every_entry_point_is_placed(tools: Tools, ethos: Engine, tmp_path: Path) -> None:
    """Three lengths of text: as many operators each, and all that is left is told."""
    found = tools.place(FIXTURE / "model.tflite", ethos, folder=tmp_path)
    entries = Counter(node.name.partition("#")[2].partition(":")[0] for node in found.nodes)
    assert set(entries) == {"0", "1", "2"}
    assert len(set(entries.values())) == 1
    assert found.compiled is not None
    left = sum(
        one.name != "CUSTOM:ethos-u" for g in read_graphs(found.compiled) for one in g.operators
    )
    assert left == len(found.off)


def test_a_chip_that_vela_does_not_know_is_one_sentence_and_the_tool_goes_on(
    tools: Tools, ethos: Engine, model: Path
) -> None:
    with pytest.raises(InputError, match=r"vela refuses .*ethos-u99"):
        tools.place(model, replace(ethos, target={"accelerator_config": "ethos-u99"}))
    with pytest.raises(InputError, match="speed is no option of it"):
        tools.place(model, replace(ethos, target={"speed": 1}))
    assert tools.place(model, ethos).known
    larger = replace(ethos, target={**ethos.target, "accelerator_config": "ethos-u65-512"})
    assert tools.place(model, larger).notes["accelerator_config"] == "Ethos_U65_512"


def test_a_free_dim_that_is_not_the_batch_is_refused(
    tools: Tools, ethos: Engine, model: Path, tmp_path: Path
) -> None:
    file = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    (graph,) = file.subgraphs
    graph.tensors[graph.inputs[0]].shapeSignature = [1, 3, -1, 16]
    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), b"TFL3")
    free = tmp_path / "free.tflite"
    free.write_bytes(bytes(builder.Output()))
    with pytest.raises(InputError, match=r"has the shape \[1, 3, -1, 16\]; only the first dim"):
        tools.place(free, ethos)


def test_an_environment_that_lacks_the_tool_is_one_sentence() -> None:
    with (
        process("vela", lambda: Path(sys.executable)) as other,
        pytest.raises(InputError, match=r"vela: ModuleNotFoundError: No module named 'ethosu'"),
    ):
        other.start()
