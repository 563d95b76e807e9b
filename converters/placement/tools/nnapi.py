"""Android's NNAPI, by the rules of ONNX Runtime's provider: operators and fixed shapes."""

from __future__ import annotations

from typing import Any

from onnxruntime.tools.mobile_helpers.usability_checker import check_nnapi_partitions

from converters.placement.tools import usability

TITLE = "NNAPI"


def hello() -> dict[str, Any]:
    """Name and version."""
    return usability.hello(TITLE)


def place(request: dict[str, Any]) -> dict[str, Any]:
    """See `usability.place`; a driver may still refuse what these rules take."""
    return usability.place(
        request, TITLE, lambda model: check_nnapi_partitions(model, require_fixed_input_sizes=True)
    )
