"""How much memory a variant takes: a process of its own loads it, answers, and tells its peak.

`python -m converters.search.footprint FOLDER VARIANT INPUTS NAME…` prints one JSON object; INPUTS
is an .npz with an array an input, NAME… what the inputs are called. The peak is of the whole
process, engine and Python included, because that is what a board has to have free.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import DeviceError
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.pipeline import Pipeline

ANSWERS = 3
TIMEOUT_S = 120


def peak_bytes(folder: Path, variant: str, feeds: Mapping[str, Tensor]) -> int:
    """Peak resident set of a process that answers `feeds` with `variant` of the bundle.

    Raises:
        DeviceError: the process failed or hung.
    """
    try:
        with tempfile.TemporaryDirectory() as own:
            inputs = Path(own) / "inputs.npz"
            with inputs.open("wb") as file:
                np.savez(file, *feeds.values())
            command = [sys.executable, "-m", __name__, str(folder), variant, str(inputs), *feeds]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
            )
        return int(json.loads(done.stdout)["peak_bytes"])
    except (subprocess.SubprocessError, ValueError, KeyError) as reason:
        raise DeviceError(
            f"variant {variant}: its memory could not be measured ({reason})"
        ) from None


def main(arguments: list[str]) -> int:
    """The process that is measured."""
    folder, variant, inputs = Path(arguments[0]), arguments[1], Path(arguments[2])
    bundle = verify(FolderReader(folder), files=False)
    chosen = next(one for one in bundle.manifest.variants if one.id == variant)
    pipeline = Pipeline.open(bundle, chosen)
    with np.load(inputs, allow_pickle=False) as arrays:
        feeds = dict(zip(arguments[3:], arrays.values(), strict=True))
    for _ in range(ANSWERS):
        pipeline.run(feeds)
    json.dump({"peak_bytes": _peak()}, sys.stdout)
    pipeline.close()
    return 0


def _peak() -> int:
    """VmHWM of proc(5), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
