"""Build a TensorRT engine where there is a GPU, keep it, and measure it: for the board itself.

    python -m converters.placement.tensorrt_build MODEL [--precision fp16|int8|fp32] [--cache DIR]

An engine holds for one device, one driver, one TensorRT and one file, so it lies in the cache under
a digest of all of them; with any other it is built anew. Latency is measured against the CUDA and
CPU providers in the same process, and answers are held against the CPU's. Nothing here needs more
than ONNX Runtime with TensorRT's provider, numpy, and NVIDIA's driver.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DeviceError, EdgeError, InputError, exit_code
from edge_runtime.text import json_line, plain

TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
PRECISIONS = ("fp16", "int8", "fp32")
JETSON = Path("/proc/device-tree/model")
L4T = Path("/etc/nv_tegra_release")
QUERY_S = 20.0
WARM_UP, RUNS = 10, 100
TOKENS = 128
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One provider: latency of a run, how near its answers are to the CPU's, how many nodes it got.

    `nodes` is None where the engine is too old to tell (before 1.24).
    """

    provider: str
    p50_ms: float
    p95_ms: float
    cosine: float
    max_difference: float
    nodes: int | None


@dataclass(frozen=True, slots=True)
class Built:
    """What came of it. `built` is false where the engine was in the cache."""

    device: str
    driver: str
    tensorrt: str
    model_sha256: str
    precision: str
    engine: str
    built: bool
    load_s: float
    measured: tuple[Measured, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Build, measure, print JSON. Returns the exit code."""
    options = _arguments().parse_args(argv)
    try:
        built = build(
            options.model,
            precision=options.precision,
            cache=options.cache,
            runs=options.runs,
            feeds=_feeds_of(options.feeds),
        )
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return exit_code(error)
    print(json_line(asdict(built)))  # noqa: T201
    return 0


def build(
    model: Path,
    *,
    precision: str,
    cache: Path,
    runs: int = RUNS,
    feeds: Arrays | None = None,
) -> Built:
    """Build the engine of `model`, or take it from `cache`, and measure it.

    Raises:
        InputError: no such file, or the engine refuses it.
        DeviceError: no TensorRT or no GPU here.
    """
    if not model.is_file():
        raise InputError(f"model {model}: no such file")
    engine = _engine()
    device, driver = describe_device()
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    release = f"onnxruntime {engine.__version__}"
    folder = cache / cache_key(device, driver, release, sha256, precision)
    fresh = not any(folder.glob("*.engine"))
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with_tensorrt = _session(
        engine, model, [(TENSORRT, provider_options(folder, precision)), CUDA, CPU]
    )
    used = feeds or invented(with_tensorrt)
    with_tensorrt.run(None, used)  # builds what is not in the cache
    load_s = time.perf_counter() - begin
    kept = sorted(str(one) for one in folder.glob("*.engine"))
    if not kept:
        raise InputError(f"model {model.name}: TensorRT took no part of it, see its log above")
    reference = _session(engine, model, [CPU])
    truth = reference.run(None, used)
    sessions = [(TENSORRT, with_tensorrt), (CPU, reference)]
    if CUDA in engine.get_available_providers():
        sessions.insert(1, (CUDA, _session(engine, model, [CUDA, CPU])))
    measured = tuple(measure(name, one, used, truth, runs) for name, one in sessions)
    return Built(
        device, driver, release, sha256, precision, kept[0], fresh, round(load_s, 2), measured
    )


def cache_key(device: str, driver: str, release: str, model_sha256: str, precision: str) -> str:
    """Name of the folder for an engine: another device, driver, release or file is another one."""
    parts = json.dumps([device, driver, release, model_sha256, precision])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def provider_options(folder: Path, precision: str) -> dict[str, str]:
    """Of TensorRT's provider: INT8 takes the scales of the file's own quantizers.

    With INT8 goes FP16, for what is not quantized.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}")
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": "0" if precision == "fp32" else "1",
        "trt_int8_enable": "1" if precision == "int8" else "0",
    }


