"""The client of signed metadata on a device: what it keeps, how it says no, what it vouches for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.errors import (
    DeviceError,
    InputError,
    MetadataError,
    TransferError,
    UntrustedError,
)
from edge_runtime.messages.fleet import Release
from edge_runtime.update.clock import Clock
from edge_runtime.update.trust import client as trust
from edge_runtime.update.trust.client import Client, signed_at
from tests.fakes.disk import recorded_calls
from tests.fakes.signed import NOW_S, FakeReadings, SignedRepository, signed_at_text

MANIFEST = b'{"format":1,"name":"demo"}'


def release(version: str = "1.0.0", manifest: bytes = MANIFEST) -> Release:
    entry = file_entry(MANIFEST_NAME, manifest)
    return Release("demo", version, "board", 1000, entry)


class Shelf:
    """Files out of a repository's dict, `fault` in their place where there is one."""

    def __init__(self, repo: SignedRepository) -> None:
        self._repo = repo
        self.asked: list[tuple[str, int]] = []
        self.fault: Callable[[str], None] = lambda _name: None

    def read(self, name: str, max_bytes: int) -> bytes | None:
        self.asked.append((name, max_bytes))
        self.fault(name)
        files = self._repo.artifacts if name.startswith("targets/") else self._repo.files
        return files.get(name.removeprefix("targets/"))


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "trusted"
        self.repo = SignedRepository()
        self.root = self.repo.files["1.root.json"]
        self.shelf = Shelf(self.repo)
        self.readings = FakeReadings()

    def client(self) -> Client:
        clock = Clock(self.folder.parent / "floor", self.readings)
        return Client(self.folder, self.root, self.shelf, clock)

    def refresh(self) -> Client:
        client = self.client()
        client.refresh()
        return client


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# What it vouches for.


def test_a_release_that_was_signed_is_vouched_for(world: World) -> None:
    world.repo.add(release().file, MANIFEST)
    world.repo.publish()
    world.refresh().check(release())


def test_a_release_that_nobody_signed_is_refused(world: World) -> None:
    with pytest.raises(UntrustedError) as caught:
        world.refresh().check(release())
    assert str(caught.value) == (
        "release demo==1.0.0 for board: not in the signed metadata, targets version 1"
    )


def test_another_bundle_under_a_signed_name_is_refused(world: World) -> None:
    world.repo.add(release().file, MANIFEST)
    world.repo.publish()
    other = release(manifest=MANIFEST + b" ")
    with pytest.raises(UntrustedError, match=r"wanted is manifest [0-9a-f]{12}… of 27 bytes, sig"):
        world.refresh().check(other)


def test_a_manifest_of_the_right_digest_and_another_length_is_refused(world: World) -> None:
    target = world.repo.add(release().file, MANIFEST)
    target.length += 1
    world.repo.publish()
    with pytest.raises(TransferError, match=r"of 26 bytes, signed is .* of 27$"):
        world.refresh().check(release())


def test_a_target_without_a_sha256_vouches_for_nothing(world: World) -> None:
    path = release().file
    world.repo.targets.targets[path] = TargetFile.from_data(path, MANIFEST, ["sha512"])
    world.repo.publish()
    with pytest.raises(UntrustedError, match=r"signed is … of 26$"):
        world.refresh().check(release())


def test_a_release_may_be_vouched_for_by_who_was_delegated_to(world: World) -> None:
    world.repo.delegate("targets", "board-team", ("demo@*@board.json",))
    world.repo.add(release().file, MANIFEST, "board-team")
    world.repo.publish()
    world.refresh().check(release())


def test_a_refresh_tells_the_versions_and_the_time(world: World) -> None:
    world.repo.publish("root", "targets", "snapshot", "timestamp")
    world.repo.publish("snapshot", "timestamp")
    world.repo.publish("timestamp")
    trusted = world.client().refresh()
    assert trusted == trust.Trusted(
        root_version=2,
        timestamp_version=4,
        snapshot_version=3,
        targets_version=2,
        time_s=NOW_S,
    )


# The initial root.


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda _w: b"", "initial root: malformed"),
        (lambda _w: b"[]", "initial root: malformed"),
        (lambda w: w.repo.files["1.targets.json"], "initial root: .*Expected 'root', got"),
        (lambda w: w.repo.again("root"), "initial root: not signed by enough"),
        (lambda w: w.root.replace(b"365", b"366").replace(b":1}", b":2}"), "initial root: "),
    ],
    ids=["empty", "a list", "targets", "unsigned", "changed"],
)
def test_an_initial_root_that_is_none_is_refused(
    world: World, spoil: Callable[[World], bytes], says: str
) -> None:
    world.root = spoil(world)
    with pytest.raises(MetadataError, match=says):
        world.client()
    assert world.shelf.asked == []


