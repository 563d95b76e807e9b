"""Where ONNX Runtime's fast 8-bit kernels would saturate, the exact ones are asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.inference.ort_products import open_exactly, overflows

ROOT = Path(__file__).parents[2]
WITHOUT_AVX512 = "qemu-x86_64-static"


def cpuinfo(folder: Path, *flags: str) -> Path:
    path = folder / f"cpuinfo-{len(list(folder.iterdir()))}"
    path.write_text("".join(f"processor\t: {k}\nflags\t\t: {one}\n" for k, one in enumerate(flags)))
    return path


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ("sse4_2 avx avx2",), True),
        ("x86_64", ("avx2 avx_vnni",), False),
        ("x86_64", ("avx2 avx512_vnni", "avx2 avx512_vnni"), False),
        ("x86_64", ("avx2 avx_vnni", "avx2"), True),
        ("x86_64", ("",), True),
        ("aarch64", ("asimd asimddp",), False),
    ],
)
def test_products_overflow_on_x86_without_dot_products(
    tmp_path: Path, machine: str, flags: tuple[str, ...], expected: bool
) -> None:
    assert overflows(machine, cpuinfo(tmp_path, *flags)) is expected


def test_a_processor_that_tells_nothing_counts_as_overflowing(tmp_path: Path) -> None:
    assert overflows("x86_64", tmp_path / "missing")


@pytest.mark.parametrize(("flags", "asked"), [("avx2", True), ("avx2 avx_vnni", False)])
def test_exact_products_are_asked_for_only_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, asked: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert open_exactly(b"", bool, cpuinfo(tmp_path, flags)) is asked


def test_an_engine_that_does_not_start_with_exact_products_starts_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    def engine(exact: bool) -> str:
        if exact:
            raise RuntimeError("attempt to replace the existing tensor")
        return "fast"

    assert open_exactly(b"", engine, cpuinfo(tmp_path, "avx2")) == "fast"


ASKED = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from edge_runtime.inference.ort_products import EXACT, open_exactly

zero_points = sys.argv[2:]
graph = helper.make_graph(
    [helper.make_node("MatMulInteger", ["x", "w", *zero_points], ["y"])],
    "products",
    [helper.make_tensor_value_info("x", TensorProto.UINT8, [4, 64])],
    [helper.make_tensor_value_info("y", TensorProto.INT32, [4, 8])],
    [
        numpy_helper.from_array(np.full((64, 8), 127, np.int8), "w"),
        numpy_helper.from_array(np.uint8(0), "x_zero"),
        numpy_helper.from_array(np.int8(0), "w_zero"),
    ],
)
made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
model = made.SerializeToString()
x = np.full((4, 64), 255, np.uint8)

def opened(exact):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry(EXACT, "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

for session in (opened(False), open_exactly(model, opened, Path(sys.argv[1]))):
    print(int(session.run(None, {"x": x})[0][0, 0]))
"""


@pytest.mark.parametrize("zero_points", [("x_zero", "w_zero"), ("x_zero",), ()])
def test_sums_are_exact_on_an_emulated_processor_without_dot_products(
    tmp_path: Path, zero_points: tuple[str, ...]
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    if shutil.which(WITHOUT_AVX512) is None:
        pytest.skip(f"{WITHOUT_AVX512} is not installed")
    command = [WITHOUT_AVX512, "-cpu", "max", sys.executable, "-c", ASKED]
    command += [str(cpuinfo(tmp_path, "avx2")), *zero_points]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    fast, asked = map(int, done.stdout.split())
    assert fast < 64 * 127 * 255, "the emulated processor has the fault that this is about"
    # Where a zero point is left out the engine would end the process: it is not asked.
    assert asked == (64 * 127 * 255 if len(zero_points) == 2 else fast)
