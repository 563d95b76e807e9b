"""The report's two files, beside the bundles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from converters.pipeline import Conversion
from converters.report.figures import as_json
from edge_runtime.errors import DeviceError

JSON_FILE = "report.json"
HTML_FILE = "report.html"


def write_reports(conversions: Sequence[Conversion], out: Path) -> Path:
    """Write report.json and report.html to `out`; returns the latter's path.

    Raises:
        DeviceError: they cannot be written.
    """
    from converters.report.page import html_page

    page = out / HTML_FILE
    try:
        machine = json.dumps(as_json(conversions), indent=2, allow_nan=False)
        (out / JSON_FILE).write_text(machine + "\n")
        page.write_text(html_page(conversions), encoding="utf-8")
    except OSError as reason:
        raise DeviceError(f"report {page}: cannot be written ({reason.strerror})") from None
    return page
