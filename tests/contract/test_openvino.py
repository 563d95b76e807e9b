"""OpenVINO's execution provider, a real one besides the CPU's: the device's code under its Python.

It has an environment of its own: it fights the plain ONNX Runtime. `$EDGE_OPENVINO_PYTHON` names
its interpreter, or it is where `edge-convert setup-target openvino` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from edge_runtime.bundle.archive import FolderReader
from tests.fakes import other_python, stored
from tests.fakes.onnx_files import onnx_file
from tests.fakes.tiny import TEXTS, tensor_json, tiny_folder, variant_json

PROFILE = "openvino-x86_64"
PARTLY = (
    ("Relu", ["x"], "a"),
    ("Abs", ["a"], "b"),
    ("Hardmax", ["b"], "c"),
    ("Abs", ["c"], "y"),
)
"""OpenVINO has no Hardmax; the CPU has, and takes it over without a word."""
OLDER = """
import json, sys
import numpy, onnxruntime
from edge_runtime.inference import ort_account
ort_account._assigned = lambda session: []
model = open(sys.argv[1], "rb").read()
watch, settings = ort_account.Watch(model), onnxruntime.SessionOptions()
watch.prepare(settings)
name = "OpenVINOExecutionProvider"
session = onnxruntime.InferenceSession(
    model, settings, providers=[name, "CPUExecutionProvider"],
    provider_options=[{"device_type": "CPU"}, {}],
)
session.run(None, {"x": numpy.ones((1, 4), numpy.float32)})
account = watch.account(session, name)
print(json.dumps([account.nodes, account.off, account.told]))
"""


@pytest.fixture(scope="module")
def python() -> str:
    found = other_python.interpreter("openvino")
    if found is None:
        pytest.skip("openvino is not set up (edge-convert setup-target openvino)")
    return found


def variant(accelerator: str, share: float | None = None, **changed: Any) -> dict[str, Any]:
    """A variant for an engine of the profile: `openvino-cpu`, `openvino-npu`, `cpu`."""
    evidence = "unknown" if share is None else "measured"
    provider = "CPU" if accelerator == "cpu" else "OpenVINO"
    value = variant_json(f"ort-{accelerator}", "model.onnx")
    value["providers"] = [f"{provider}ExecutionProvider"]
    value["placement"] = {
        "accelerator": accelerator,
        "share": {"value": share, "evidence": evidence, "where": ""},
        "off": [],
    }
    return value | changed


def load(
    python: str,
    folder: Path,
    *variants: Mapping[str, Any],
    coverage: float = 0.95,
    replace: Mapping[str, bytes] = {},
    **changed: Any,
) -> dict[str, Any]:
    """What a worker under `python` loads of those variants."""
    bundle = tiny_folder(folder / "bundle", variants, replace, profile=PROFILE, **changed)
    digest = stored.store(FolderReader(bundle), folder / "state")
    profile = folder / "board.toml"
    shipped = (other_python.ROOT / "device_profiles" / f"{PROFILE}.toml").read_text()
    for before, after in (
        ("coverage = 0.95", f"coverage = {coverage}"),
        ("latency_ms = 100.0", "latency_ms = 5000.0"),  # A test machine may be busy.
    ):
        assert before in shipped
        shipped = shipped.replace(before, after)
    profile.write_text(shipped)
    order = stored.order(folder / "state", digest, str(profile))
    found: dict[str, Any] = other_python.load(python, order, TEXTS, cwd=folder)
    return found


def test_openvino_is_proved_by_what_it_ran_and_answers_as_the_cpu_does(
    python: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    found = load(python, tmp_path, variant("openvino-cpu", 1.0), variant("cpu"))
    report = found["reports"][0]
    assert report["passed"], report["reason"]
    assert found["accelerated"]
    assert report["share"] == 1.0
    assert report["share_floor"] == 0.95
    assert report["off"] == []
    assert report["value"] > 0.9999
    assert report["accelerator"]["actual"].endswith(": OpenVINOExecutionProvider")
    assert report["accelerator"]["degraded"] == ""
    # What it built of the file lies where the next start looks for it.
    (built,) = (tmp_path / "state" / "engines").iterdir()
    assert [one.suffix for one in built.rglob("*") if one.is_file()].count(".blob") == 1
    plain = load(python, tmp_path / "other", variant("cpu"))
    assert plain["reports"][0]["share"] is None
    assert found["answers"] == plain["answers"]


def test_a_device_that_is_not_there_is_passed_over(python: str, tmp_path: Path) -> None:
    found = load(python, tmp_path, variant("openvino-npu", 1.0), variant("openvino-cpu", 1.0))
    npu, cpu = found["reports"]
    assert not npu["passed"]
    assert npu["fault"] == "placement"
    assert "OpenVINOExecutionProvider does not run here" in npu["reason"]
    assert npu["accelerator"]["actual"].endswith(": CPUExecutionProvider")
    assert cpu["passed"], cpu["reason"]
    assert cpu["share"] == 1.0


@pytest.mark.parametrize(("share", "served"), [(0.7, "ort-openvino-cpu"), (1.0, "ort-cpu")])
def test_operators_that_it_leaves_to_the_cpu_count_against_its_share(
    python: str, tmp_path: Path, share: float, served: str
) -> None:
    model = onnx_file(("x", (1, 4)), ("y", (1, 4)), PARTLY, {})
    x = np.array([[1.0, -2.0, 3.0, 0.5]], np.float32)
    y = np.array([[0.0, 0.0, 1.0, 0.0]], np.float32)
    found = load(
        python,
        tmp_path,
        variant("openvino-cpu", share),
        variant("cpu"),
        coverage=0.5,
        replace={"model.onnx": model, "golden.safetensors": save({"0.x": x, "0.y": y})},
        task="tensors",
        inputs=[tensor_json("x", "float32", [1, 4])],
        outputs=[tensor_json("y", "float32", [1, 4])],
        preprocess=[],
        postprocess=[],
        golden={"file": "golden.safetensors", "cases": 1, "raw": []},
    )
    assert [report["variant"] for report in found["reports"] if report["passed"]] == [served]
    report = found["reports"][0]
    assert report["share"] == 0.75, report["reason"]
    assert report["off"] == ["Hardmax x1"]
    if not report["passed"]:
        assert "3 of 4 operators ran on the accelerator (75%), at least 95%" in report["reason"]


def test_an_engine_that_does_not_tell_who_was_given_what_is_asked_what_the_cpu_ran(
    python: str, tmp_path: Path
) -> None:
    """As on boards whose ONNX Runtime stops at 1.23."""
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_file(("x", (1, 4)), ("y", (1, 4)), PARTLY, {}))
    found = other_python.said(python, OLDER, str(model))
    assert found == [4, {"Hardmax": 1}, "profile"]
