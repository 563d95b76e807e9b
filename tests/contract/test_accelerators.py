"""Accelerator truth: an engine that runs elsewhere than asked says so, and is refused for it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Json
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import first_passing, self_test
from edge_runtime.profile import Engine
from tests.fakes.tiny import tiny_bundle, variant_json

CPU = "CPUExecutionProvider"
ELSEWHERE = "AzureExecutionProvider"
"""Part of every plain ONNX Runtime on Linux, and runs none of our nodes: a silent fallback."""


@pytest.fixture
def ort() -> Any:
    return pytest.importorskip("onnxruntime", reason='pip install "edge-runtime[onnxruntime]"')


def opened(
    folder: Path, *providers: str, share: float | None = None, watched: bool = False
) -> tuple[Any, Pipeline]:
    placement = {
        "accelerator": providers[0],
        "share": {"value": share, "evidence": "unknown" if share is None else "estimated"},
        "off": [],
    }
    changed = {"providers": list(providers), "placement": placement}
    bundle = tiny_bundle(folder, [variant_json("v", "model.onnx", **changed)])
    return bundle, Pipeline.open(bundle, bundle.manifest.variants[0], watched=watched)


def test_the_cpu_that_was_asked_for_is_not_degraded(ort: Any, tmp_path: Path) -> None:
    bundle, pipeline = opened(tmp_path, CPU)
    assert pipeline.accelerator.requested == f"onnxruntime: {CPU}"
    assert pipeline.accelerator.actual == f"onnxruntime {ort.__version__}: {CPU}"
    assert pipeline.accelerator.degraded == ""
    assert self_test(bundle, pipeline).passed


@pytest.mark.parametrize("name", ["NonsuchExecutionProvider", "x" * 256])
def test_a_provider_that_this_build_has_not_is_told(ort: Any, tmp_path: Path, name: str) -> None:
    bundle, pipeline = opened(tmp_path, name, CPU)
    assert pipeline.accelerator.actual.endswith(CPU)
    assert f"{name} does not run here (not among" in pipeline.accelerator.degraded
    assert len(pipeline.accelerator.requested) <= 256
    report = self_test(bundle, pipeline)
    assert not report.passed
    assert report.reason == pipeline.accelerator.degraded


def test_a_provider_that_leaves_nodes_to_the_cpu_in_silence_is_told(
    ort: Any, tmp_path: Path
) -> None:
    needs_elsewhere(ort)
    bundle, pipeline = opened(tmp_path, ELSEWHERE, CPU)
    assert pipeline.accelerator.actual.endswith(f"{ELSEWHERE} and {CPU}")
    assert f"not every node runs on {ELSEWHERE}" in pipeline.accelerator.degraded
    assert not self_test(bundle, pipeline).passed


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_a_provider_that_ran_nothing_is_seen_whatever_the_manifest_promises(
    ort: Any, tmp_path: Path, share: float
) -> None:
    """The session has the provider, its list says so, and not one node of the profile is its."""
    needs_elsewhere(ort)
    bundle, pipeline = opened(tmp_path, ELSEWHERE, CPU, share=share, watched=True)
    assert pipeline.accelerator.degraded == ""
    report = self_test(bundle, pipeline)
    assert not report.passed
    assert report.fault == "placement"
    assert report.share == 0.0
    assert report.reason.startswith("placement: 0 of ")
    assert "MatMul x" in report.reason


def test_an_account_is_kept_in_no_file_that_stays(
    ort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_elsewhere(ort)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    _, pipeline = opened(tmp_path / "a", ELSEWHERE, CPU, share=0.5, watched=True)
    assert list(scratch.iterdir())
    pipeline.close()
    _, pipeline = opened(tmp_path / "b", ELSEWHERE, CPU, share=0.5, watched=True)
    pipeline.run({name: np.ones((1, 16), np.int64) for name in ("input_ids", "attention_mask")})
    account = pipeline.account()
    assert account is not None
    assert account.share == 0.0
    assert account.nodes > 20
    assert pipeline.account() is None
    assert list(scratch.iterdir()) == []


def test_the_cpu_needs_no_account(ort: Any, tmp_path: Path) -> None:
    bundle, pipeline = opened(tmp_path, CPU, watched=True)
    report = self_test(bundle, pipeline)
    assert report.passed
    assert report.share is None


def needs_elsewhere(ort: Any) -> None:
    if ELSEWHERE not in ort.get_available_providers():
        pytest.skip(f"this build of ONNX Runtime has no {ELSEWHERE}")


def test_the_variant_for_the_cpu_takes_over(ort: Any, tmp_path: Path) -> None:
    variants = [
        variant_json("npu", "model.onnx", providers=["NonsuchExecutionProvider", CPU]),
        variant_json("cpu", "model.onnx"),
    ]
    bundle = tiny_bundle(tmp_path, variants)
    pipeline, reports = first_passing(bundle, bundle.manifest.variants, lambda _: None)
    assert pipeline is not None
    assert pipeline.variant.id == "cpu"
    assert [report.passed for report in reports] == [False, True]


# The engine's own `Delegate.__del__` trips over a library that never loaded.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_delegate_that_does_not_start_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason='pip install "edge-runtime[litert]"')
    bundle = tiny_bundle(tmp_path, [variant_json("v", "model-float.tflite")])
    engine = Engine("litert", "", (), 1, {"delegate": "libnonsuch.so"})
    pipeline = Pipeline.open(bundle, bundle.manifest.variants[0], engine)
    assert pipeline.accelerator.requested == "litert: libnonsuch.so"
    assert pipeline.accelerator.actual.endswith(": cpu")
    assert "delegate libnonsuch.so did not start" in pipeline.accelerator.degraded
    report = self_test(bundle, pipeline)
    assert not report.passed
    assert report.reason == pipeline.accelerator.degraded


def test_weights_outside_the_file_are_refused(ort: Any, tmp_path: Path) -> None:
    model = b"\x3a\x12\x2a\x10\x42\x07weights\x70\x01\x6a\x03\x0a\x01x"
    bundle = tiny_bundle(tmp_path, [variant_json("v", "model.onnx")], {"model.onnx": model})
    with pytest.raises(IncompatibleError, match="keeps 'weights' outside the file"):
        Pipeline.open(bundle, bundle.manifest.variants[0])


def test_session_options_of_the_profile_are_taken(ort: Any, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, [variant_json("v", "model.onnx")])
    options: dict[str, Json] = {
        "session.intra_op.allow_spinning": "0",
        "graph_optimization_level": "basic",
        "enable_cpu_mem_arena": True,
        CPU: {},
    }
    pipeline = Pipeline.open(
        bundle, bundle.manifest.variants[0], Engine("onnxruntime", "", (), 2, options)
    )
    session: Any = pipeline._session
    taken = session._inner.get_session_options()
    assert taken.intra_op_num_threads == 2
    assert taken.inter_op_num_threads == 1
    assert taken.enable_cpu_mem_arena
    assert taken.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert taken.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert self_test(bundle, pipeline).passed


def test_the_vendors_telemetry_is_off_before_the_engine_is_imported(ort: Any) -> None:
    code = (
        "import os, sys\n"
        "from edge_runtime.inference.backend import load_backend\n"
        "backend = load_backend('onnxruntime')\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "assert backend.available() is None\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
