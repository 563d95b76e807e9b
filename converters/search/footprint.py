"""How much memory a variant takes: a process of its own loads it, answers, and tells its peak.

`python -m converters.search.footprint FOLDER VARIANT TOKENS` prints one JSON object. The peak is of
the whole process, engine and Python included, because that is what a board has to have free.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import DeviceError
from edge_runtime.inference.pipeline import Pipeline

ORDINARY_ID = 7
ANSWERS = 3
TIMEOUT_S = 120


def peak_bytes(folder: Path, variant: str, tokens: int) -> int:
    """Peak resident set of a process that answers `tokens` tokens with `variant` of the bundle.

    Raises:
        DeviceError: the process failed or hung.
    """
    command = [sys.executable, "-m", __name__, str(folder), variant, str(tokens)]
    try:
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
    folder, variant, tokens = Path(arguments[0]), arguments[1], int(arguments[2])
    bundle = verify(FolderReader(folder), files=False)
    chosen = next(one for one in bundle.manifest.variants if one.id == variant)
    pipeline = Pipeline.open(bundle, chosen)
    ids = np.full((1, tokens), ORDINARY_ID, dtype=np.int64)
    for _ in range(ANSWERS):
        pipeline.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})
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
