"""Every flow, with real agents on a real broker; `tests/scenario/test_flows.py` runs the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.brokers import BrokerProcess, mosquitto
from tests.flows import updates
from tests.flows.processes import ProcessWorld


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with mosquitto() as running:
        yield running


@pytest.mark.parametrize("flow", updates.ALL, ids=lambda flow: flow.__name__)
def test_flow(flow: updates.Flow, tmp_path: Path, broker: BrokerProcess) -> None:
    with ProcessWorld(tmp_path, broker, prefix=f"flows/{flow.__name__}") as world:
        flow(world)
