"""One model, several accelerators: each gets the quantization that is legal there, and a proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from converters.checks import check_profile
from converters.model import Candidate
from converters.package import open_verified, self_tests
from converters.pipeline import Conversion, Options, convert
from converters.placement.ask import ask
from converters.progress import Silent
from converters.proofs import prove
from converters.report.figures import summary
from converters.report.page import html_page
from edge_runtime import load
from edge_runtime.errors import InputError
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.profile import load_profile
from tests.converters.brought_models import recipe, write_pictures
from tests.converters.targets import needs_target

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8 * 64, 3)
        with torch.no_grad():  # which channel is brightest
            self.first.weight.zero_()
            for at in range(8):
                self.first.weight[at, at % 3, 1, 1] = 1
            self.last.weight.zero_()
            for at in range(8):
                self.last.weight[at % 3, at * 64 : at * 64 + 64] = 1 / 64

    def forward(self, x):
        seen = torch.relu(self.first(x)).flatten(1)
        return {logits}


def make():
    return Net(), {"x": torch.rand(1, 3, 8, 8)}
"""
PLAIN, ODD = "self.last(seen)", "self.last(nn.functional.celu(seen, 0.5))"
STEPS = """
preprocess = [
    { step = "decode_image" },
    { step = "resize", width = 8, height = 8 },
    { step = "normalize", scale = 0.00392156862745098 },
]
labels = ["red", "green", "blue"]
"""
BOARD = """
name = "board"
title = "A board with an accelerator"
arch = "x86_64"
ram_bytes = 2_000_000_000
storage_bytes = 8_000_000_000
python = ["3.11"]

[[engine]]
{engine}

[[engine]]
backend = "onnxruntime"
quantization = "static_w8a8_channel"
providers = ["CPUExecutionProvider"]

[sources]
arch = "a test's own choice"
ram_bytes = "a test's own choice"
storage_bytes = "a test's own choice"
python = "a test's own choice"
engine = "a test's own choice"
"""
HEXAGON = """
backend = "onnxruntime"
accelerator = "hexagon"
quantization = "static_w8a16_channel"
providers = ["QNNExecutionProvider", "CPUExecutionProvider"]
compiler = "qnn"
target = { htp_arch = "73", soc_model = "43" }
coverage = 1.0
demands = { static_shapes = true, integer = true }
"""
ETHOS = """
backend = "litert"
accelerator = "ethos-u65"
quantization = "static_w8a8_channel"
compiler = "vela"
coverage = 1.0
demands = { static_shapes = true, integer = true }
options = { delegate = "/usr/lib/libethosu_delegate.so" }
[engine.target]
accelerator_config = "ethos-u65-256"
system_config = "Ethos_U65_High_End"
memory_mode = "Dedicated_Sram_384KB"
"""
TENSORRT = """
backend = "onnxruntime"
accelerator = "tensorrt"
quantization = "static_w8a8_channel"
providers = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
compiler = "tensorrt"
demands = { symmetric = true, static_shapes = true, max_opset = 15 }
"""
ROCKCHIP = """
backend = "rknn"
accelerator = "rknpu"
quantization = "float"
convolutions = "static_w8a8_channel"
compiler = "rknn"
target = { target_platform = "rk3588" }
coverage = 1.0
demands = { static_shapes = true, max_opset = 15 }
"""
CORAL = """
backend = "litert"
accelerator = "edgetpu"
quantization = "static_w8a8_channel"
compiler = "edgetpu"
demands = { static_shapes = true, integer = true }
options = { delegate = "libedgetpu.so.1" }
"""
EDGETPU = "litert-edgetpu-static-w8a8-channel-integer"
UNKNOWN = """
backend = "onnxruntime"
accelerator = "hailo8l"
quantization = "float"
providers = ["HailoExecutionProvider", "CPUExecutionProvider"]
compiler = "hailo"
coverage = 1.0
"""
NAMELESS = """
backend = "onnxruntime"
accelerator = "cuda"
quantization = "float"
providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
"""
Run = Callable[..., Conversion]


@pytest.fixture
def run(tmp_path: Path, cache_folder: Path) -> Run:
    """The conversion of a small net for a board with that engine and a CPU."""

    def converted(
        engine: str,
        logits: str = PLAIN,
        *,
        allow_fallback: bool = False,
        require_proof: bool = False,
    ) -> Conversion:
        (tmp_path / "net.py").write_text(NET.replace("{logits}", logits))
        if not (tmp_path / "test").exists():
            write_pictures(tmp_path / "calibration", 3, 1)
            write_pictures(tmp_path / "test", 4, 2)
        path = recipe(tmp_path, "image-classification", "net.py:make", head=STEPS)
        (tmp_path / "board.toml").write_text(BOARD.replace("{engine}", engine.strip()))
        profile = load_profile(str(tmp_path / "board.toml"))
        options = Options(
            tmp_path / "out", cache_folder, allow_fallback=allow_fallback,
            require_proof=require_proof,
        )  # fmt: skip
        (done,) = convert(path, [profile], options, Silent())
        return done

    return converted


def first(done: Conversion) -> Candidate:
    return done.model.candidates[0]


