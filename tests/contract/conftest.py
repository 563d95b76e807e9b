"""Where devices read signed metadata from: a folder and a broker, the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.link.mqtt import MqttLink
from tests.fakes.brokers import mosquitto
from tests.fakes.places import BrokerRepository, FolderRepository, Place, publisher


@pytest.fixture(scope="session")
def metadata_broker() -> Iterator[tuple[MqttLink, str]]:
    """Who fills the broker, and the broker's URL."""
    # Its answers are small: without this they wait for the acknowledgement of those before them.
    with mosquitto(["set_tcp_nodelay true"]) as broker, publisher(broker.url) as link:
        yield link, broker.url


@pytest.fixture(params=["folder", "mqtt"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for the files of a repository, of each kind."""
    if request.param == "folder":
        return FolderRepository(tmp_path / "repository")
    return BrokerRepository(*request.getfixturevalue("metadata_broker"))
