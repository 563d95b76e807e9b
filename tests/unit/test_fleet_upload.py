"""Signed metadata on the broker: in order, read back, never older than what is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.errors import InputError, TransferError
from edge_runtime.fleet import connection as module
from edge_runtime.fleet.authority import Rotation
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.keys import make_key_pair
from edge_runtime.fleet.publish import publish as plain_publish
from edge_runtime.fleet.repository import read_catalog
from edge_runtime.fleet.signed_publish import publish_signed, sign_bundle
from edge_runtime.fleet.upload import Upload, retire, upload
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.link.outbox import Outgoing
from tests.fakes.bundles import FILES, noise, write_bundle
from tests.fakes.operators import TOPICS, StrictBroker, keep, operator
from tests.fakes.trusted import (
    DAY,
    FILE,
    NOW,
    PASSPHRASE,
    Client,
    authority,
    bundle,
    new_home,
    retained,
)
from tests.unit.test_delta import stepped

pytestmark = pytest.mark.usefixtures("instant_disk")

SECOND = "demo@2.0.0@generic-x86_64.json"
FIRST_FILES = ("1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json")


class Recorder(MemoryBroker):
    """Knows in which order things came, and may die on the way."""

    def __init__(self, dies_after: int = 1 << 30) -> None:
        super().__init__()
        self.came: list[str] = []
        self.dies_after = dies_after

    def _route(self, sent: Outgoing) -> None:
        if sent.retain and len(self.came) >= self.dies_after:
            return
        if sent.retain:
            self.came.append(sent.topic.removeprefix(f"{TOPICS.prefix}/repo/"))
        super()._route(sent)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("made") / "fleet")


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(made.folder, tmp_path / "fleet")))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("second"), "2.0.0")


def put(home: Home, broker: MemoryBroker) -> Upload:
    with authority(home) as by, operator(broker) as connection:
        return upload(connection, by)


def publish(home: Home, broker: MemoryBroker, folder: Path) -> Upload:
    with authority(home, NOW + DAY) as by, operator(broker) as connection:
        sign_bundle(by, FolderReader(folder))
        return publish_signed(connection, by, FolderReader(folder))[1]


def files(broker: MemoryBroker) -> list[str]:
    head = TOPICS.metadata("x").removesuffix("x")
    return sorted(topic.removeprefix(head) for topic in broker.retained if topic.startswith(head))


def refresh(home: Home, days: int = 1) -> None:
    with authority(home, NOW + days * DAY) as by:
        by.refresh()


def test_a_client_over_the_broker_accepts_what_was_published(
    home: Home, first: Path, tmp_path: Path
) -> None:
    broker = MemoryBroker()
    publish(home, broker, first)
    target = Client.of(tmp_path / "client", home).target(retained(broker))
    assert target is not None
    target.verify_length_and_hashes((first / "manifest.json").read_bytes())


def test_chunks_come_first_and_the_timestamp_last(home: Home, first: Path) -> None:
    broker = Recorder()
    publish(home, broker, first)
    kinds = [topic.partition("/")[0] for topic in broker.came]
    metadata = [topic.partition("/")[2] for topic in broker.came if topic.startswith("metadata/")]
    assert kinds == sorted(kinds), "no chunk after metadata"
    assert metadata == [
        FILE, "1.root.json", "2.targets.json", "2.snapshot.json", "timestamp.json",
    ]  # fmt: skip


def test_what_the_broker_has_is_not_sent_again(home: Home, first: Path) -> None:
    broker = MemoryBroker()
    assert put(home, broker).sent == FIRST_FILES
    assert put(home, broker) == Upload()
    refresh(home)
    assert put(home, broker).sent == ("2.snapshot.json", "timestamp.json")
    assert publish(home, broker, first).sent == (
        "2.targets.json", "3.snapshot.json", "timestamp.json",
    )  # fmt: skip
    assert publish(home, broker, first) == Upload()


def test_what_the_broker_lost_or_spoiled_comes_back(home: Home) -> None:
    broker = MemoryBroker()
    put(home, broker)
    del broker.retained[TOPICS.metadata("1.root.json")]
    keep(broker, TOPICS.metadata("1.snapshot.json"), b"garbage")
    keep(broker, TOPICS.metadata("timestamp.json"), b"garbage")
    assert put(home, broker).sent == ("1.root.json", "1.snapshot.json", "timestamp.json")


def test_every_root_goes_up_so_that_no_device_is_left_behind(home: Home, tmp_path: Path) -> None:
    broker = MemoryBroker()
    client = Client.of(tmp_path / "client", home)
    with authority(home) as by:
        for role in ("timestamp", "root", "targets"):
            by.rotate(role, Rotation())
            by.settle()
    assert put(home, broker).sent[:4] == tuple(f"{n}.root.json" for n in (1, 2, 3, 4))
    client.refresh(retained(broker))


def test_old_versions_leave_the_broker_after_the_timestamp(home: Home) -> None:
    broker = MemoryBroker()
    put(home, broker)
    for day in range(1, 6):
        refresh(home, day)
        sent = put(home, broker)
    assert sent.removed == ("3.snapshot.json",)
    assert files(broker) == [
        "1.root.json", "1.targets.json", "4.snapshot.json", "5.snapshot.json", "6.snapshot.json",
        "timestamp.json",
    ]  # fmt: skip


def test_leftovers_of_uploads_that_were_cut_short_are_found(home: Home) -> None:
    broker = MemoryBroker()
    put(home, broker)
    for day in range(1, 8):
        refresh(home, day)
    keep(broker, TOPICS.metadata("4.snapshot.json"), b"left")
    assert put(home, broker).removed == ("1.snapshot.json", "4.snapshot.json")


@pytest.mark.parametrize("file", ["1.root.json", "1.targets.json", "timestamp.json"])
def test_a_broker_that_forbids_without_a_word_is_found_out(
    file: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    broker = StrictBroker(TOPICS.metadata(file))
    with pytest.raises(TransferError, match=f"metadata {file}: .* keeps nothing; does this user"):
        put(home, broker)
    assert TOPICS.metadata("timestamp.json") not in broker.retained


def test_an_older_copy_of_the_home_publishes_nothing(home: Home, tmp_path: Path) -> None:
    broker = MemoryBroker()
    older = Home(Path(shutil.copytree(home.folder, tmp_path / "older")))
    refresh(home)
    put(home, broker)
    before = dict(broker.retained)
    with pytest.raises(InputError, match=r"keeps timestamp version 2 .* this home has version 1"):
        put(older, broker)
    refresh(older, 2)
    with pytest.raises(InputError, match=r"keeps timestamp version 2 .* this home has version 2"):
        put(older, broker)
    assert broker.retained == before
    refresh(older, 3)
    assert put(older, broker).sent[-1] == "timestamp.json"


def test_a_copy_that_does_not_know_the_newest_root_publishes_nothing(
    home: Home, tmp_path: Path
) -> None:
    broker = MemoryBroker()
    older = Home(Path(shutil.copytree(home.folder, tmp_path / "older")))
    with authority(home) as by:
        by.rotate("timestamp", Rotation())
        by.settle()
    put(home, broker)
    for day in range(1, 4):
        refresh(older, day)
    with pytest.raises(InputError, match="keeps root version 2 of this fleet, this home has ver"):
        put(older, broker)


def test_another_fleet_s_metadata_is_not_overwritten_and_its_leftovers_are_in_nobody_s_way(
    home: Home, tmp_path: Path
) -> None:
    broker = MemoryBroker()
    stranger = new_home(tmp_path / "stranger")
    with authority(stranger) as by:
        for _ in range(3):
            by.rotate("root", Rotation())
            by.refresh()
            by.settle()
    put(stranger, broker)
    before = dict(broker.retained)
    with pytest.raises(InputError, match="keeps the metadata of another fleet; is this the right"):
        put(home, broker)
    assert broker.retained == before
    del broker.retained[TOPICS.metadata("1.root.json")]
    assert put(home, broker).removed == ("2.root.json",)
    Client.of(tmp_path / "client", home).refresh(retained(broker))


def test_metadata_that_lacks_signatures_is_not_uploaded(home: Home, tmp_path: Path) -> None:
    _, public = make_key_pair(tmp_path / "bob.pem", PASSPHRASE.encode())
    broker = MemoryBroker()
    with authority(home) as by:
        by.rotate("targets", Rotation(add=[str(public)], threshold=2))
        by.settle()
        with operator(broker) as connection, pytest.raises(InputError, match="not ready to be"):
            upload(connection, by)
    assert broker.retained == {}


def test_an_upload_may_be_cut_anywhere_and_done_again(
    home: Home, first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.05)
    whole = Recorder()
    publish(home, whole, first)
    before, count = dict(whole.retained), len(whole.came)
    publish(home, whole, second)
    for step in range(len(whole.came) - count):
        broker = Recorder(dies_after=step)
        broker.retained.update(before)
        client = Client.of(tmp_path / f"client{step}", home)
        client.refresh(retained(broker))
        with pytest.raises(TransferError):
            publish(home, broker, second)
        read = retained(broker)
        assert client.target(read) is not None
        new = client.target(read, SECOND)
        assert new is None or broker.came[-1] == "metadata/timestamp.json"
        broker.dies_after = 1 << 30
        publish(home, broker, second)
        assert client.target(read, SECOND) is not None
        assert broker.retained == whole.retained


def test_a_release_leaves_the_broker_with_the_chunks_that_no_other_one_needs(
    home: Home, first: Path, second: Path
) -> None:
    broker = MemoryBroker()
    only_second = MemoryBroker()
    publish(home, broker, first)
    publish(home, broker, second)
    with operator(broker) as connection:
        assert retire(connection, [FILE, "nobody@1.0.0@p.json"]) == (FILE,)
        assert [release.version for release in read_catalog(connection).releases] == ["2.0.0"]
        assert retire(connection, [FILE]) == ()
    publish(home, only_second, second)

    def chunks(at: MemoryBroker) -> set[str | None]:
        return {TOPICS.chunk_of(topic) for topic in at.retained} - {None}

    assert chunks(broker) == chunks(only_second)


def test_a_release_leaves_the_broker_with_its_deltas(home: Home, tmp_path: Path) -> None:
    broker = MemoryBroker()
    weights = noise(1_000_000, 13)
    publish(home, broker, write_bundle(tmp_path / "1", {**FILES, "model.onnx": weights})[0])
    before = set(broker.retained)
    retrained = {**FILES, "model.onnx": stepped(weights)}
    publish(home, broker, write_bundle(tmp_path / "2", retrained, version="2.0.0")[0])
    with operator(broker) as connection:
        assert any(release.deltas for release in read_catalog(connection).releases)
        retire(connection, [SECOND])
    assert {topic for topic in broker.retained if TOPICS.chunk_of(topic)} <= before


def test_chunks_stay_where_a_release_cannot_be_read(home: Home, first: Path) -> None:
    broker = MemoryBroker()
    publish(home, broker, first)
    before = {topic for topic in broker.retained if TOPICS.chunk_of(topic)}
    keep(broker, TOPICS.metadata("x@1.0.0@p.json"), b"garbage")
    with operator(broker) as connection:
        retire(connection, [FILE])
    assert {topic for topic in broker.retained if TOPICS.chunk_of(topic)} == before


def test_a_signed_bundle_takes_the_place_of_an_unsigned_one_on_the_broker(
    home: Home, first: Path, tmp_path: Path
) -> None:
    broker = MemoryBroker()
    with operator(broker) as connection:
        plain_publish(connection, FolderReader(bundle(tmp_path / "other", task="text-embedding")))
    publish(home, broker, first)
    target = Client.of(tmp_path / "client", home).target(retained(broker))
    assert target is not None
    with operator(broker) as connection:
        (release,) = read_catalog(connection).releases
    assert release.manifest.sha256 == target.hashes["sha256"]


def test_roles_are_no_releases(home: Home, first: Path) -> None:
    broker = MemoryBroker()
    publish(home, broker, first)
    keep(broker, TOPICS.metadata("12.some%2Frole.json"), b"{}")
    with operator(broker) as connection:
        found = read_catalog(connection)
    assert [release.file for release in found.releases] == [FILE]
    assert found.unreadable == ()
