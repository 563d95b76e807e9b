"""Tools of vendors for tests: skipped by name where one is not set up."""

from __future__ import annotations

import pytest

from converters.placement.environments import tool_of


def needs_target(name: str) -> pytest.MarkDecorator:
    """Skips where the tool is not set up; with EDGE_ALL_HERE=1 that is a failure."""
    return pytest.mark.skipif(
        tool_of(name) is None, reason=f"{name} is not set up (edge-convert setup-target {name})"
    )
