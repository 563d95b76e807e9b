"""The helper, as root would run it: what it installs, what it refuses, and power cuts anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.upgrade import record as records
from edge_runtime.agent.upgrade.places import tree_name
from edge_runtime.agent.upgrade.record import Record, advance
from edge_runtime.agent.upgrade.request import ACTIVATE, CONFIRM, STAGE, say_standing
from edge_runtime.agent.upgrade.states import (
    TABLE,
    Action,
    Asked,
    Booted,
    Candidate,
    State,
    step,
)
from edge_runtime.bundle.agent_package import SITE
from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.errors import DeviceError
from edge_runtime.messages.fleet import Release
from tests.fakes import debs
from tests.fakes.upgrades import BOUNDS, Board, Fleet, release_of


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "fleet").mkdir()
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def board(tmp_path: Path, fleet: Fleet) -> Board:
    return Board(tmp_path / "board", fleet)


def offered(
    fleet: Fleet, board: Board, version: str = "0.2.0", data: bytes | None = None
) -> Release:
    """A release that is signed, and that the agent has fetched."""
    reader = fleet.package(version, data)
    release = fleet.sign(reader)
    board.hold(reader, fleet.repository.files)
    return release


def name_of(release: Release) -> str:
    return tree_name(release.version, release.manifest.sha256)


def stage(board: Board, release: Release, **more: Any) -> Record:
    board.ask(STAGE, release, **more)
    return board.run()


def healthy(board: Board, release: Release) -> Callable[[float], None]:
    """Time that passes while the new agent, once started, says that it is well."""

    def sleep(seconds: float) -> None:
        board.readings.wait(seconds)
        if board.current == name_of(release):
            board.ask(CONFIRM, release)

    return sleep


# The table.


def test_every_state_survives_a_start_of_the_helper_and_only_a_trial_is_left_by_it() -> None:
    for state in State:
        then, _ = step(state, Booted())
        assert then is state
    assert {state for state, _ in TABLE} == set(State)
    with pytest.raises(RuntimeError, match="cannot happen"):
        step(State.TRIAL, Asked(Candidate("1.0.0", "ab" * 32)))


def test_what_changes_the_link_restarts_the_agent_and_is_done_again_after_a_cut() -> None:
    for state, action in ((State.FLIPPING, Action.FLIP), (State.GOING_BACK, Action.FLIP_BACK)):
        assert step(state, Booted())[1] == (action,)


# The way forward.


def test_a_signed_release_is_unpacked_started_confirmed_and_kept(
    fleet: Fleet, board: Board
) -> None:
    release = offered(fleet, board)
    record = stage(board, release)
    assert (record.state, board.current, board.service.restarts) == (State.STAGED, "", 0)
    tree = board.places.releases / name_of(release)
    assert (tree / "edge_runtime/__init__.py").read_bytes() == b"VERSION = '0.2.0'\n"
    assert not (tree / "usr").exists(), "nothing but the software's own folder"
    board.ask(ACTIVATE, release)
    record = board.run(healthy(board, release))
    assert (record.state, record.current, record.previous) == (State.IDLE, name_of(release), "")
    assert (board.current, board.service.restarts) == (name_of(release), 1)
    assert not (board.places.state / "upgrade/request.json").exists()
    assert not board.places.open.exists()


def test_the_one_before_is_kept_and_older_ones_go(fleet: Fleet, board: Board) -> None:
    releases = []
    for version in ("0.2.0", "0.3.0", "0.4.0"):
        releases.append(offered(fleet, board, version))
        stage(board, releases[-1])
        board.ask(ACTIVATE, releases[-1])
        board.run(healthy(board, releases[-1]))
    assert board.trees() == {name_of(releases[1]), name_of(releases[2])}
    assert board.record.previous == name_of(releases[1])


# Back.


def test_an_agent_that_is_not_healthy_in_time_is_gone_back_from_and_refused(
    fleet: Fleet, board: Board
) -> None:
    release = offered(fleet, board)
    stage(board, release)
    board.ask(ACTIVATE, release)

    def sleep(seconds: float) -> None:
        board.readings.wait(seconds)
        say_standing(board.places.state, "no bundle serves,\x1b[31m as one did before")

    record = board.run(sleep)
    assert (record.state, record.current, board.current) == (State.IDLE, "", "")
    assert board.service.restarts == 2
    (refusal,) = record.refused
    assert refusal.reason == (
        "it was not healthy within 10 s: no bundle serves, [31m as one did before"
    )
    assert board.trees() == set()


def test_an_agent_that_crashes_is_gone_back_from_before_its_time_is_up(
    fleet: Fleet, board: Board
) -> None:
    release = offered(fleet, board)
    stage(board, release)
    board.ask(ACTIVATE, release)
    began_s = board.readings.uptime_s()

    def sleep(seconds: float) -> None:
        board.readings.wait(seconds)
        board.service.crashed += 1

    record = board.run(sleep)
    assert "it ended by itself" in record.refused[0].reason
    assert board.readings.uptime_s() - began_s < BOUNDS.trial_s / 2


def test_a_board_that_restarts_again_and_again_is_taken_back(fleet: Fleet, board: Board) -> None:
    release = offered(fleet, board)
    stage(board, release)
    board.ask(ACTIVATE, release)

    class Off(BaseException):
        pass

    def sleep(_: float) -> None:
        raise Off

    for _ in range(BOUNDS.max_boots):
        with pytest.raises(Off):
            board.run(sleep)
        assert board.current == name_of(release)
        board.readings.reboot()
    record = board.run(sleep)
    assert (record.state, board.current) == (State.IDLE, "")
    assert "the board was started 4 times" in record.refused[0].reason


def test_what_was_refused_is_not_tried_again_before_the_attempt_is_raised(
    fleet: Fleet, board: Board
) -> None:
    release = offered(fleet, board)
    stage(board, release)
    board.ask(ACTIVATE, release)
    board.run()
    assert stage(board, release).state is State.IDLE
    assert stage(board, release, attempt=1).state is State.STAGED


# What is not believed.


def unsigned(fleet: Fleet, board: Board) -> Release:
    reader = fleet.package("0.2.0")
    board.hold(reader, fleet.repository.files)
    return release_of(reader)


def other_under_its_name(fleet: Fleet, board: Board) -> Release:
    offered(fleet, board)
    return unsigned_as(fleet, board, debs.small("0.2.0", b"evil = 1\n"))


def unsigned_as(fleet: Fleet, board: Board, data: bytes) -> Release:
    reader = fleet.package("0.2.0", data)
    board.hold(reader)
    return release_of(reader)


def for_another_platform(fleet: Fleet, board: Board) -> Release:
    return dataclasses.replace(offered(fleet, board), profile="python3.9-riscv64")


def under_another_name(fleet: Fleet, board: Board) -> Release:
    return dataclasses.replace(offered(fleet, board), name="edge-agent-dbg")


def older_than_the_package(fleet: Fleet, board: Board) -> Release:
    return offered(fleet, board, "0.0.9")


def package_of_another_version(fleet: Fleet, board: Board) -> Release:
    reader = fleet.package("0.2.0")
    lied = Lying(reader, debs.small("0.0.1"))
    return signed_lie(fleet, board, lied)


def package_that_leads_out(fleet: Fleet, board: Board) -> Release:
    members = debs.tree({"a.py": b"1"})
    out = debs.member(f"{SITE}/x", type=b"2", linkname="/etc/shadow")
    return signed_lie(fleet, board, Lying(fleet.package("0.2.0"), debs.deb([*members, out])))


def package_without_software(fleet: Fleet, board: Board) -> Release:
    data = debs.deb([debs.member("etc/passwd", b"x")])
    return signed_lie(fleet, board, Lying(fleet.package("0.2.0"), data))


class Lying:
    """A release whose package is `data`, which `edge-fleet publish` would not have taken."""

    def __init__(self, reader: Reader, data: bytes) -> None:
        self.where = reader.where
        m = Manifest.from_bytes(reader.read(MANIFEST_NAME, 1 << 20))
        entry = file_entry(m.files[1].path, data)
        self._held = {
            m.files[0].path: reader.read(m.files[0].path, 1 << 20),
            entry.path: data,
            MANIFEST_NAME: dataclasses.replace(m, files=(m.files[0], entry)).to_bytes(),
        }

    def names(self) -> tuple[str, ...]:
        return tuple(self._held)

    def read(self, path: str, max_bytes: int) -> bytes:
        return self._held[path]

    def pieces(self, entry: Any) -> Iterator[bytes]:
        return (bytes(piece) for _, piece in entry.cut(self._held[entry.path]))


def signed_lie(fleet: Fleet, board: Board, reader: Reader) -> Release:
    release = fleet.sign(reader)
    board.hold(reader, fleet.repository.files)
    return release


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (unsigned, "not in the signed metadata"),
        (other_under_its_name, "signed is"),
        (for_another_platform, "which this board is"),
        (under_another_name, "expected edge-agent"),
        (older_than_the_package, "installed here is 0.1.0"),
        (package_of_another_version, "its package is 0.0.1"),
        (package_that_leads_out, "is a link"),
        (package_without_software, "nothing in"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_release_that_is_not_to_be_believed_is_refused_and_nothing_stays(
    fleet: Fleet, board: Board, attack: Callable[[Fleet, Board], Release], said: str
) -> None:
    record = stage(board, attack(fleet, board))
    assert record.state is State.IDLE
    assert said in record.refused[0].reason
    assert board.trees() == set()
    assert board.current == ""
    assert not list(board.places.releases.glob(".incoming*"))
    assert not list(board.places.releases.glob(".new"))


def test_a_chunk_that_the_agent_has_changed_is_no_fault_of_the_release(
    fleet: Fleet, board: Board
) -> None:
    release = offered(fleet, board)
    for path in (board.places.state / "agent/chunks").glob("*/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    record = stage(board, release)
    assert record.refused == ()
    assert "digest" in record.problem


def test_metadata_older_than_what_the_helper_has_seen_is_not_followed(
    fleet: Fleet, board: Board
) -> None:
    old = dict(fleet.repository.files)
    stage(board, offered(fleet, board))
    reader = fleet.package("0.3.0")
    release = fleet.sign(reader)
    board.hold(reader)
    # A compromised agent hands over what its folder held long ago.
    shutil.rmtree(board.places.state / "trust")
    board.follow(old)
    record = stage(board, release)
    assert record.refused == ()
    assert "rolled back" in record.problem


def test_a_revoked_release_is_not_installed_whatever_the_agent_says(
    fleet: Fleet, board: Board
) -> None:
    release = offered(fleet, board)
    del fleet.repository.targets.targets[release.file]
    fleet.repository.publish()
    board.follow(fleet.repository.files)
    assert "not in the signed metadata" in stage(board, release).refused[0].reason


def a_link(path: Path) -> None:
    path.symlink_to("/etc/shadow")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def too_large(path: Path) -> None:
    path.write_bytes(b" " * (1 << 20))


def no_json(path: Path) -> None:
    path.write_bytes(b"\x00\xff")


def another_action(path: Path) -> None:
    path.write_bytes(b'{"format": 1, "action": "shell", "token": "ab"}')


def a_version_with_a_path(path: Path) -> None:
    text = {"version": "../../etc", "manifest_sha256": "ab" * 32, "token": "ab", "format": 1}
    path.write_text(json.dumps({**text, "action": "activate"}))


@pytest.mark.parametrize(
    "leave",
    [a_link, a_pipe, too_large, no_json, another_action, a_version_with_a_path, a_folder],
    ids=lambda leave: leave.__name__,
)
def test_a_request_that_is_none_is_removed_and_does_nothing(
    board: Board, leave: Callable[[Path], None]
) -> None:
    folder = board.places.state / "upgrade"
    folder.mkdir()
    leave(folder / "request.json")
    record = board.run()
    assert record == Record()
    assert leave is a_folder or not os.path.lexists(folder / "request.json")


def test_a_request_folder_that_is_a_link_is_not_followed(board: Board, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "request.json").write_text("precious")
    (board.places.state / "upgrade").symlink_to(elsewhere)
    assert board.run() == Record()
    assert (elsewhere / "request.json").read_text() == "precious"


@pytest.mark.parametrize("what", ["agent/manifests", "agent/chunks", "trust"])
def test_what_the_agent_hands_over_is_never_read_through_a_link(
    fleet: Fleet, board: Board, tmp_path: Path, what: str
) -> None:
    release = offered(fleet, board)
    folder = board.places.state / what
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    record = stage(board, release)
    assert record.refused == ()
    assert "is a link" in record.problem


def test_only_the_candidate_itself_can_be_started_or_confirmed(fleet: Fleet, board: Board) -> None:
    release, other = offered(fleet, board), offered(fleet, board, "0.3.0")
    board.ask(ACTIVATE, release)
    assert board.run().problem == "this release is not unpacked"
    stage(board, release)
    board.ask(ACTIVATE, other)
    board.run()
    assert board.current == ""
    board.ask(ACTIVATE, release)

    def sleep(seconds: float) -> None:
        board.readings.wait(seconds)
        board.ask(CONFIRM, other)

    assert board.run(sleep).refused[0].manifest_sha256 == release.manifest.sha256


def test_a_board_that_was_never_enrolled_installs_nothing(fleet: Fleet, board: Board) -> None:
    release = offered(fleet, board)
    board.places.root.unlink()
    assert "only a board that was enrolled" in stage(board, release).problem


def test_a_disk_without_room_is_a_problem_and_no_refusal(
    fleet: Fleet, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = offered(fleet, board)
    usage = shutil.disk_usage(board.places.state)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        record = stage(board, release)
        assert record.refused == ()
        assert "the disk lacks" in record.problem
    assert stage(board, release).state is State.STAGED


# Power cuts.

CALLS = ("replace", "rename", "symlink", "unlink")


class Cut(BaseException):
    """The power goes before a call that changes the disk."""


def cut_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The power goes before the disk is changed for the `number`th time, from 1; 0: never."""
    count = 0
    for name in CALLS:
        real = getattr(os, name)

        def call(*args: Any, _real: Any = real, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                raise Cut
            return _real(*args, **more)

        monkeypatch.setattr(os, name, call)


@pytest.mark.slow
@pytest.mark.parametrize("well", [True, False], ids=["healthy", "not healthy"])
def test_a_power_cut_at_any_change_of_the_disk_ends_in_the_old_agent_or_the_new_one(
    tmp_path: Path, fleet: Fleet, well: bool
) -> None:
    """Cut once, at every single change, then let the board go on as it would."""
    done = False
    number = 0
    ends: dict[str, int] = {}
    template = Board(tmp_path / "template", fleet)
    release = offered(fleet, template)
    while not done:
        number += 1
        prefix = tmp_path / f"board-{number}"
        shutil.copytree(tmp_path / "template", prefix, symlinks=True)
        board = Board.__new__(Board)
        board.__dict__ |= {"places": type(template.places).under(prefix)}
        board.service, board.readings = type(template.service)(), type(template.readings)()
        done = not one_life(board, release, number, well=well)
        name = name_of(release)
        record = board.record
        assert record.state is State.IDLE, number
        assert board.current == record.current, number
        assert board.current in ("", name), number
        assert board.current == "" or name in board.trees(), number
        assert not board.places.open.exists(), number
        ends[board.current] = ends.get(board.current, 0) + 1
        shutil.rmtree(prefix)
    assert number > 20, number
    assert set(ends) == ({name_of(release)} if well else {""})


def one_life(board: Board, release: Release, number: int, *, well: bool) -> bool:
    """An update with a cut; the agent asks again as long as its answer is missing."""
    sleep = healthy(board, release) if well else None
    was_cut = False
    with pytest.MonkeyPatch.context() as patched:
        cut_before(patched, number)
        for _ in range(12):
            try:
                record = board.record
                if record.refusal(release.manifest.sha256, 0) and record.state is State.IDLE:
                    break
                if record.current == name_of(release) and record.state is State.IDLE:
                    break
                if record.state is State.IDLE:
                    board.ask(STAGE, release)
                elif record.state is State.STAGED:
                    board.ask(ACTIVATE, release)
                board.helper(sleep).run()
            except Cut:
                was_cut = True
                patched.undo()
                board.readings.reboot()
    board.helper(sleep).run()
    return was_cut


# The journal.


def test_the_record_survives_being_written_and_read() -> None:
    record = Record(
        State.TRIAL, "a", "b", Candidate("1.0.0", "ab" * 32, 2), (), "cd", "", True, True,
        "boot", 1.5, 2,
    )  # fmt: skip
    assert records.from_bytes(records.to_bytes(record), "j") == record
    for data in (b"", b"{}", b"[]", records.to_bytes(record).replace(b'"trial"', b'"idle"')):
        with pytest.raises(DeviceError):
            records.from_bytes(data, "j")


def test_a_lost_journal_keeps_the_agent_that_is_current(fleet: Fleet, board: Board) -> None:
    release = offered(fleet, board)
    stage(board, release)
    board.ask(ACTIVATE, release)
    board.run(healthy(board, release))
    board.places.journal.write_bytes(b"spoiled")
    board.run()
    assert (board.current, board.record.current) == (name_of(release), name_of(release))
    assert board.trees() == {name_of(release)}


def test_advance_says_what_the_table_says() -> None:
    record, actions = advance(Record(), Asked(Candidate("1.0.0", "ab" * 32)))
    assert (record.state, actions) == (State.STAGING, (Action.STAGE,))
