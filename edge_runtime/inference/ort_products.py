"""Exact 8-bit products on x86 without VNNI, where ONNX Runtime's fast kernels overflow.

There two products of an unsigned and a signed byte are added in 16 bits, which full 8-bit weights
can exceed: the sum saturates, without a word. The engine has slower kernels that do not, and uses
them when told, for weights that need more than seven bits; others stay on the fast ones. It ends
the whole process, though, where the zero point of such weights is left out: those files stay as
they are, and the self-test judges their answers.

Source: `kOrtSessionOptionsAvx2PrecisionMode` in onnxruntime_session_options_config_keys.h, and the
engine's page "Quantize ONNX models", "When and why do I need to try U8U8?".
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from edge_runtime.inference.onnx_wire import nodes

T = TypeVar("T")

EXACT = "session.x64quantprecision"
DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni"})
"""By their names in /proc/cpuinfo: instructions that add 8-bit products in 32 bits."""


INPUTS = {
    "DequantizeLinear": 3,
    "MatMulInteger": 4,
    "DynamicQuantizeMatMul": 4,
    "MatMulIntegerToFloat": 6,
    "QAttention": 8,
}
"""Operator → how many inputs it has where the zero point of its weights, the last, is given.

With fewer, ONNX Runtime 1.27 stops at an assertion of its library (tried under emulation, but for
QAttention).
"""


def open_exactly(
    model: bytes, open_session: Callable[[bool], T], cpuinfo: Path = Path("/proc/cpuinfo")
) -> T:
    """What `open_session` opens, told whether to ask for exact products: `EXACT` = "1".

    They are asked for if this processor needs them. Where the engine then does not start, as with
    weights that share a zero point, it is opened as it is.

    Raises:
        IncompatibleError: `model` is not an ONNX file.
        Exception: what `open_session` raises.
    """
    if overflows(platform.machine(), cpuinfo) and all(
        count >= INPUTS.get(kind, 0) for kind, count in nodes(model)
    ):
        with contextlib.suppress(Exception):
            return open_session(True)
    return open_session(False)


@cache
def overflows(machine: str, cpuinfo: Path) -> bool:
    """Whether the fast kernels saturate here; a processor that tells nothing counts as one."""
    if machine not in ("x86_64", "i686"):
        return False
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    lines = (line.partition(":") for line in text.splitlines())
    found = [set(value.split()) for key, _, value in lines if key.strip() == "flags"]
    return not found or not all(flags & DOT_PRODUCTS for flags in found)
