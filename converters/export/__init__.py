"""From a torch network to the file format of each engine, in float."""

from __future__ import annotations

import importlib.util

from edge_runtime.errors import InputError

OPSETS = range(14, 21)
"""Below 14 there is no Relu of int8 and friends; torch's legacy exporter ends at 20."""


def require_optimum() -> None:
    """Optimum is an extra of its own; say so before minutes are spent.

    Raises:
        InputError: it is not installed.
    """
    try:
        found = importlib.util.find_spec("optimum.exporters.onnx")
    except ImportError:  # not even the package around it
        found = None
    if found is None:
        raise InputError(
            'exporter "optimum": Optimum is not installed; install edge-runtime[optimum], '
            'or write exporter = "torch"'
        )
