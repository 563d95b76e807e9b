"""The device's code under another interpreter: an engine that fights the one of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edge_runtime.agent.order import Order

ROOT = Path(__file__).parents[2]
PLACES = (
    os.environ.get("EDGE_TARGETS", ""),
    ROOT / ".venv-targets",
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-runtime" / "targets",
)
NEEDED = "import numpy, onnxruntime, safetensors, tokenizers"
LOAD = """
import dataclasses, json, sys
from edge_runtime.agent.order import Order
from edge_runtime.agent.worker import load
loaded = load(Order.from_argument(sys.argv[1]))
answers = []
if loaded.pipeline is not None and loaded.pipeline.takes == "text":
    answers = [one.as_json()["label"] for one in loaded.pipeline(json.loads(sys.argv[2]))]
print(json.dumps({
    "reports": [dataclasses.asdict(report) for report in loaded.reports],
    "accelerated": loaded.accelerated,
    "answers": answers,
}))
"""


@cache
def interpreter(target: str, more: str = "") -> str | None:
    """The Python of the environment of `target`, if it has what the device's code needs.

    `$EDGE_<TARGET>_PYTHON` names it, or it is where `edge-convert setup-target` makes it.

    Args:
        more: modules that it must have besides, as ", onnxruntime_qnn".
    """
    named = os.environ.get(f"EDGE_{target.upper()}_PYTHON")
    places = [Path(folder) / target / "bin" / "python" for folder in PLACES if folder]
    for python in [named] if named else map(str, places):
        try:
            done = subprocess.run([python, "-c", NEEDED + more], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


def said(python: str, code: str, *arguments: str, cwd: Path | None = None) -> Any:
    """What `code` printed last, as JSON. It finds our packages, and the arguments in sys.argv."""
    done = subprocess.run(
        [python, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def load(python: str, order: Order, texts: Sequence[str] = (), cwd: Path | None = None) -> Any:
    """What a worker under `python` loads of the order's bundle: reports, and answers to texts."""
    return said(python, LOAD, order.to_argument(), json.dumps(list(texts)), cwd=cwd)
