"""Every flow, on the in-memory fleet with its manual clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows import updates
from tests.flows.memory import MemoryWorld


@pytest.mark.parametrize("flow", updates.ALL, ids=lambda flow: flow.__name__)
def test_flow(flow: updates.Flow, tmp_path: Path) -> None:
    with MemoryWorld(tmp_path) as world:
        flow(world)
