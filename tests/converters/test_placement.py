"""What is known of a placement, the floor that it is held against, and the verb that shows it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.cli import main
from converters.placement import ask as asking
from converters.placement.coverage import ADVICE, LEAVE, OTHERWISE, advice, check_coverage, meets
from converters.placement.place import Tools, place, save_arrays
from converters.placement.result import (
    COMPILED,
    Node,
    Placed,
    first_names,
    from_json,
    percent,
    unknown,
)
from converters.placement.targets import TARGETS, target
from converters.progress import Silent
from converters.quantize import quantizer
from converters.quantize.config import Options
from edge_runtime.errors import InputError
from edge_runtime.profile import DeviceProfile, Engine, load_profile
from tests.converters.nets import calibration, litert_of
from tests.fakes.tiny import tiny_folder, variant_json

INTEGER = "static_w8a8_channel"
Edge = Callable[..., tuple[int, str, str]]


def engine(compiler: str = "vela", *, coverage: float = 0.0, backend: str = "litert") -> Engine:
    return Engine(
        backend=backend, quantization=INTEGER, providers=(), threads=1, options={},
        accelerator="npu", compiler=compiler, coverage=coverage,
    )  # fmt: skip


def placed(*fates: str) -> Placed:
    """A node for each of `fates`: "" is on, anything else the reason why not."""
    nodes = tuple(Node(f"ADD #{n}", "ADD", not why, why) for n, why in enumerate(fates))
    return Placed("npu", nodes, COMPILED, "tool 1.0", 2, 0.5, "the tool's", {"sram_bytes": 7})


def with_custom(model: Path, name: str) -> bytes:
    """The file as if a vendor's compiler had made its first operator."""
    file = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = name.encode()
    file.operatorCodes.append(code)
    first = file.subgraphs[0].operators[0]
    first.opcodeIndex = len(file.operatorCodes) - 1
    first.builtinOptionsType, first.builtinOptions = 0, None
    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def nothing_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path / "no-targets"))


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained convolutional net in integers, as our own quantizer makes it."""
    path = tmp_path_factory.mktemp("placed") / "residual.tflite"
    options = Options(INTEGER, integer=True)
    path.write_bytes(quantizer("litert", options)(litert_of("residual"), calibration()).model)
    return path


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("placed") / "float.tflite"
    path.write_bytes(litert_of("residual"))
    return path


@pytest.fixture
def edge(capfd: pytest.CaptureFixture[str]) -> Edge:
    def run(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return run


def test_the_share_is_of_nodes_and_unknown_where_nothing_is_known() -> None:
    assert placed("", "", "float", "").share == 0.75
    assert unknown("npu", "not set up").share is None
    assert [node.name for node in placed("", "float").off] == ["ADD #1"]


def test_nodes_of_one_fate_are_told_together_and_those_that_are_off_first() -> None:
    found = placed("", "float", "", "float", "rank").groups
    assert [(one.on, one.reason, len(one.names)) for one in found] == [
        (False, "float", 2), (False, "rank", 1), (True, "", 2),
    ]  # fmt: skip


def test_a_placement_survives_json() -> None:
    one = placed("", "float")
    assert from_json(json.loads(json.dumps(one.as_json()))) == one


def test_a_share_just_below_a_floor_does_not_look_like_it() -> None:
    assert percent(0.8999) == "89.9 %"
    assert percent(0.9) == "90 %"
    assert percent(1.0) == "100 %"
    assert first_names(["a", "b", "c", "d"]) == "a, b, c and 1 more"


def test_below_the_floor_the_first_nodes_and_what_to_change_are_named() -> None:
    some = placed("", "FLOAT32 numbers", "FLOAT32 numbers", "MEAN is no operator of it")
    with pytest.raises(InputError) as caught:
        check_coverage(some, engine(coverage=0.9), "model m.tflite")
    told = str(caught.value)
    assert told.startswith("model m.tflite: 25 % of its operators run on npu (vendor-compiled by")
    assert "floor is 90 %" in told
    assert "ADD #1, ADD #2: FLOAT32 numbers" in told
    assert "quantize its activations too" in told
    assert "say it with other operators" in told
    assert told.endswith("--allow-fallback")


def test_only_what_is_known_misses_a_floor() -> None:
    check_coverage(unknown("npu", "not set up"), engine(coverage=1.0), "m")
    check_coverage(placed("", "float"), engine(coverage=0.5), "m")
    assert meets(placed("", "float"), engine(coverage=0.5))
    assert not meets(placed("", "float"), engine(coverage=0.51))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Operation has tensor with unsupported DataType Float32", "quantize its activations"),
        ("Matmul with unsupported IFM type; IF Matmul or (FC with dynamic weights)", "8-bit"),
        ("a shape is not fixed: [-1, 4]", "fix the shapes"),
        ("Unsupported opType", "other operators"),
        ("behind MEAN #3, the first operator that is not for the TPU", "in front of it"),
        ("Unsupported depth-reduction. IFM: 1, 64, 2, 2", "within the limits"),
        ("somebody else's words", OTHERWISE),
    ],
)
def test_each_kind_of_reason_has_its_advice(reason: str, words: str) -> None:
    assert words in advice(reason)


def test_advice_keeps_to_the_profile_and_leaves_what_only_moves_numbers() -> None:
    reason = "it computes in floats: no quantizer stands before it"
    kria = load_profile("kria-kv260").engine("onnxruntime", "dpu")
    assert kria is not None
    assert "static_w8a8_channel" in advice(reason)
    assert "static_w8a8_tensor" in advice(reason, kria.demands, "Conv")
    assert "channel" not in advice(reason, kria.demands, "Conv")
    for operator in ("Reshape", "EXPAND_DIMS"):
        assert advice(reason, kria.demands, operator) == LEAVE
    assert "fix the shapes" in advice("a shape is not fixed: [-1, 4]", kria.demands, "RESHAPE")


def test_every_advice_can_be_reached() -> None:
    assert len({words for _, words in ADVICE}) == len(ADVICE)


def test_every_compiler_of_a_shipped_profile_is_in_the_table() -> None:
    from edge_runtime.profile import profile_names

    named = {
        one.compiler
        for name in profile_names()
        for one in load_profile(name).engines
        if one.compiler
    }
    assert named <= set(TARGETS)
    with pytest.raises(InputError, match="target tpu: not known; there are vela"):
        target("tpu")


def test_every_requirement_is_pinned() -> None:
    for name, one in TARGETS.items():
        for step in one.steps:
            for word in step:
                assert word.startswith("--") or word.count("==") == 1, f"{name}: {word}"


@pytest.mark.usefixtures("nothing_set_up")
def test_a_tool_that_is_not_set_up_is_no_error_and_says_what_to_type(residual: Path) -> None:
    found = place(residual, engine("vela", coverage=0.9))
    assert (found.evidence, found.share, found.nodes) == ("unknown", None, ())
    assert "type `edge-convert setup-target vela`" in found.why


def test_a_file_that_a_tool_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.onnx: vx takes \.tflite files"):
        place(tmp_path / "m.onnx", engine("vx"))
    with pytest.raises(InputError, match="no such file"):
        place(tmp_path / "m.tflite", engine("vx"))
    (tmp_path / "m.tflite").write_bytes(b"no model at all")
    with pytest.raises(InputError, match=r"m\.tflite"):
        place(tmp_path / "m.tflite", engine("vx"))


def test_an_accelerator_without_a_tool_is_unknown(residual: Path) -> None:
    assert "no tool is known" in place(residual, engine("")).why


def test_what_was_compiled_already_is_not_compiled_again(residual: Path, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(with_custom(residual, "ethos-u"))
    with pytest.raises(InputError, match="vela has compiled it already"):
        place(tmp_path / "m.tflite", engine("vela"))


@pytest.mark.usefixtures("nothing_set_up")
@pytest.mark.parametrize(
    ("name", "compiler", "data", "words"),
    [
        ("m.tflite", "vela", b"", "is empty"),
        ("m.tflite", "vela", b"about ethos-u", "is not a .tflite file"),
        ("m.tflite", "vela", None, "is not a whole .tflite file"),
        ("m.onnx", "nnapi", b"", "is empty"),
        ("m.onnx", "qnn", b"no model", "is not a whole ONNX file"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_before_any_tool_is_asked(
    residual: Path, tmp_path: Path, name: str, compiler: str, data: bytes | None, words: str
) -> None:
    (tmp_path / name).write_bytes(residual.read_bytes()[:5000] if data is None else data)
    with pytest.raises(InputError, match=f"model {name}: {words}"):
        place(tmp_path / name, engine(compiler))


def test_what_is_no_file_is_not_opened(edge: Edge, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.tflite")
    with pytest.raises(InputError, match="is no regular file"):
        place(tmp_path / "m.tflite", engine("vx"))
    (tmp_path / "n.tflite").mkdir()
    for name in ("m.tflite", "n.tflite"):
        assert "is no regular file" in edge("place", tmp_path / name, "--profile", "imx93")[2]


def test_a_tool_of_rules_cannot_run_anything(residual: Path) -> None:
    with Tools() as tools, pytest.raises(InputError, match="vx cannot run"):
        tools.run(residual, engine("vx"), {})


def test_arrays_may_have_any_name(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "file": np.arange(3, dtype=np.int8),
        "a/b:0": np.ones((2, 2), np.float32),
    }
    save_arrays(tmp_path / "feeds.npz", arrays)
    with np.load(tmp_path / "feeds.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["a/b:0", "file"]
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


def test_the_verb_ends_with_1_below_the_floor_and_says_why(edge: Edge, floating: Path) -> None:
    code, out, err = edge("place", floating, "--profile", "imx8mp", "--profile", "coral-dev-board")
    assert code == 1
    assert "on edgetpu (coral-dev-board): 0 %" in out
    assert "BELOW the floor 90 %" in out
    assert "FLOAT32 numbers" in out
    assert "--allow-fallback" in err
    assert "imx8mp" not in err  # the VX delegate takes floats
    assert edge("place", floating, "--profile", "coral-dev-board", "--allow-fallback")[0] == 0


def test_the_verb_tells_machines_everything(edge: Edge, residual: Path) -> None:
    code, out, _ = edge("place", residual, "--profile", "imx8mp", "--json")
    (found,) = json.loads(out)
    assert code == 0
    assert (found["profile"], found["engine"]) == ("imx8mp", "litert on vx")
    assert (found["evidence"], found["share"], found["meets"]) == ("rule-checked", 1.0, True)
    assert {node["operator"] for node in found["nodes"]} >= {"CONV_2D", "FULLY_CONNECTED"}
    shown = edge("place", residual, "--profile", "imx8mp", "--nodes")[1]
    assert found["nodes"][0]["name"] in shown


@pytest.mark.usefixtures("nothing_set_up")
def test_the_verb_says_unknown_where_nobody_can_know(edge: Edge, residual: Path) -> None:
    code, out, _ = edge("place", residual, "--profile", "imx93")
    assert code == 0
    assert "unknown. vela (Arm Ethos-U" in out
    assert "setup-target vela" in out


def test_what_cannot_be_placed_at_all_is_refused(edge: Edge, residual: Path) -> None:
    code, _, err = edge("place", residual, "--profile", "raspberry-pi-5")
    assert code == 1
    assert "nothing to place for raspberry-pi-5: no engine has an accelerator" in err
    assert "hexagon takes .onnx" in edge("place", residual, "--profile", "qcs6490")[2]
    assert "no such file" in edge("place", "missing.tflite", "--profile", "imx93")[2]


def coral() -> DeviceProfile:
    return load_profile("coral-dev-board")


def test_of_a_bundle_the_variants_of_the_engines_backend_are_asked_about(tmp_path: Path) -> None:
    found = asking.ask(str(tiny_folder(tmp_path / "tiny")), [coral()], Silent())
    assert [one.file for one in found] == ["litert-float", "litert-int8"]
    assert all(one.missed for one in found)
    # One node an entry point, by name.
    names = [node.name for node in found[1].placed.nodes]
    assert len(set(names)) == len(names)


def test_a_tool_that_fails_stops_no_other(edge: Edge, residual: Path, tmp_path: Path) -> None:
    """Operators without their inputs are whole files to LiteRT's reader, and no rule expects it."""
    file = schema.ModelT.InitFromPackedBuf(residual.read_bytes(), 0)
    for one in file.subgraphs[0].operators[1:]:
        one.inputs = []
    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), b"TFL3")
    (tmp_path / "odd.tflite").write_bytes(bytes(builder.Output()))
    words = ("place", tmp_path / "odd.tflite", "--profile", "imx8mp")
    code, out, err = edge(*words, "--profile", "coral-dev-board", "--allow-fallback")
    assert code == 1
    assert "odd.tflite on vx (imx8mp): FAILED" in out
    assert "vx fails" not in out
    assert "on edgetpu (coral-dev-board)" in out
    assert err.count("vx fails on odd.tflite: IndexError") == 1


def test_of_a_compiled_variant_the_manifest_is_believed(residual: Path, tmp_path: Path) -> None:
    made = variant_json(
        "litert-edgetpu",
        "model.tflite",
        profiles=["coral-dev-board"],
        placement={
            "accelerator": "edgetpu",
            "share": {"value": 0.5, "evidence": "vendor-compiled"},
            "off": [["MEAN #3", "Operation not supported"]],
        },
    )
    data = with_custom(residual, "edgetpu-custom-op")
    folder = tiny_folder(tmp_path / "tiny", [made], replace={"model.tflite": data})
    ear = Heard()
    (found,) = asking.ask(str(folder), [coral()], ear, folder=tmp_path / "kept")
    assert ear.lines == [f"{tmp_path / 'kept'}: nothing is kept there, no tool compiled anything"]
    assert "compiled already; its manifest says 50 % on edgetpu, vendor-compiled" in (
        found.placed.why
    )
    assert "MEAN #3 (Operation not supported)" in found.placed.why
    # Of another chip's figures nothing is claimed.
    other = dataclasses.replace(coral(), name="my-board")
    (found,) = asking.ask(str(folder), [other], Silent())
    assert found.placed.why == (
        "compiled already, for coral-dev-board: nothing is known of my-board"
    )
