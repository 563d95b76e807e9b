"""What holds for every test: no vendor's telemetry, no download, the same examples on every run."""

from __future__ import annotations

import os
from pathlib import Path

# Before any test module imports an engine or the Hugging Face libraries.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

SYSTEM_TESTS = Path(__file__).parent / "system"

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/system carries the marker `system`."""
    for item in items:
        if item.path.is_relative_to(SYSTEM_TESTS):
            item.add_marker(pytest.mark.system)
