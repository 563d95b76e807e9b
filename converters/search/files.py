"""What a search leaves beside its bundle: optimize.json and optimize.html."""

from __future__ import annotations

import json
from pathlib import Path

from converters.search.result import Found
from edge_runtime.errors import DeviceError

JSON_FILE = "optimize.json"
HTML_FILE = "optimize.html"


def write_found(found: Found, out: Path) -> Path:
    """Write both to `out`; returns the page's path.

    Raises:
        DeviceError: they cannot be written.
    """
    from converters.report.search import search_page

    page = out / HTML_FILE
    try:
        (out / JSON_FILE).write_text(json.dumps(found.as_json(), indent=2) + "\n")
        page.write_text(search_page(found), encoding="utf-8")
    except OSError as reason:
        raise DeviceError(f"report {page}: cannot be written ({reason.strerror})") from None
    return page