def test_an_initial_root_that_expired_long_ago_still_leads_to_the_newest(world: World) -> None:
    world.readings.wall_s = world.repo.now_s = NOW_S + 3650 * 86_400
    world.repo.publish(*world.repo.all_roles)
    assert world.client().refresh().root_version == 2


# Files on the disk.


def test_nothing_is_written_where_nothing_is_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory card counts its writes, and a device looks for news every few minutes."""
    world.repo.publish("root", "targets", "snapshot", "timestamp")
    world.refresh()
    calls = recorded_calls(monkeypatch, "replace", "symlink", "fsync")
    world.refresh()
    assert calls == []


def test_each_file_is_synced_before_it_takes_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.refresh()
    world.repo.publish()
    calls = recorded_calls(monkeypatch, "replace", "fsync")
    world.refresh()
    # Timestamp, floor (no: no time has passed), snapshot, targets.
    assert calls == ["fsync", "replace", "fsync"] * 3


def test_the_root_that_is_shown_is_the_newest(world: World) -> None:
    world.repo.publish("root", "timestamp")
    world.refresh()
    assert (world.folder / "root.json").read_bytes() == world.repo.files["2.root.json"]
    world.client()  # One that has not refreshed yet knows only the first.
    assert (world.folder / "root.json").read_bytes() == world.repo.files["2.root.json"]
    assert os.readlink(world.folder / "root.json") == "root_history/2.root.json"


def test_what_a_power_cut_left_behind_is_removed(world: World) -> None:
    world.refresh()
    left = [".timestamp.json.tmp", ".root.json.tmp", "root_history/.2.root.json.tmp"]
    for name in left:
        (world.folder / name).write_bytes(b"torn")
    world.client()
    assert [name for name in left if (world.folder / name).exists()] == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_is_a_sentence_and_the_old_files_stay(
    world: World, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    world.refresh()
    before = {path: path.read_bytes() for path in world.folder.glob("**/*.json")}
    world.repo.publish(*world.repo.all_roles)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(DeviceError, match="No space left"):
            world.refresh()
    assert {path: path.read_bytes() for path in world.folder.glob("**/*.json")} == before
    world.refresh()


def test_a_folder_that_cannot_be_made_is_a_sentence(world: World) -> None:
    world.folder.write_bytes(b"a file")
    with pytest.raises(DeviceError, match=r"^initial root: cannot be kept \(File exists\)$"):
        world.client()


# What comes from outside.


def test_no_more_is_asked_for_than_a_role_may_have(world: World) -> None:
    world.repo.hashes = False
    world.repo.publish()
    world.refresh()
    assert world.shelf.asked == [
        ("2.root.json", 128 << 10),
        ("timestamp.json", 16 << 10),
        ("2.snapshot.json", 128 << 10),
        ("2.targets.json", 1 << 20),
    ]


def test_an_announced_length_lowers_the_bound_and_never_raises_it(world: World) -> None:
    world.repo.publish("targets", "snapshot")
    announced = world.repo.timestamp.snapshot_meta.length
    world.repo.snapshot.meta["targets.json"].length = 1 << 40
    world.repo.publish("snapshot", "timestamp")
    with pytest.raises(MetadataError):
        world.refresh()
    asked = dict(world.shelf.asked)
    assert announced is not None
    assert asked["3.snapshot.json"] < 1000
    assert asked["2.targets.json"] == 1 << 20


def test_a_file_cut_off_one_byte_beyond_is_too_large(world: World) -> None:
    world.repo.files["timestamp.json"] = b" " * ((16 << 10) + 1)
    with pytest.raises(MetadataError, match=r"^timestamp\.json: too large \(at most 16384 bytes"):
        world.refresh()


def test_a_network_that_fails_is_not_taken_for_an_attack(world: World) -> None:
    def fail(name: str) -> None:
        raise TransferError(f"mirror: {name} timed out")

    world.shelf.fault = fail
    with pytest.raises(TransferError, match=r"mirror: 2\.root\.json timed out"):
        world.refresh()


def test_a_network_that_fails_does_not_end_the_chain_of_roots(world: World) -> None:
    """Only "there is none" does. Else a new root could be kept back by a reset connection."""
    world.repo.publish("root", "timestamp")

    def fail(name: str) -> None:
        if name == "2.root.json":
            raise TransferError("reset")

    world.shelf.fault = fail
    with pytest.raises(TransferError, match="reset"):
        world.refresh()
    assert [name for name, _ in world.shelf.asked] == ["2.root.json"]


def test_a_name_that_a_place_cannot_have_is_the_signers_fault(world: World) -> None:
    def refuse(name: str) -> None:
        if "board" in name:
            raise InputError(f"metadata file {name!r}: expected another name")

    world.repo.delegate("targets", "board~team")
    world.repo.publish()
    world.shelf.fault = refuse
    client = world.refresh()
    with pytest.raises(MetadataError, match="expected another name"):
        client.target("x")


def test_a_file_that_must_be_there_and_is_not_is_named_once(world: World) -> None:
    world.repo.publish()
    del world.repo.files["2.snapshot.json"]
    with pytest.raises(TransferError) as caught:
        world.refresh()
    assert str(caught.value) == "2.snapshot.json: not there"


def test_an_expired_file_is_told_with_the_time_that_is_trusted(world: World) -> None:
    world.readings.wall_s = NOW_S + 8 * 86_400
    with pytest.raises(MetadataError) as caught:
        world.refresh()
    assert str(caught.value) == (
        "timestamp.json: frozen or forgotten: timestamp.json is expired, "
        "trusted time is 2027-01-01 00:00 UTC"
    )


def test_what_metadata_says_cannot_act_on_a_terminal(world: World) -> None:
    world.repo.timestamp.unrecognized_fields["x"] = 1
    data = world.repo.files["timestamp.json"]
    world.repo.files["timestamp.json"] = data.replace(b'"1.0.', b'"\\u001b[31m1.0.')
    with pytest.raises(MetadataError) as caught:
        world.refresh()
    assert "\x1b" not in str(caught.value)


# Targets' own bytes.


def test_a_target_is_fetched_checked_and_kept(world: World, tmp_path: Path) -> None:
    world.repo.add("a/b c.txt", b"content")
    world.repo.publish()
    client = world.refresh()
    target = client.target("a/b c.txt")
    assert target is not None
    path = client.download(target, tmp_path / "out", "targets")
    assert path == tmp_path / "out" / "a%2Fb%20c.txt"
    assert path.read_bytes() == b"content"


def test_a_target_that_is_here_is_not_fetched_again(world: World, tmp_path: Path) -> None:
    target = world.repo.add("x", b"content")
    world.repo.publish()
    client = world.refresh()
    client.download(target, tmp_path, "targets")
    before = len(world.shelf.asked)
    client.download(target, tmp_path, "targets")
    assert len(world.shelf.asked) == before
    (tmp_path / "x").write_bytes(b"spoiled")
    client.download(target, tmp_path, "targets")
    assert (tmp_path / "x").read_bytes() == b"content"


@pytest.mark.parametrize("data", [b"CONTENT", b"content and more", b"", b"cont"])
def test_other_bytes_than_the_target_has_are_refused_and_not_kept(
    world: World, tmp_path: Path, data: bytes
) -> None:
    target = world.repo.add("x", b"content")
    world.repo.publish()
    client = world.refresh()
    world.repo.artifacts = dict.fromkeys(world.repo.artifacts, data)
    with pytest.raises(MetadataError, match=r"^target x: "):
        client.download(target, tmp_path / "out", "targets")
    assert list(tmp_path.glob("out/*")) == []


def test_a_target_that_would_fill_the_memory_is_not_asked_for(world: World, tmp_path: Path) -> None:
    target = world.repo.add("x", b"content")
    target.length = 1 << 40
    world.repo.publish()
    client = world.refresh()
    with pytest.raises(MetadataError, match=r"^target x: 1099511627776 bytes, at most 67108864"):
        client.download(target, tmp_path, "targets")


@pytest.mark.parametrize("path", ["..", ".", "../x", "/etc/x"])
def test_a_target_never_leaves_its_folder(world: World, tmp_path: Path, path: str) -> None:
    target = world.repo.add(path, b"content")
    world.repo.publish()
    client = world.refresh()
    out = tmp_path / "in" / "out"
    out.mkdir(parents=True)
    try:
        kept = client.download(target, out, "targets")
    except DeviceError:
        assert list(out.iterdir()) == []
    else:
        assert list(out.iterdir()) == [kept]
    assert list(out.parent.iterdir()) == [out]


# The time that metadata tells.


@pytest.mark.parametrize(
    ("said", "found_s"),
    [
        (signed_at_text(NOW_S), NOW_S),
        ("2999-01-01T00:00:00Z", 0.0),
        ("yesterday", 0.0),
        ("2026-11-24", 0.0),
        (NOW_S, 0.0),
        (None, 0.0),
        (["2026-11-24T00:00:00Z"], 0.0),
    ],
)
def test_signed_at_is_a_date_before_expiry_or_nothing(said: object, found_s: float) -> None:
    timestamp = SignedRepository().timestamp
    timestamp.unrecognized_fields["signed_at"] = said
    assert signed_at(timestamp) == found_s
