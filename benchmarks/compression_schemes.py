"""Every quantization scheme of every engine on one classifier, side by side in one run.

    python -m benchmarks.compression_schemes [--reference RECIPE|FOLDER] [--only dynamic]

A recipe stands for what it fine-tunes; a folder holds `encoder/`, `head.safetensors` and
`tokenizer.json`. Each file answers the same test
rows; agreement and cosine are with the float model's logits. Latencies are the best of interleaved
runs at 128 tokens, one thread, as a multiple of float ONNX Runtime's: a ratio, because a shared
machine's milliseconds are nobody's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.trained import CLASSIFIER, EXAMPLE, WORK, reference_folder
from converters.data import read_rows
from converters.encoding import Encoded, encode, load_tokenizer
from converters.ort import open_session
from converters.progress import Terminal
from converters.quantize import QUANTIZERS, quantizer
from converters.quantize.config import Options
from converters.quantize.litert_file import answers_litert
from edge_runtime.errors import EdgeError

LENGTHS = (16, 64, 128)
FloatArray = npt.NDArray[np.float32]
EXTRA: tuple[tuple[str, Options], ...] = (
    ("onnxruntime", Options("static_w8a8_channel", calibration="percentile")),
    ("onnxruntime", Options("static_w8a8_channel", calibration="mse")),
    ("onnxruntime", Options("static_w8a8_channel", calibration="entropy")),
    ("onnxruntime", Options("dynamic_w8_channel", smooth="search")),
    ("onnxruntime", Options("static_w8a8_channel", smooth=0.8)),
    ("onnxruntime", Options("dynamic_w8_channel", smooth=0.8, rounding="gptq")),
    ("onnxruntime", Options("weight_w4_block32", rounding="gptq")),
    ("onnxruntime", Options("dynamic_c4_channel", rounding="gptq", smooth=0.8)),
    ("onnxruntime", Options("dynamic_c4_channel", rounding="gptq", smooth=0.8,
                            layers={"embeddings.*": "weight_w8_channel"})),
    ("litert", Options("dynamic_w4_block32", layers={"embeddings.*": "weight_w8_channel"})),
    ("litert", Options("static_w8a8_channel", calibration="entropy")),
)  # fmt: skip
"""Schemes with options, after all the plain ones."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one file showed; `slower` is its latency over float ONNX Runtime's."""

    engine: str
    precision: str
    calibration: str
    size_bytes: int
    seconds: float
    cosine_mean: float
    cosine_min: float
    agreement: float
    slower: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        reference = reference_folder(options.reference, WORK, Terminal())
        results = compare(
            reference, options.rows, options.texts, options.only, options.skip, options.runs
        )
    except EdgeError as reason:
        print(reason, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([asdict(one) for one in results], indent=1))
    else:
        _show(results, options.rows)
    return 0


def compare(
    reference: Path, rows: int, calibration: int, only: str, skip: str, runs: int
) -> tuple[Result, ...]:
    """One result a file; `rows` evenly spaced test rows, `calibration` texts, `runs` a latency.

    `only` keeps schemes whose engine and precision hold that word, `skip` leaves out such.
    """
    tokenizer = load_tokenizer(reference / "tokenizer.json", max_length=LENGTHS[-1])
    tests = encode(tokenizer, _spread(_texts("test"), rows))
    texts = encode(tokenizer, _texts("calibration")[:calibration])
    files = _float_files(reference)
    answers = _answers("onnxruntime", files["onnxruntime"], tests)
    made: dict[str, tuple[str, bytes]] = {"float": ("onnxruntime", files["onnxruntime"])}
    results = []
    for engine, one in _wanted(only, skip):
        started = time.monotonic()
        file = quantizer(engine, one)(files[engine], texts).model
        seconds = time.monotonic() - started
        calibrated = one.calibration if "static" in one.scheme else ""
        results.append(_judge(engine, one, calibrated, file, seconds, tests, answers))
        made[str(len(results) - 1)] = (engine, file)
        print(results[-1], file=sys.stderr, flush=True)
    best = _latencies(made, runs)
    return tuple(
        Result(**{**asdict(one), "slower": best[str(place)] / best["float"]})
        for place, one in enumerate(results)
    )


