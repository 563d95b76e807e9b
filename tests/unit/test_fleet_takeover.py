"""Taking over what another copy of the home has published: only what this fleet has signed."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edge_runtime.errors import EdgeError, InputError, UntrustedError
from edge_runtime.fleet.authority import Rotation
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.takeover import take_over
from edge_runtime.fleet.upload import upload
from edge_runtime.link.memory import MemoryBroker
from tests.fakes.operators import TOPICS, keep, operator
from tests.fakes.trusted import (
    DAY,
    NOW,
    Client,
    PowerCut,
    authority,
    bundle,
    content,
    cut_at,
    keys_of,
    new_home,
    retained,
    sign,
)

FUTURE = datetime(2030, 1, 1, tzinfo=NOW.tzinfo)

pytestmark = pytest.mark.usefixtures("instant_disk")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("made") / "fleet")


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(made.folder, tmp_path / "fleet")))


@pytest.fixture
def backup(made: Home, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(made.folder, tmp_path / "backup")))


@pytest.fixture
def broker(home: Home, tmp_path: Path) -> MemoryBroker:
    """Has what the home published after the backup was made: a release, and rotated keys."""
    broker = MemoryBroker()
    sign(home, bundle(tmp_path))
    with authority(home, NOW + DAY) as by, operator(broker) as connection:
        for role in ("timestamp", "root"):
            by.rotate(role, Rotation())
            by.settle()
        by.refresh()
        upload(connection, by)
    return broker


def take(home: Home, broker: MemoryBroker, now: datetime = NOW + DAY) -> tuple[str, ...]:
    with operator(broker) as connection:
        return take_over(connection, home, now)


def test_a_restored_backup_goes_on_from_what_the_broker_has(
    home: Home, backup: Home, broker: MemoryBroker, tmp_path: Path
) -> None:
    assert take(backup, broker) == (
        "2.root.json", "3.root.json", "2.targets.json", "3.snapshot.json", "timestamp.json",
    )  # fmt: skip
    assert take(backup, broker) == ()
    with authority(backup, NOW + 2 * DAY) as by:
        assert [each.version for each in by.signed_releases().values()] == ["1.0.0"]
        by.settle()
        assert keys_of(backup, "timestamp").keys() == keys_of(home, "timestamp").keys()
        assert any("timestamp" in note for note in by.outcome().notes)
    # The keys that were made after the backup come from the other machine.
    shutil.copytree(home.keys, backup.keys, dirs_exist_ok=True)
    backup.settings_file.write_bytes(home.settings_file.read_bytes())
    client = Client.of(tmp_path / "client", home)
    with authority(backup, NOW + 2 * DAY) as by, operator(broker) as connection:
        by.refresh()
        upload(connection, by)
    assert client.target(retained(broker), now=NOW + 2 * DAY) is not None


def test_what_is_older_than_what_is_here_is_not_taken(home: Home, broker: MemoryBroker) -> None:
    with authority(home, NOW + 2 * DAY) as by:
        by.refresh()
    before = content(home.folder)
    with pytest.raises(InputError, match=r"this home has version \d already; publish it with"):
        take(home, broker)
    assert content(home.folder) == before


@pytest.mark.parametrize(
    "file", ["2.root.json", "2.targets.json", "3.snapshot.json", "timestamp.json"]
)
def test_what_this_fleet_has_not_signed_is_not_taken(
    file: str, backup: Home, broker: MemoryBroker, tmp_path: Path
) -> None:
    stranger = new_home(tmp_path / "stranger")
    with authority(stranger, NOW + DAY) as by:
        by.rotate("root", Rotation())
        by.settle()
    role = file.removesuffix(".json").rpartition(".")[2]
    theirs = next(
        path for path in sorted(stranger.metadata.iterdir(), reverse=True) if role in path.name
    )
    before = content(backup.folder)
    for data in (theirs.read_bytes(), b"garbage"):
        keep(broker, TOPICS.metadata(file), data)
        with pytest.raises(UntrustedError, match=file):
            take(backup, broker)
        assert content(backup.folder) == before


def test_parts_that_do_not_belong_together_are_not_taken(
    home: Home, backup: Home, broker: MemoryBroker
) -> None:
    """All of it signed: an attacker who holds a part back mixes old and new."""
    old = {path.name: path.read_bytes() for path in backup.metadata.iterdir()}
    before = content(backup.folder)
    for file, other in (
        ("3.snapshot.json", "1.snapshot.json"),
        ("2.targets.json", "1.targets.json"),
    ):
        genuine = broker.retained[TOPICS.metadata(file)]
        keep(broker, TOPICS.metadata(file), old[other])
        with pytest.raises(UntrustedError, match="is not the one that its"):
            take(backup, broker)
        broker.retained[TOPICS.metadata(file)] = genuine
    assert content(backup.folder) == before


@pytest.mark.parametrize("file", ["2.targets.json", "3.snapshot.json", "timestamp.json"])
def test_a_broker_that_lacks_a_part_is_told(file: str, backup: Home, broker: MemoryBroker) -> None:
    del broker.retained[TOPICS.metadata(file)]
    with pytest.raises(InputError, match=f"keeps no {file}"):
        take(backup, broker)


def test_a_timestamp_that_was_signed_ahead_of_time_is_not_taken_but_new_roots_are(
    home: Home, backup: Home, broker: MemoryBroker, tmp_path: Path
) -> None:
    client = Client.of(tmp_path / "client", home)
    with authority(home, FUTURE) as by, operator(broker) as connection:
        by.settle(renew=True)
        upload(connection, by)
    before = (backup.metadata / "timestamp.json").read_bytes()
    with pytest.raises(InputError, match=r"signed at 2030-01-01 .*run `edge-fleet rotate times"):
        take(backup, broker)
    assert (backup.metadata / "timestamp.json").read_bytes() == before
    assert (backup.metadata / "3.root.json").exists()
    # A few minutes ahead are another operator's clock.
    take(home, broker, FUTURE - timedelta(minutes=9))
    # As said. The root of the other copy had another key, which comes from there.
    shutil.copytree(home.keys, backup.keys, dirs_exist_ok=True)
    backup.settings_file.write_bytes(home.settings_file.read_bytes())
    with authority(backup, NOW + 2 * DAY) as by:
        for role in ("snapshot", "timestamp"):
            by.rotate(role, Rotation())
            by.settle()
        with operator(broker) as connection:
            upload(connection, by)
    client.refresh(retained(broker), now=NOW + 2 * DAY)


def test_a_backup_learns_roots_that_its_settings_know_already(
    home: Home, backup: Home, broker: MemoryBroker
) -> None:
    """fleet.toml is backed up after each rotation, and the repository need not be."""
    backup.settings_file.write_bytes(home.settings_file.read_bytes())
    assert "3.root.json" in take(backup, broker)


def test_taking_over_may_be_cut_anywhere_and_done_again(
    backup: Home, broker: MemoryBroker, tmp_path: Path
) -> None:
    for step in range(5):
        home = Home(Path(shutil.copytree(backup.folder, tmp_path / f"home{step}")))
        with pytest.raises(PowerCut), cut_at(step, after=True):
            take(home, broker)
        take(home, broker)
        with authority(home, NOW + 2 * DAY) as by:
            assert by.outcome().published


def test_a_home_without_any_root_takes_nothing(backup: Home, broker: MemoryBroker) -> None:
    (backup.metadata / "1.root.json").unlink()
    with pytest.raises(EdgeError, match="holds no root"):
        take(backup, broker)
