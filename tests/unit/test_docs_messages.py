"""What docs/troubleshooting.md quotes, the software still says.

A quote stands in backticks, with … for what differs. Commands, names and settings are no quotes:
those have fewer than three words and no …, or begin with what people type.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
TYPED = re.compile(r"(edge-|sudo |journalctl |systemctl |getent |[a-z_]+ = )")
JOINT = re.compile(r"[\"']\s*\n\s*(?:[fr]{0,2})[\"']")
"""Between two parts of one text in Python."""


@functools.cache
def said() -> str:
    """All sources, every text in one piece."""
    sources = [*(ROOT / "edge_runtime").rglob("*.py"), *(ROOT / "edge_runtime").rglob("*.sh")]
    return "\n".join(JOINT.sub("", path.read_text(encoding="utf-8")) for path in sources)


def quotes(text: str) -> Iterator[str]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for match in re.finditer(r"`([^`]+)`", prose):
        quote = " ".join(match[1].split())
        if ("…" in quote or quote.count(" ") > 1) and not TYPED.match(quote):
            yield quote


def unsaid(quote: str) -> list[str]:
    """The parts of a quote that no source has."""
    parts = [part.strip(" ,.:;()") for part in quote.split("…")]
    return [part for part in parts if len(part) > 2 and part not in said()]


@pytest.mark.parametrize("quote", list(quotes(PAGE.read_text(encoding="utf-8"))))
def test_a_quoted_message_is_said_by_the_software(quote: str) -> None:
    assert unsaid(quote) == []


def test_what_nobody_says_is_found() -> None:
    text = "`bundle …: the disk is sad about …` and `edge-fleet status now please`"
    assert list(quotes(text)) == ["bundle …: the disk is sad about …"]
    assert unsaid("bundle …: the disk is sad about …") == ["the disk is sad about"]