def _wanted(only: str, skip: str) -> list[tuple[str, Options]]:
    plain = [(engine, Options(scheme)) for engine, scheme in QUANTIZERS]
    named = [(f"{engine} {one.precision}", (engine, one)) for engine, one in (*plain, *EXTRA)]
    return [pair for name, pair in named if only in name and not (skip and skip in name)]


def _texts(name: str) -> tuple[str, ...]:
    return read_rows(EXAMPLE / f"{name}.jsonl.xz", "text", None).texts


def _spread(texts: Sequence[str], count: int) -> list[str]:
    count = min(count, len(texts))
    return [texts[place * len(texts) // count] for place in range(count)]


def _float_files(reference: Path) -> dict[str, bytes]:
    """The network for each engine, ONNX with fused operators."""
    from converters.export.litert import export_litert
    from converters.export.onnx import export_onnx
    from converters.fuse import fuse_onnx
    from converters.network import load_network

    network = load_network(reference / "encoder", reference / "head.safetensors")
    config: Any = network.encoder.config
    fused, _ = fuse_onnx(
        export_onnx(network, opset=17),
        architecture=config.model_type,
        heads=config.num_attention_heads,
        hidden=config.hidden_size,
    )
    return {"onnxruntime": fused, "litert": export_litert(network, lengths=LENGTHS)}


def _answers(engine: str, model: bytes, tests: Sequence[Encoded]) -> FloatArray:
    if engine == "litert":
        return answers_litert(model, tests)
    session = open_session(model)
    return np.concatenate([session.run(None, text.tensors())[0] for text in tests])


def _judge(
    engine: str,
    options: Options,
    calibration: str,
    model: bytes,
    seconds: float,
    tests: Sequence[Encoded],
    reference: FloatArray,
) -> Result:
    found = _answers(engine, model, tests)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    close = (found * reference).sum(axis=1) / norms
    agreement = float((found.argmax(axis=1) == reference.argmax(axis=1)).mean())
    return Result(engine, options.precision, calibration, len(model), round(seconds, 1),
                  float(close.mean()), float(close.min()), agreement)  # fmt: skip


def _latencies(files: Mapping[str, tuple[str, bytes]], runs: int) -> dict[str, float]:
    """Best latency of each file, in s; the files take turns."""
    calls = {name: _call(engine, model) for name, (engine, model) in files.items()}
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(runs):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def _call(engine: str, model: bytes) -> Callable[[], object]:
    ids = np.full((1, LENGTHS[-1]), 7, dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if engine == "onnxruntime":
        session = open_session(model)
        return lambda: session.run(None, feeds)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    runner = interpreter.get_signature_runner(f"tokens_{LENGTHS[-1]}")
    narrow = {name: value.astype(np.int32) for name, value in feeds.items()}
    return lambda: runner(**narrow)


def _show(results: Sequence[Result], rows: int) -> None:
    table = Table(title=f"Schemes against float, {rows} test rows", title_justify="left")
    for column in ("engine", "scheme", "calibration"):
        table.add_column(column)
    for column in ("MB", "made in s", "cosine mean", "min", "agreement", "latency / float"):
        table.add_column(column, justify="right")
    for one in results:
        table.add_row(
            one.engine, one.precision, one.calibration, f"{one.size_bytes / 1e6:.1f}",
            f"{one.seconds:.0f}", f"{one.cosine_mean:.5f}", f"{one.cosine_min:.3f}",
            f"{one.agreement:.2%}", f"{one.slower:.2f}",
        )  # fmt: skip
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reference", type=Path, default=CLASSIFIER, metavar="RECIPE|FOLDER")
    parser.add_argument("--rows", type=int, default=600, help="test rows (600)")
    parser.add_argument("--texts", type=int, default=96, help="calibration texts (96)")
    parser.add_argument("--runs", type=int, default=15, help="latency runs of each file (15)")
    parser.add_argument("--only", default="", help="schemes or engines that hold this word")
    parser.add_argument("--skip", default="", help="schemes or engines to leave out")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
