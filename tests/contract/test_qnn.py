"""A plug-in of ONNX Runtime, a real one: Qualcomm's, whose Hexagon is emulated on this machine.

The device's code runs under the Python of an environment that has it: `$EDGE_QNN_PYTHON`, or the
one that `edge-convert setup-target qnn` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from safetensors.numpy import save

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.profile import load_profile
from tests.fakes import other_python, stored
from tests.fakes.integer_nets import ANSWER, IMAGE, OPERATORS, IntegerNet, integer_net
from tests.fakes.tiny import tensor_json, tiny_folder, variant_json

PROFILE = "qcs6490"
PROVIDER = "QNNExecutionProvider"

IN_TURN = """
import json, sys
from pathlib import Path
import onnxruntime
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.inference.backend import EngineOptions
from edge_runtime.inference.ort_providers import start
from tests.fakes.bundles import manifest_json
model = Path(sys.argv[1]).read_bytes()
variant = Manifest.from_bytes(json.dumps(manifest_json()).encode()).variants[0]
options = EngineOptions(1, {"QNNExecutionProvider": {"backend_path": "libQnnHtp.so",
    "htp_arch": "68", "offload_graph_io_quantization": "0"}}, {})
def told(*wanted):
    session, accelerator = start(onnxruntime, model, onnxruntime.SessionOptions, options, variant,
        wanted, whole=True)
    seen = "QNNExecutionProvider" in [one.ep_name for one in onnxruntime.get_ep_devices()]
    return [accelerator.actual.rpartition(": ")[2], accelerator.degraded, seen]
cpu, qnn = "CPUExecutionProvider", "QNNExecutionProvider"
print(json.dumps([told(cpu), told(qnn, cpu), told(qnn), told("NonsuchExecutionProvider", qnn)]))
"""
DOCTOR = """
import json, sys
from pathlib import Path
from edge_runtime.agent.doctor import equipment
from edge_runtime.agent.doctor.engines import Engines
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.profile import load_profile
scene = Scene(root=Path(sys.argv[2]), profile=load_profile(sys.argv[1]))
engines = Engines(scene.profile)
found = [*equipment.packages(scene, engines), *equipment.profile_engines(scene, engines)]
print(json.dumps([one.as_json() for one in found]))
"""


@pytest.fixture(scope="module")
def python() -> str:
    found = other_python.interpreter("qnn", ", onnxruntime_qnn")
    if found is None:
        pytest.skip("qnn is not set up (edge-convert setup-target qnn)")
    return found


def variant(accelerator: str, **changed: Any) -> dict[str, Any]:
    value = variant_json(f"ort-{accelerator}", "model.onnx")
    value["providers"] = ["CPUExecutionProvider" if accelerator == "cpu" else PROVIDER]
    value["placement"] = {
        "accelerator": accelerator,
        "share": {"value": None, "evidence": "unknown", "where": ""},
        "off": [],
    }
    value["needs"] = {"ram_bytes": 0, "cpu_features": [], "driver": ""}
    # Without VNNI the CPU's sums of two 8-bit products saturate: .977 and .984 were seen.
    value["tolerance"] = {"metric": "cosine", "floor": 0.95 if accelerator == "cpu" else 0.99}
    return value | changed


def board(folder: Path, replace: Mapping[str, str] = {}) -> Path:
    """The shipped profile, with the chip's name among the options: here it is emulated."""
    text = (other_python.ROOT / "device_profiles" / f"{PROFILE}.toml").read_text()
    target = load_profile(PROFILE).engines[0].target
    chip = "".join(f'{key} = "{value}", ' for key, value in target.items())
    for before, after in {
        'arch = "aarch64"': 'arch = "x86_64"',
        "QNNExecutionProvider = { ": f"QNNExecutionProvider = {{ {chip}",
        "latency_ms = 100.0": "latency_ms = 5000.0",  # A test machine may be busy.
        **replace,
    }.items():
        assert before in text
        text = text.replace(before, after)
    path = folder / "board.toml"
    path.write_text(text)
    return path


