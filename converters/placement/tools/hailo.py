"""Hailo: nothing is known, because the compiler is not to be had without the vendor's account.

Its operator list depends on the compiler's release and on how a model is cut into contexts, so
rules made here would be inventions.
"""

from __future__ import annotations

from typing import Any

WHY = (
    "Hailo's Dataflow Compiler, which alone tells what runs on a Hailo-8L, is handed out to "
    "holders of an account at hailo.ai only: compile the model there and measure on the board"
)


def hello() -> dict[str, Any]:
    """What is asked: nothing."""
    return {"tool": "none: Hailo's Dataflow Compiler needs the vendor's account"}


def place(_request: dict[str, Any]) -> dict[str, Any]:
    """Unknown, and why."""
    return {
        "nodes": [],
        "partitions": None,
        "estimated_ms": None,
        "estimate": "",
        "compiled": None,
        "notes": {},
        "evidence": "unknown",
        "why": WHY,
    }
