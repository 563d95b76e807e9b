"""Compute offline what in an ONNX graph depends on no input, and drop nodes that do nothing.

ONNX Runtime's basic level does it: rewrites that hold on every machine and use standard operators
only. An engine does the same whenever it loads a file, unless it is told not to in order to save
memory; then a text of 16 tokens takes about 5 % longer for the nodes that are left.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from converters.ort import CPU, load_engine
from converters.quiet import quiet


def fold_constants(model: bytes) -> tuple[bytes, int]:
    """The file with fewer nodes, and how many fewer; as it was, and 0, where none can go.

    Raises:
        Exception: the engine's own, where it cannot load the file.
    """
    import onnx

    before = onnx.load_from_string(model)
    folded = onnx.load_from_string(_basic(model))
    gone = len(before.graph.node) - len(folded.graph.node)
    if gone <= 0:
        return model, 0
    # The engine names every domain that it knows; another one may not know them all.
    used = {_domain(node.domain) for node in folded.graph.node}
    kept = [one for one in before.opset_import if _domain(one.domain) in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    return folded.SerializeToString(deterministic=True), gone


def _domain(name: str) -> str:
    """The standard's domain has two names."""
    return "" if name == "ai.onnx" else name


def _basic(model: bytes) -> bytes:
    engine = load_engine()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        options = engine.SessionOptions()
        options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 3
        engine.InferenceSession(model, options, providers=[CPU])
        return Path(options.optimized_model_filepath).read_bytes()
