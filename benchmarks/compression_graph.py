"""What fusing and folding an ONNX graph give: nodes, bytes, activations, latency, in one run.

    python -m benchmarks.compression_graph [--reference RECIPE|FOLDER] [--runs 60]

A recipe stands for what it fine-tunes; a folder holds `encoder/` and perhaps `head.safetensors`.
Latency is p50, one thread, batch 1, all files taking turns, once with the rewrites that the engine
makes when it loads a file and once without, as a device does that must save memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.trained import CLASSIFIER, WORK, reference_folder
from converters.export.onnx import export_onnx
from converters.fold import fold_constants
from converters.fuse import fuse_onnx
from converters.memory import activations
from converters.network import load_network
from converters.ort import CPU, load_engine
from converters.progress import Terminal
from edge_runtime.errors import EdgeError, exit_code

LENGTHS = (16, 128)
OPSET = 17
WARM_UPS = 5


def files(folder: Path) -> dict[str, bytes]:
    """The graph as exported, fused, and fused and folded."""
    head = folder / "head.safetensors"
    network = load_network(folder / "encoder", head if head.is_file() else None)
    config: Any = network.encoder.config
    plain = export_onnx(network, opset=OPSET)
    fused, _ = fuse_onnx(
        plain,
        architecture=config.model_type,
        heads=config.num_attention_heads,
        hidden=config.hidden_size,
    )
    return {"as exported": plain, "fused": fused, "fused and folded": fold_constants(fused)[0]}


def p50_ms(some: Mapping[str, bytes], length: int, runs: int, *, rewrite: bool) -> dict[str, float]:
    engine = load_engine()
    sessions = {}
    for name, model in some.items():
        options = engine.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if not rewrite:
            options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
        sessions[name] = engine.InferenceSession(model, options, providers=[CPU])
    ids = np.full((1, length), 7, dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    times: dict[str, list[float]] = {name: [] for name in some}
    for turn in range(WARM_UPS + runs):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, feeds)
            if turn >= WARM_UPS:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in times.items()}


def main(argv: Sequence[str] | None = None) -> int:
    import onnx

    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression_graph")
    parser.add_argument("--reference", type=Path, default=CLASSIFIER, metavar="RECIPE|FOLDER")
    parser.add_argument("--runs", type=int, default=60)
    arguments = parser.parse_args(argv)
    progress = Terminal()
    try:
        made = files(reference_folder(arguments.reference, WORK, progress))
    except EdgeError as reason:
        progress.say(f"benchmarks.compression_graph: {reason}")
        return exit_code(reason)
    latencies = {
        (length, rewrite): p50_ms(made, length, arguments.runs, rewrite=rewrite)
        for length in LENGTHS
        for rewrite in (True, False)
    }
    table = Table(title=f"onnxruntime {load_engine().__version__}, one thread, p50 in ms")
    for column in ("graph", "nodes", "bytes", *(f"activations @ {n}" for n in LENGTHS)):
        table.add_column(column, justify="left" if column == "graph" else "right")
    for length, rewrite in latencies:
        table.add_column(f"ms @ {length}{'' if rewrite else ', as it stands'}", justify="right")
    for name, model in made.items():
        peaks = (activations("onnxruntime", model, length).peak_bytes for length in LENGTHS)
        nodes = len(onnx.load_from_string(model).graph.node)
        table.add_row(
            name, f"{nodes:,}", f"{len(model):,}", *(f"{peak:,}" for peak in peaks),
            *(f"{found[name]:.2f}" for found in latencies.values()),
        )  # fmt: skip
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
