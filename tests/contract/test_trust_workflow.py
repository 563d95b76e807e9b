"""The client's workflow of the specification, out of a folder and from a broker alike.

How root keys and thresholds change, how delegations are searched, what spoiled files of the
device's own do, and how the device knows the time. After the cases of the TUF project's
conformance suite; attacks have a file of their own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_runtime.errors import MetadataError
from edge_runtime.update.clock import BUILD_S
from edge_runtime.update.trust import client as trust
from tests.fakes.places import Device, FolderRepository, Place
from tests.fakes.signed import DAY_S, NOW_S, SignedRepository, signed_bytes, signer, with_signature

UNSIGNED = "not signed by enough of the keys"


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves is another test's business."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


# Changes of keys.


@dataclass(frozen=True)
class Step:
    """One version: which keys it names, how many of them it wants, who signs it."""

    names: str
    wants: int
    signed_by: str


CHAINS: dict[str, tuple[list[Step], bool]] = {
    "one key after another": ([Step("a", 1, "a"), Step("b", 1, "ab"), Step("b", 1, "b")], True),
    "signatures that nobody asked for": ([Step("a", 1, "xay"), Step("b", 1, "xbay")], True),
    "any three of five": (
        [Step("abcde", 3, "ace"), Step("abcde", 3, "aeb"), Step("abcde", 3, "bcd")],
        True,
    ),
    "one of five replaced": ([Step("abcde", 3, "ace"), Step("abdef", 3, "aeb")], True),
    "one of five replaced, the old one signs": (
        [Step("abcde", 3, "ace"), Step("abdef", 3, "acef"), Step("abdef", 3, "aef")],
        True,
    ),
    "all of five replaced": (
        [Step("abcde", 3, "ace"), Step("fghij", 3, "acefgh"), Step("fghij", 3, "fgh")],
        True,
    ),
    "more are wanted": ([Step("abc", 1, "a"), Step("abc", 2, "ab")], True),
    "fewer are wanted": (
        [Step("abc", 2, "ab"), Step("abc", 1, "ab"), Step("abc", 1, "a")],
        True,
    ),
    "a second key": ([Step("a", 1, "a"), Step("ab", 2, "ab")], True),
    "the old key does not sign": ([Step("a", 1, "a"), Step("b", 1, "bxy")], False),
    "the new key does not sign": ([Step("a", 1, "a"), Step("b", 1, "axy")], False),
    "too few of the new": ([Step("abcde", 3, "ace"), Step("abdef", 3, "ace")], False),
    "too few of the old": ([Step("abcde", 3, "ace"), Step("abdef", 3, "aef")], False),
    "more are wanted than sign": ([Step("abc", 1, "a"), Step("abc", 2, "b")], False),
    "as many as before are wanted once more": ([Step("abc", 2, "ab"), Step("abc", 1, "a")], False),
}


@pytest.mark.parametrize(("chain", "good"), CHAINS.values(), ids=CHAINS)
def test_a_chain_of_roots_is_followed_as_far_as_it_is_signed(
    chain: list[Step], good: bool, place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    del repo.files["1.root.json"]
    repo.root.version = 0
    for step in chain:
        repo.rotate("root", *step.names, threshold=step.wants)
        repo.signers["root"] = [signer(f"{repo.name}/{label}") for label in step.signed_by]
        repo.publish("root")
    device = Device(tmp_path, place, repo)

    if good:
        assert device.refresh().root_version == len(chain)
    else:
        with pytest.raises(MetadataError, match=UNSIGNED):
            device.refresh()

    kept = len(chain) if good else len(chain) - 1
    assert (device.folder / "root.json").read_bytes() == repo.files[f"{kept}.root.json"]


SETS: dict[str, tuple[Step, bool]] = {
    "another key": (Step("b", 1, "b"), True),
    "signatures that nobody asked for": (Step("a", 1, "xay"), True),
    "any three of five": (Step("abcde", 3, "bcd"), True),
    "the old key signs": (Step("b", 1, "axy"), False),
    "a stranger among three": (Step("abdef", 3, "ace"), False),
    "two of three": (Step("abdef", 3, "ae"), False),
}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize(("keys", "good"), SETS.values(), ids=SETS)
def test_a_role_is_believed_with_the_keys_that_the_newest_root_names(
    role: str, keys: Step, good: bool, place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    device.refresh()
    repo.rotate(role, *keys.names, threshold=keys.wants)
    repo.signers[role] = [signer(f"{repo.name}/{label}") for label in keys.signed_by]
    repo.publish(*repo.all_roles)

    if good:
        device.refresh()
    else:
        with pytest.raises(MetadataError, match=UNSIGNED):
            device.refresh()

    kept = repo.files[repo.file(role)] == (device.folder / f"{role}.json").read_bytes()
    assert kept == good


def test_a_false_signature_beside_enough_true_ones_does_no_harm(
    place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    repo.rotate("timestamp", "a", "b")
    repo.publish("root", "timestamp")
    keyid = repo.signers["timestamp"][1].public_key.keyid
    for false in (None, ""):
        repo.publish("timestamp")
        metadata = json.loads(with_signature(repo.files["timestamp.json"], keyid, signer("eve")))
        if false is not None:
            next(s for s in metadata["signatures"] if s["keyid"] == keyid)["sig"] = false
        repo.files["timestamp.json"] = json.dumps(metadata).encode()
        device = Device(tmp_path, place, repo)
        assert device.refresh().timestamp_version == repo.timestamp.version


def test_fields_that_nobody_knows_are_signed_and_pass(place: Place, tmp_path: Path) -> None:
    repo = SignedRepository()
    repo.root.unrecognized_fields["owner"] = {"name": "Ada"}
    repo.root.roles["root"].unrecognized_fields["custody"] = ["safe", "bank"]
    repo.publish("root")
    assert Device(tmp_path, place, repo).refresh().root_version == 2


def test_roots_are_followed_no_further_than_a_bound_from_the_initial_one(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could sign roots without end could hold a device for ever."""
    monkeypatch.setattr(trust, "MAX_ROOT_ROTATIONS", 3)
    repo = SignedRepository()
    repo.publish(*["root"] * 7)
    device = Device(tmp_path, place, repo)
    assert [device.refresh().root_version for _ in range(2)] == [4, 4]


