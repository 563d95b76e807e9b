"""What strangers wrote, made fit for a terminal, and sizes for people.

A device's reason, a bundle's licence, a label, a line of a log: all of it may hold escape
sequences that rewrite the screen or the title of whoever reads it. What did not come from our own
source passes `plain` before it is printed for people; JSON for machines is one line of ASCII.
"""

from __future__ import annotations

import json
import unicodedata

MAX_SHOWN = 400
MAX_ERROR = 4000
"""Of an error's sentence, which may list every fault of a file."""
_DANGEROUS = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def plain(text: str, limit: int = MAX_SHOWN) -> str:
    """`text` on one line, without control and direction characters, at most `limit` long."""
    kept = "".join(
        " " if unicodedata.category(char) in _DANGEROUS else char for char in text[: limit + 1]
    )
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def size(size_bytes: float) -> str:
    """As 13.4 MB; a thousand is a thousand."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def json_line(value: object) -> str:
    """One line of JSON, of printable ASCII only: no byte of it acts on a terminal."""
    return json.dumps(value, sort_keys=True, allow_nan=False).replace("\x7f", "\\u007f")
