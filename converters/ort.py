"""ONNX Runtime on the host, for looking inside a graph; what a device would see is `verify`'s."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from edge_runtime.inference.ort_products import EXACT, open_exactly

CPU = "CPUExecutionProvider"


def host_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def load_engine() -> Any:
    """The module `onnxruntime`, told first not to report to its vendor."""
    # Newer engines report to their vendor unless told before the import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def open_session(model: bytes, *, extra_outputs: Sequence[str] = (), threads: int = 1) -> Any:
    """A session on the CPU; tensors inside the graph named in `extra_outputs` can be asked for."""
    onnxruntime = load_engine()
    if extra_outputs:
        import onnx

        proto = onnx.load_from_string(model)
        present = {output.name for output in proto.graph.output}
        for name in extra_outputs:
            if name not in present:
                proto.graph.output.append(onnx.ValueInfoProto(name=name))
        model = proto.SerializeToString()

    def opened(exact: bool) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if exact:
            options.add_session_config_entry(EXACT, "1")
        return onnxruntime.InferenceSession(model, options, providers=[CPU])

    return open_exactly(model, opened)