# Snapshots that are not consistent.


def test_a_repository_without_consistent_snapshots_is_read_by_plain_names(
    place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository(consistent=False)
    repo.add("demo.json", b"{}")
    repo.publish()
    device = Device(tmp_path, place, repo)
    device.refresh("demo.json")
    assert device.asked == ["2.root.json", "timestamp.json", "snapshot.json", "targets.json"]


def test_a_refresh_asks_for_what_may_be_new_and_for_nothing_else(
    place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    device.refresh()
    assert device.asked == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    device.refresh()
    assert device.asked == ["2.root.json", "timestamp.json"]
    repo.publish("timestamp")
    device.refresh()
    assert device.asked == ["2.root.json", "timestamp.json"]
    repo.publish("root", "snapshot", "timestamp")
    device.refresh()
    assert device.asked == ["2.root.json", "3.root.json", "timestamp.json", "2.snapshot.json"]


def test_what_is_kept_are_the_bytes_that_came(place: Place, tmp_path: Path) -> None:
    """Digests in other metadata speak of these bytes."""
    repo = SignedRepository()
    repo.files["timestamp.json"] += b" \n"
    device = Device(tmp_path, place, repo)
    device.refresh()
    assert device.kept()["timestamp.json"] == repo.files["timestamp.json"]


# Delegations.


@dataclass(frozen=True)
class Graph:
    """Who delegates to whom (`*` ends a name: terminating; `:` begins its path), what is asked."""

    edges: str
    visited: str
    path: str = "x"
    targets: Sequence[tuple[str, str]] = field(default=())
    found: bool = False


GRAPHS: dict[str, Graph] = {
    "one": Graph("targets>A", "A"),
    "two side by side": Graph("targets>A targets>B", "A B"),
    "one below another": Graph("targets>A targets>B B>C", "A B C"),
    "depth comes first": Graph("targets>A targets>B A>C A>D", "A C D B"),
    "depth comes first, three deep": Graph("targets>A targets>B A>C C>D", "A C D B"),
    "a terminating one ends the search": Graph("targets>A targets>B A>C* A>D", "A C"),
    "below a terminating one the search goes on": Graph("targets>A targets>B A>C* C>D", "A C D"),
    "a path that does not match": Graph("targets>A:*.py targets>B A>C", "B"),
    "a path below that does not match": Graph("targets>A targets>B A>C:*.py C>D", "A B"),
    "a cycle ends": Graph("targets>A targets>B B>C C>D D>B", "A B C D"),
    "a role with two parents": Graph("targets>A targets>B B>C A>C", "A C B"),
    "a role with two parents, one by path": Graph("targets>A targets>B B>C A>C:*.py", "A B C"),
    "found at the top": Graph("targets>A", "", targets=[("targets", "x"), ("A", "x")], found=True),
    "found in the first that has it": Graph(
        "targets>A targets>B A>C", "A C", targets=[("B", "x"), ("C", "x")], found=True
    ),
    "found behind a path": Graph(
        "targets>A:*.md targets>B:v/*/* B>C:v/1/* B>D:v/2/*",
        "B D",
        path="v/2/y",
        targets=[("D", "v/2/y")],
        found=True,
    ),
    "listed by who may not list it": Graph(
        "targets>A:*.md targets>B:v/*/* B>C:v/1/*",
        "B",
        path="v/3/z",
        targets=[("C", "v/3/z"), ("A", "v/3/z")],
    ),
    "listed by who may not list it, as far as its parent": Graph(
        "targets>A:a* A>B:*", "A B", path="a1", targets=[("B", "b1"), ("B", "a1")], found=True
    ),
}


def _build(graph: Graph) -> SignedRepository:
    repo = SignedRepository()
    for edge in graph.edges.split():
        parent, _, child = edge.partition(">")
        name, _, path = child.partition(":")
        repo.delegate(parent, name.rstrip("*"), (path or "*",), terminating=name.endswith("*"))
    for role, path in graph.targets:
        repo.add(path, role.encode(), role)
    repo.publish()
    return repo


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_delegations_are_searched_in_the_order_of_the_specification(
    graph: Graph, place: Place, tmp_path: Path
) -> None:
    repo = _build(graph)
    device = Device(tmp_path, place, repo)
    with device.client() as client:
        client.refresh()
        del device.asked[:]
        target = client.target(graph.path)
    assert device.asked == [f"1.{name}.json" for name in graph.visited.split()]
    assert (target is not None) == graph.found


def test_a_search_through_too_many_delegations_ends_without_a_target(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MAX_DELEGATIONS", 3)
    repo = _build(Graph("targets>A targets>B targets>C targets>D", "", targets=[("D", "x")]))
    device = Device(tmp_path, place, repo)
    with device.client() as client:
        client.refresh()
        assert client.target("x") is None
    assert len(device.asked) < 8


@pytest.mark.parametrize("role", ["?", "#", "/team", "../team", "..", "a b", "team%2f"])
def test_a_role_with_an_unusual_name_stays_in_its_folder(role: str, tmp_path: Path) -> None:
    repo = SignedRepository()
    repo.delegate("targets", role)
    repo.add("x", b"{}", role)
    repo.publish()
    device = Device(tmp_path, FolderRepository(tmp_path / "repository"), repo)
    device.refresh("x")
    assert device.asked[-1] == repo.file(role)
    assert len(list(device.folder.glob("*.json"))) == 5
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"repository", "trusted", "floor.json"}


# The device's own files, spoiled.


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _forge(path: Path) -> None:
    """A version far ahead, signed by a stranger: were it believed, nothing could be newer."""
    repo = SignedRepository("stranger")
    repo.delegate("targets", "team")
    role = path.name.split(".")[-2]
    repo.signed(role).version = 1_000_000
    path.write_bytes(signed_bytes(repo.signed(role), repo.signers[role]))


SPOILERS: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "empty": _empty,
    "cut": _cut,
    "forged": _forge,
}
OWN = [
    "timestamp.json",
    "snapshot.json",
    "targets.json",
    "team.json",
    "root_history/1.root.json",
    "root_history/2.root.json",
    "root_history/3.root.json",
]


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
@pytest.mark.parametrize("name", OWN)
def test_a_spoiled_file_of_the_device_is_fetched_again(
    name: str, spoil: Callable[[Path], None], place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    repo.delegate("targets", "team")
    repo.add("x", b"{}", "team")
    repo.publish("root", "root", *repo.all_roles[1:])
    device = Device(tmp_path, place, repo)
    device.refresh("x")
    before = device.kept()

    spoil(device.folder / name)
    device.refresh("x")
    assert device.kept() == before


def test_a_device_that_lost_all_its_files_begins_again_from_its_root(
    place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    repo.publish(*repo.all_roles)
    device = Device(tmp_path, place, repo)
    device.refresh()
    before = device.kept()
    shutil.rmtree(device.folder)
    device.floor.write_bytes(b"\0" * 40)
    device.refresh()
    assert device.kept() == before


def test_a_root_on_the_disk_is_no_anchor(place: Place, tmp_path: Path) -> None:
    """Whoever can write there must not become the root of trust."""
    eve = SignedRepository("eve")
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    device.refresh()
    for path in device.folder.glob("**/*root.json"):
        path.unlink()
        path.write_bytes(eve.files["1.root.json"])
    device.refresh()
    assert (device.folder / "root.json").read_bytes() == repo.files["1.root.json"]


# Time.


def _board_of_1970(device: Device) -> None:
    device.readings.reboot(0.0)
    device.readings.is_synchronized = False


def test_a_board_in_1970_follows_what_is_signed_today(place: Place, tmp_path: Path) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    _board_of_1970(device)
    assert device.refresh().time_s == NOW_S


def test_a_board_in_1970_that_saw_news_refuses_what_expired_before_them(
    place: Place, tmp_path: Path
) -> None:
    """The attacker shows a repository that was honest once, to a board without a clock."""
    repo = SignedRepository()
    repo.publish("root")
    old = dict(repo.files)
    device = Device(tmp_path, place, repo)
    _board_of_1970(device)
    repo.now_s += 60 * DAY_S
    repo.publish(*repo.all_roles)
    assert device.refresh().time_s == repo.now_s

    _board_of_1970(device)
    shutil.rmtree(device.folder)  # All but the floor is lost: versions protect no more.
    repo.files = old
    with pytest.raises(MetadataError, match=r"frozen or forgotten: timestamp.json is expired"):
        device.refresh()


def test_a_newer_root_tells_the_time_before_any_timestamp(place: Place, tmp_path: Path) -> None:
    repo = SignedRepository()
    old = repo.files["timestamp.json"]
    repo.now_s += 60 * DAY_S
    repo.publish("root")
    repo.files["timestamp.json"] = old
    device = Device(tmp_path, place, repo)
    _board_of_1970(device)
    with pytest.raises(MetadataError, match=r"frozen or forgotten: timestamp.json is expired"):
        device.refresh()


def test_uptime_carries_the_time_on_until_metadata_expires(place: Place, tmp_path: Path) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    _board_of_1970(device)
    device.refresh()
    device.readings.wait(6 * DAY_S)
    assert device.refresh().time_s == NOW_S + 6 * DAY_S
    device.readings.wait(2 * DAY_S)
    with pytest.raises(MetadataError, match="frozen or forgotten"):
        device.refresh()


def test_a_system_clock_that_nothing_synchronised_is_not_listened_to(
    place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    device.readings.wall_s = NOW_S + 1000 * DAY_S
    device.readings.is_synchronized = False
    assert device.refresh().time_s == NOW_S

    device.readings.is_synchronized = True
    with pytest.raises(MetadataError, match="frozen or forgotten"):
        device.refresh()


def test_a_false_answer_of_a_time_server_is_forgotten_with_the_boot(
    place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    device.refresh()
    device.readings.wall_s = NOW_S + 1000 * DAY_S
    with pytest.raises(MetadataError, match="frozen or forgotten"):
        device.refresh()
    device.readings.reboot(NOW_S)
    assert device.refresh().time_s == NOW_S


def test_a_time_server_cannot_take_a_device_back(place: Place, tmp_path: Path) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    device.refresh()
    device.readings.reboot(0.0)
    device.readings.is_synchronized = True
    assert device.refresh().time_s == NOW_S


def test_a_timestamp_that_is_refused_does_not_tell_the_time(place: Place, tmp_path: Path) -> None:
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    _board_of_1970(device)
    device.refresh()
    repo.now_s += 60 * DAY_S
    repo.publish("timestamp")
    repo.replace("timestamp", repo.again("timestamp", signer("eve")))
    with pytest.raises(MetadataError, match=UNSIGNED):
        device.refresh()
    repo.files = dict(repo.honest)
    repo.now_s = NOW_S + DAY_S
    repo.publish()
    assert device.refresh().time_s == NOW_S + DAY_S


def test_a_repository_that_tells_no_time_leaves_the_day_the_software_was_made(
    place: Place, tmp_path: Path
) -> None:
    repo = SignedRepository()
    repo.tells_time = False
    for role in (repo.root, repo.timestamp):
        role.unrecognized_fields.clear()
    repo.root.version = 0
    repo.publish(*repo.all_roles)
    device = Device(tmp_path, place, repo)
    _board_of_1970(device)
    assert device.refresh().time_s == BUILD_S
    assert not device.floor.exists()


def test_new_timestamp_keys_end_what_a_stolen_one_said_of_the_time(
    place: Place, tmp_path: Path
) -> None:
    """Without it one stolen online key would stop all updates for ever."""
    repo = SignedRepository()
    device = Device(tmp_path, place, repo)
    _board_of_1970(device)
    device.refresh()
    repo.timestamp.version += 1
    repo.timestamp.unrecognized_fields["signed_at"] = "2199-01-01T00:00:00Z"
    repo.timestamp.expires = repo.timestamp.expires.replace(year=2200)
    repo.replace("timestamp", repo.again("timestamp", *repo.signers["timestamp"]))
    for _ in range(2):
        with pytest.raises(MetadataError, match=r"frozen or forgotten: Final root.json is expired"):
            device.refresh()

    repo.now_s += DAY_S
    repo.rotate("timestamp", "timestamp-2")
    repo.publish("root", "timestamp")
    assert device.refresh().time_s == repo.now_s


# What the workflow is for.


def test_the_release_that_is_wanted_is_held_to_the_newest_targets(
    place: Place, tmp_path: Path
) -> None:
    """A release that was withdrawn is not vouched for any more."""
    repo = SignedRepository()
    repo.add("demo@1.0.0@board.json", b"{}")
    repo.publish()
    device = Device(tmp_path, place, repo)
    device.refresh("demo@1.0.0@board.json")
    del repo.targets.targets["demo@1.0.0@board.json"]
    repo.publish()
    with device.client() as client:
        client.refresh()
        assert client.target("demo@1.0.0@board.json") is None