def load(
    python: str, folder: Path, net: IntegerNet, replace: Mapping[str, str] = {}
) -> list[dict[str, Any]]:
    """The reports of a worker under `python` that goes through variants for Hexagon and the CPU."""
    golden = save({"0.x": net.image, "0.y": net.answer})
    bundle = tiny_folder(
        folder / "bundle",
        [variant("hexagon"), variant("cpu")],
        {"model.onnx": net.model, "golden.safetensors": golden},
        profile=PROFILE,
        task="tensors",
        inputs=[tensor_json("x", "float32", IMAGE)],
        outputs=[tensor_json("y", "float32", ANSWER)],
        preprocess=[],
        postprocess=[],
        golden={"file": "golden.safetensors", "cases": 1, "raw": []},
    )
    digest = stored.store(FolderReader(bundle), folder / "state")
    order = stored.order(folder / "state", digest, str(board(folder, replace)))
    found: list[dict[str, Any]] = other_python.load(python, order, cwd=folder)["reports"]
    return found


@pytest.mark.parametrize("activations", ["uint8", "uint16"])
def test_integers_run_on_hexagon_by_its_own_account(
    python: str, tmp_path: Path, activations: Literal["uint8", "uint16"]
) -> None:
    (report,) = load(python, tmp_path, integer_net(activations))
    assert report["passed"], report["reason"]
    assert report["share"] == 1.0
    assert report["share_floor"] == 0.95
    assert report["off"] == []
    assert report["value"] > (0.999 if activations == "uint16" else 0.99)
    told = report["accelerator"]
    assert told["actual"].endswith(f": {PROVIDER}")
    assert told["degraded"] == ""


def test_an_operator_that_stays_in_floats_counts_against_its_share(
    python: str, tmp_path: Path
) -> None:
    hexagon, cpu = load(python, tmp_path, integer_net("uint8", "Celu"))
    assert not hexagon["passed"]
    assert hexagon["fault"] == "placement"
    assert hexagon["share"] == pytest.approx(1 - 1 / OPERATORS)
    assert hexagon["off"] == ["Celu x1"]
    assert f"{OPERATORS - 1} of {OPERATORS} operators ran on the accelerator" in hexagon["reason"]
    assert hexagon["accelerator"]["actual"].endswith(f": {PROVIDER} and CPUExecutionProvider")
    assert cpu["passed"], cpu["reason"]
    assert cpu["accelerator"]["actual"].endswith(": CPUExecutionProvider")


def test_a_library_that_the_profile_names_wrongly_leaves_nothing_on_hexagon(
    python: str, tmp_path: Path
) -> None:
    """The engine itself says nothing then: it makes a session, and the CPU runs all of it."""
    wrong = {'backend_path = "libQnnHtp.so"': 'backend_path = "libNonsuch.so"'}
    hexagon, cpu = load(python, tmp_path, integer_net("uint8"), wrong)
    assert hexagon["fault"] == "placement"
    assert hexagon["reason"].startswith(f"placement: 0 of {OPERATORS} operators ran")
    assert cpu["passed"], cpu["reason"]


def test_it_is_registered_once_and_only_for_a_variant_that_asks_for_it(
    python: str, tmp_path: Path
) -> None:
    net = integer_net("uint8")
    model = tmp_path / "model.onnx"
    model.write_bytes(net.model)
    cpu, hexagon, again, listed = other_python.said(python, IN_TURN, str(model))
    assert cpu == ["CPUExecutionProvider", "", False]
    assert hexagon == again == [PROVIDER, "", True]
    # Named after another provider it is not asked for: the engine would leave it out in silence.
    assert listed[0] == "CPUExecutionProvider"


def test_the_doctor_registers_it_too(python: str, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/fastrpc-cdsp").touch()
    found = {one["subject"]: one for one in other_python.said(
        python, DOCTOR, str(board(tmp_path)), str(tmp_path)
    )}  # fmt: skip
    package, engine = found["onnxruntime-qnn"], found["onnxruntime on hexagon"]
    version = package["values"]["versions"]["onnxruntime-qnn"]
    assert package["text"] == f"onnxruntime-qnn {version}, a plug-in with {PROVIDER}"
    assert engine["level"] == "ok"
    assert engine["text"] == f"number 1, can start, with the plug-in onnxruntime-qnn {version}"
    assert engine["values"]["plugin"] == f"onnxruntime-qnn {version}"
