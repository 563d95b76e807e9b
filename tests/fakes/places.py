"""The places a device reads signed metadata from, and the device, for tests that hold over all.

A `Place` serves a dict of files: a folder through `link.folder`, a mosquitto's retained messages
through `link.metadata.Reader`. Both are the real thing, and so is the `Device`'s client.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tuf.api.metadata import Metadata, TargetFile

from edge_runtime.link import BrokerConfig
from edge_runtime.link.folder import FolderPlace
from edge_runtime.link.metadata import Reader
from edge_runtime.link.mqtt import MqttLink, connector
from edge_runtime.link.repository import Repository
from edge_runtime.messages.topics import Topics
from edge_runtime.update.clock import Clock
from edge_runtime.update.trust.client import Client, Files, Trusted
from tests.fakes.signed import FakeReadings, SignedRepository, publish_retained

WAIT_S = 15.0
_prefix = itertools.count()


class Place(Protocol):
    """Where files are served."""

    def serve(self, files: dict[str, bytes]) -> None:
        """These, and no others, from now on."""

    def open(self, patience_s: float = WAIT_S) -> AbstractContextManager[Files]:
        """A device's way to them, which waits so long for a broker that says nothing."""


class FolderRepository:
    """A folder, as a USB stick holds one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._served: dict[str, bytes] = {}

    def serve(self, files: dict[str, bytes]) -> None:
        folder = self._root / "metadata"
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._served.keys() - files.keys():
            (folder / name).unlink()
        for name, data in files.items():
            if self._served.get(name) != data:
                (folder / name).write_bytes(data)
        self._served = dict(files)

    @contextmanager
    def open(self, patience_s: float = WAIT_S) -> Iterator[Files]:
        del patience_s
        yield Repository(FolderPlace(self._root))


class BrokerRepository:
    """A broker's retained messages, under a prefix of its own."""

    def __init__(self, publisher: MqttLink, url: str) -> None:
        self._publisher = publisher
        # More than the largest that may be: a broker that holds back too much is another test.
        config = dataclasses.replace(BrokerConfig.parse(url), max_payload_bytes=4 << 20)
        self._connect = connector(config)
        self._topics = Topics(f"places/{next(_prefix)}")
        self._served: dict[str, bytes] = {}

    def serve(self, files: dict[str, bytes]) -> None:
        publish_retained(self._publisher, self._topics, files, self._served)
        self._served = dict(files)

    @contextmanager
    def open(self, patience_s: float = WAIT_S) -> Iterator[Files]:
        # mosquitto works a packet's filters strictly in order: nothing can come later.
        with Reader(self._connect, self._topics, timeout_s=patience_s, grace_s=0.0) as reader:
            yield reader


@contextmanager
def publisher(url: str) -> Iterator[MqttLink]:
    """Who fills the broker."""
    config = dataclasses.replace(BrokerConfig.parse(url), max_payload_bytes=4 << 20)
    link = MqttLink(config, "publisher", lambda _message: None)
    link.start()
    try:
        link.wait_connected(WAIT_S)
        yield link
    finally:
        link.close()


class Device:
    """A device that follows `repo`, through `place`: its folder of trusted metadata, its clock.

    `asked` are the files that the last refresh asked for.
    """

    def __init__(self, folder: Path, place: Place, repo: SignedRepository) -> None:
        self.folder = folder / "trusted"
        self.floor = folder / "floor.json"
        self.place = place
        self.repo = repo
        self.root = repo.files["1.root.json"]
        self.readings = FakeReadings(repo.now_s)
        self.asked: list[str] = []

    def refresh(self, asks: str | None = None, patience_s: float = WAIT_S) -> Trusted:
        """Follow the repository as it is now; `asks` for a target that must be there then."""
        with self.client(patience_s) as client:
            trusted = client.refresh()
            assert asks is None or isinstance(client.target(asks), TargetFile)
        return trusted

    @contextmanager
    def client(self, patience_s: float = WAIT_S) -> Iterator[Client]:
        """One that has not refreshed yet."""
        self.place.serve(self.repo.files)
        self.asked = []
        with self.place.open(patience_s) as files:
            clock = Clock(self.floor, self.readings)
            yield Client(self.folder, self.root, _Watched(files, self.asked), clock)

    def kept(self) -> dict[str, bytes]:
        """All that is trusted, by file."""
        found = self.folder.glob("**/*.json")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def versions(self) -> dict[str, int]:
        """Of every role that is trusted."""
        return {
            path.name: Metadata[Any].from_file(str(path)).signed.version
            for path in self.folder.glob("*.json")
        }


class _Watched:
    def __init__(self, files: Files, asked: list[str]) -> None:
        self._files = files
        self._asked = asked

    def read(self, name: str, max_bytes: int) -> bytes | None:
        self._asked.append(name)
        return self._files.read(name, max_bytes)
