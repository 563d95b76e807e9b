"""The self-test of a bundle on this board, as its worker does it: one line of JSON.

python3 -m tests.board.guest.facts BUNDLE
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from pathlib import Path

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.inference.selftest import first_passing


def main() -> int:
    """Command line."""
    bundle = verify(FolderReader(Path(sys.argv[1])))
    pipeline, reports = first_passing(bundle, bundle.manifest.variants, lambda _: None, None)
    found = [dataclasses.asdict(report) for report in reports]
    print("FACTS", json.dumps({"machine": platform.machine(), "reports": found}), flush=True)
    if pipeline is not None:
        pipeline.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