def graph(candidate: Candidate) -> onnx.ModelProto:
    return onnx.load(candidate.artifact.path)


@needs_target("qnn")
def test_hexagon_gets_integers_throughout_and_answers_in_its_emulator(run: Run) -> None:
    done = run(HEXAGON)
    made = first(done)
    assert made.id == "ort-hexagon-static-w8a16-channel-integer"
    assert made.placed is not None
    assert (made.placed.share, made.placed.evidence) == (1.0, "vendor-compiled")
    assert made.compiled is None  # the provider compiles it on the board, whatever its version
    assert done.model.verdict is not None
    evidence = done.model.verdict.candidates[0]
    assert evidence.emulated_cosine is not None
    assert evidence.emulated_cosine > 0.999
    assert evidence.latency_ms == {}
    assert done.model.bundle is not None
    manifest = open_verified(done.model.bundle).manifest
    assert [one.id for one in manifest.variants] == [made.id, "ort-cpu-static-w8a8-channel"]
    placement = manifest.variants[0].placement
    assert (placement.accelerator, placement.share.value) == ("hexagon", 1.0)
    assert placement.share.evidence == "vendor-compiled"
    assert "on hexagon, vendor-compiled by onnxruntime-qnn" in summary(done)


@needs_target("vela")
def test_the_file_for_ethos_u_is_the_compilers_and_is_not_run_here(run: Run) -> None:
    done = run(ETHOS)
    made = first(done)
    assert made.id == "litert-ethos-u65-static-w8a8-channel-integer"
    assert made.placed is not None
    assert made.placed.share == 1.0
    assert made.placed.estimated_ms is not None
    assert made.compiled is not None
    assert done.model.bundle is not None
    bundle = open_verified(done.model.bundle)
    variant = bundle.manifest.variants[0]
    assert bundle.read(variant.file) == made.compiled.path.read_bytes()
    assert b"ethos-u" in bundle.read(variant.file)
    # Its floor is of the file before; the report has no line for what nothing here can run.
    assert variant.tolerance.floor > 0.9
    assert [one.variant for one in self_tests(bundle)] == ["ort-cpu-static-w8a8-channel"]
    compiled, here = prove(bundle)
    assert (compiled.proved, compiled.why) == ("no", "not provable here: compiled for ethos-u65")
    assert (here.proved, here.why) == ("here", "")


@needs_target("rknn")
def test_the_file_for_rockchip_is_the_toolkits_and_its_simulator_answers_for_it(run: Run) -> None:
    done = run(ROCKCHIP)
    made = first(done)
    assert made.id == "rknn-rknpu-static-w8a8-channel"
    assert made.placed is not None
    assert (made.placed.share, made.placed.evidence) == (1.0, "vendor-compiled")
    assert list(made.placed.notes["types_on_the_npu"]) == ["INT8"]  # type: ignore[arg-type]
    assert done.model.verdict is not None
    evidence, quantized, floats = done.model.verdict.candidates
    # Not the float file's answers, and not our own quantizer's: the simulator's.
    assert 0.99 < evidence.golden_cosine < 1 - 1e-6
    assert evidence.emulated_cosine == evidence.golden_cosine
    assert evidence.cosine_mean not in (quantized.cosine_mean, floats.cosine_mean)
    assert (evidence.n, evidence.latency_ms) == (done.model.verdict.reference.n, {})
    assert done.model.bundle is not None
    bundle = open_verified(done.model.bundle)
    variant = bundle.manifest.variants[0]
    assert (variant.backend, variant.file) == ("rknn", f"{made.id}.rknn")
    assert bundle.read(variant.file)[:4] == b"RKNN"
    assert variant.placement.accelerator == "rknpu"
    assert variant.placement.share.evidence == "vendor-compiled"
    assert variant.tolerance.floor > 0.9
    assert [one.variant for one in self_tests(bundle)] == ["ort-cpu-static-w8a8-channel"]
    (asked,) = ask(str(done.model.bundle), [done.profile], Silent())
    assert "compiled already; its manifest says 100 % on rknpu" in asked.placed.why


def test_without_its_tool_the_board_gets_the_variants_for_its_cpu(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path / "none"))
    done = run(ROCKCHIP)
    assert done.model.bundle is not None
    variants = open_verified(done.model.bundle).manifest.variants
    assert [one.id for one in variants] == ["ort-cpu-static-w8a8-channel"]


def test_what_is_not_proved_or_left_out_ends_the_summary_and_may_be_a_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    engines = f"{HEXAGON}\n[[engine]]{CORAL}\n[[engine]]{ROCKCHIP}"
    done = run(engines)
    assert [line.strip() for line in summary(done).splitlines()[-4:-1]] == [
        f"left out: {EDGETPU}: edgetpu runs only what its vendor's compiler made of the file, and "
        "edgetpu has made nothing here; put edgetpu_compiler on PATH",
        "left out: rknn on rknpu: the vendor's tool that makes its file is missing; type "
        "`edge-convert setup-target rknn`",
        "not proved: where ort-hexagon-static-w8a16-channel-integer runs is unknown (type "
        "`edge-convert setup-target qnn`)",
    ]
    assert list(done.passes["package"]["left_out"]) == [EDGETPU]  # type: ignore[arg-type]
    assert "What is left out or not proved" in html_page([done])
    for allow_fallback in (False, True):
        with pytest.raises(InputError, match=r"ort-hexagon-.* is unknown, and proof is required: "):
            run(engines, allow_fallback=allow_fallback, require_proof=True)


