"""The report's two files, beside the bundles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from converters.pipeline import Conversion
from converters.report.figures import as_json


def write_reports(conversions: Sequence[Conversion], out: Path) -> Path:
    """Write report.json to `out`; returns its path."""
    path = out / "report.json"
    path.write_text(json.dumps(as_json(conversions), indent=2) + "\n")
    return path