def describe_device() -> tuple[str, str]:
    """Device and driver in words.

    Raises:
        DeviceError: there is none, or its driver does not answer.
    """
    if JETSON.is_file() and L4T.is_file():
        board = JETSON.read_text(errors="replace").rstrip("\0")
        return plain(board), plain(L4T.read_text(errors="replace").splitlines()[0])
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_S, check=True)
        name, driver = told.stdout.splitlines()[0].rsplit(",", 1)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        raise DeviceError(
            "no NVIDIA GPU answers on this machine: neither nvidia-smi nor a Jetson's release"
        ) from None
    return plain(name.strip()), plain(driver.strip())


def measure(
    name: str, session: Any, feeds: Arrays, truth: Sequence[npt.NDArray[Any]], runs: int
) -> Measured:
    """Time `runs` runs after a warm-up; compare the answers with `truth`."""
    for _ in range(min(WARM_UP, runs)):
        answers = session.run(None, feeds)
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        answers = session.run(None, feeds)
        times.append((time.perf_counter() - begin) * 1000)
    pairs = [
        (np.asarray(a, np.float64).reshape(-1), np.asarray(b, np.float64).reshape(-1))
        for a, b in zip(answers, truth, strict=True)
    ]
    return Measured(
        provider=name,
        p50_ms=round(float(np.percentile(times, 50)), 4),
        p95_ms=round(float(np.percentile(times, 95)), 4),
        cosine=round(min(_cosine(a, b) for a, b in pairs), 6),
        max_difference=float(max(np.abs(a - b).max(initial=0.0) for a, b in pairs)),
        nodes=_nodes_of(session, name),
    )


def invented(session: Any) -> Arrays:
    """Feeds of the right shapes: ones for integers (a token, a mask), noise for floats."""
    draw = np.random.default_rng(0)
    feeds: dict[str, npt.NDArray[Any]] = {}
    for one in session.get_inputs():
        free = iter((1, *[TOKENS] * len(one.shape)))
        shape = [size if isinstance(size, int) else next(free) for size in one.shape]
        kind = one.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
        noise = draw.normal(size=shape).astype(dtype)
        feeds[one.name] = noise if dtype.kind == "f" else np.ones(shape, dtype)
    return feeds


def _engine() -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # newer engines report from the import on
    try:
        import onnxruntime
    except ImportError:
        raise DeviceError("onnxruntime is not installed in this environment") from None
    there = onnxruntime.get_available_providers()
    if TENSORRT not in there:
        raise DeviceError(
            f"onnxruntime {onnxruntime.__version__} here has no {TENSORRT}, only "
            f"{', '.join(there)}: install onnxruntime-gpu with TensorRT (on a Jetson from NVIDIA's "
            "index)"
        )
    return onnxruntime


def _session(engine: Any, model: Path, providers: list[Any]) -> Any:
    options = engine.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = engine.InferenceSession(str(model), options, providers=providers)
    except Exception as reason:  # the engine's errors have no base of their own
        raise InputError(f"model {model.name}: refused ({plain(str(reason))})") from None
    wanted = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
    if wanted not in session.get_providers():
        raise DeviceError(f"{wanted} is installed but does not start here, see its log above")
    return session


def _nodes_of(session: Any, provider: str) -> int | None:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return sum(len(part.get_nodes()) for part in parts if part.ep_name == provider)


def _cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale else float(np.array_equal(a, b))


def _feeds_of(path: Path | None) -> Arrays | None:
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as reason:
        raise InputError(f"feeds {path}: {reason}") from None


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tensorrt_build", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/edge-runtime/tensorrt")
    parser.add_argument("--feeds", type=Path, help=".npz with an array for each input")
    parser.add_argument("--runs", type=int, default=RUNS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