def test_a_scheme_that_nothing_builds_for_rockchip_is_refused_beforehand(tmp_path: Path) -> None:
    engine = ROCKCHIP.replace('"float"', '"dynamic_w8_channel"')
    (tmp_path / "board.toml").write_text(BOARD.replace("{engine}", engine.strip()))
    profile = load_profile(str(tmp_path / "board.toml"))
    with pytest.raises(InputError, match="'dynamic_w8_channel' is not known for engine rknn; known "
                       "are float, static_w8a8_channel"):  # fmt: skip
        check_profile(profile)


@needs_target("qnn")
def test_a_model_below_the_floor_is_refused_with_what_to_change(run: Run) -> None:
    with pytest.raises(InputError) as caught:
        run(HEXAGON, ODD)
    said = str(caught.value)
    assert "profile board: ort-hexagon-static-w8a16-channel-integer" in said
    assert "the profile's floor is 100 %" in said
    assert "Celu" in said
    assert "--allow-fallback" in said


@needs_target("qnn")
def test_fallback_is_taken_where_a_person_allows_it(run: Run) -> None:
    done = run(HEXAGON, ODD, allow_fallback=True)
    placed = first(done).placed
    assert placed is not None
    assert placed.share is not None
    assert 0 < placed.share < 1
    assert done.model.bundle is not None
    placement = open_verified(done.model.bundle).manifest.variants[0].placement
    assert placement.share.value == placed.share
    assert [node for node, _ in placement.off] == [node.name for node in placed.off]


def test_tensorrt_gets_signed_codes_without_zero_points_and_its_opset(run: Run) -> None:
    made = first(run(TENSORRT))
    assert made.id == "ort-tensorrt-static-w8a8-channel-symmetric"
    proto = graph(made)
    standard = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    assert standard == 15
    assert not any(dim.dim_param for one in proto.graph.input
                   for dim in one.type.tensor_type.shape.dim)  # fmt: skip
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    quantizers = [one for one in proto.graph.node if one.op_type == "QuantizeLinear"]
    assert quantizers
    for node in quantizers:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    assert made.placed is not None
    assert made.placed.evidence == "rule-checked"
    assert made.placed.share == 1.0


def test_what_nobody_knows_is_told_and_fails_nothing(run: Run) -> None:
    done = run(UNKNOWN)
    made = first(done)
    assert made.id == "ort-hailo8l-float32"
    assert made.placed is not None
    assert (made.placed.evidence, made.placed.share) == ("unknown", None)
    assert done.model.bundle is not None
    variants = open_verified(done.model.bundle).manifest.variants
    assert [one.id for one in variants] == [made.id, "ort-cpu-static-w8a8-channel"]
    assert variants[0].placement.share.evidence == "unknown"


def test_an_accelerator_that_no_tool_knows_is_no_cpu_and_is_not_loaded_in_its_place(
    run: Run,
) -> None:
    done = run(NAMELESS)
    assert done.model.bundle is not None
    placement = open_verified(done.model.bundle).manifest.variants[0].placement
    assert (placement.accelerator, placement.share.value) == ("cuda", None)
    assert placement.share.evidence == "unknown"
    with load(done.model.bundle) as model:
        assert model.variant.placement.accelerator == "cpu"
    board = done.recipe.path.with_name("board.toml")
    with load(done.model.bundle, profile=str(board)) as model:  # which names it; this PC has none
        assert model.variant.placement.accelerator == "cpu"
        assert model.accelerator.degraded == ""


def test_what_cannot_be_made_for_an_accelerator_fails_or_is_left_out_where_allowed(
    run: Run,
) -> None:
    impossible = TENSORRT.replace("max_opset = 15", "max_opset = 13")
    with pytest.raises(InputError, match=r"onnxruntime on tensorrt: opset 13: .*--allow-fallback"):
        run(impossible)
    done = run(impossible, allow_fallback=True)
    assert {one.accelerator for one in done.model.candidates} == {"cpu"}
    assert "opset 13" in str(done.passes["quantize"]["onnxruntime on tensorrt"])


def test_a_file_of_fixed_shapes_answers_row_by_row(run: Run) -> None:
    done = run(TENSORRT)
    assert done.model.bundle is not None
    bundle = open_verified(done.model.bundle)
    variants = {one.id: one for one in bundle.manifest.variants}
    pipelines = [Pipeline.open(bundle, one) for one in variants.values()]
    feeds = {"x": np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)}
    fixed, free = (one.run(feeds) for one in pipelines)
    for pipeline in pipelines:
        pipeline.close()
    for name, answer in fixed.items():
        assert answer.shape == (3, 3)
        np.testing.assert_allclose(answer, free[name], atol=0.02)
