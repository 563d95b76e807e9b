"""Trees of the agent's software: whole or not there, and never started where they should not be."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from edge_runtime.agent.upgrade import choice
from edge_runtime.agent.upgrade.choice import CURRENT, MARK, tree, version_key
from edge_runtime.agent.upgrade.places import tree_name
from edge_runtime.agent.upgrade.releases import Releases
from edge_runtime.bundle import durable
from edge_runtime.bundle.agent_package import own_platform
from edge_runtime.bundle.deb import Entry
from edge_runtime.errors import DeviceError, UntrustedError

DIGEST = "ab" * 32
ME = os.getuid()


def mark(version: str = "0.2.0", **changed: Any) -> dict[str, Any]:
    return {
        "version": version,
        "manifest_sha256": DIGEST,
        "platform": own_platform(),
        **changed,
    }


def entries(*files: tuple[str, bytes]) -> Iterator[tuple[Entry, IO[bytes] | None]]:
    for path, data in files:
        yield Entry(path, False, path.startswith("bin"), len(data)), io.BytesIO(data)


class Board:
    """A package's tree of one version, and a folder of releases."""

    def __init__(self, folder: Path, installed: str = "0.1.0") -> None:
        self.factory = folder / "factory"
        (self.factory / f"edge_runtime-{installed}.dist-info").mkdir(parents=True)
        self.releases = Releases(folder / "releases")
        self.releases.prepare()

    def put(self, version: str = "0.2.0", **changed: Any) -> str:
        name = tree_name(version, DIGEST)
        self.releases.put(name, entries(("a.py", b"a = 1\n")), mark(version, **changed))
        return name

    def started(self) -> Path:
        return Path(tree(str(self.factory), str(self.releases.folder), ME))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_the_package_s_tree_is_started_until_another_is_current(board: Board) -> None:
    assert board.started() == board.factory
    name = board.put()
    assert board.started() == board.factory
    board.releases.flip(name)
    assert board.started() == board.releases.folder / name
    board.releases.flip("")
    assert board.started() == board.factory


@pytest.mark.parametrize(
    "changed",
    [
        {"platform": "python3.9-riscv64"},
        {"platform": None},
        {"version": "0.0.9"},
        {"version": "0.1.0-rc.1"},
        {"version": "none"},
        {"version": None},
    ],
)
def test_a_tree_that_is_older_or_for_another_system_is_not_started(
    board: Board, changed: dict[str, Any]
) -> None:
    board.releases.flip(board.put())
    assert board.started() != board.factory
    (board.releases.folder / board.releases.current / MARK).write_text(json.dumps(mark() | changed))
    assert board.started() == board.factory


def spoil_mark(folder: Path) -> None:
    (folder / MARK).write_bytes(b"{")


def no_mark(folder: Path) -> None:
    (folder / MARK).unlink()


def list_as_mark(folder: Path) -> None:
    (folder / MARK).write_bytes(b"[]")


def linked_mark(folder: Path) -> None:
    (folder / MARK).rename(folder / "elsewhere")
    (folder / MARK).symlink_to("elsewhere")


def written_by_all(folder: Path) -> None:
    folder.chmod(0o777)


def mark_written_by_group(folder: Path) -> None:
    (folder / MARK).chmod(0o664)


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_mark,
        no_mark,
        list_as_mark,
        linked_mark,
        written_by_all,
        mark_written_by_group,
        gone,
        a_file,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_spoiled_tree_is_not_started(board: Board, spoil: Any) -> None:
    name = board.put()
    board.releases.flip(name)
    spoil(board.releases.folder / name)
    assert board.started() == board.factory


@pytest.mark.parametrize("aim", ["/tmp", "../factory", "..", ".", "x", "0.2.0-" + "a" * 12 + "/.."])
def test_a_link_that_leads_elsewhere_is_not_followed(board: Board, aim: str) -> None:
    board.put()
    (board.releases.folder / CURRENT).symlink_to(aim)
    assert board.started() == board.factory
    assert board.releases.current == ""


def test_another_user_s_tree_is_not_started(board: Board) -> None:
    board.releases.flip(board.put())
    found = tree(str(board.factory), str(board.releases.folder), ME + 1)
    assert found == str(board.factory)


def test_a_package_without_a_version_starts_itself(board: Board) -> None:
    board.releases.flip(board.put())
    shutil.rmtree(next(board.factory.glob("*.dist-info")))
    assert board.started() == board.factory


def test_versions_stand_in_their_order() -> None:
    ordered = ["0.9.0", "0.10.0-rc.1", "0.10.0rc2", "0.10.0", "1.0.0a1", "1.0.0+deb12"]
    assert sorted(sorted(ordered), key=version_key) == ordered
    for text in ("", "x", "1" * 300):
        with pytest.raises(ValueError, match="version"):
            version_key(text)


def test_a_tree_that_cannot_be_finished_leaves_nothing_and_the_next_try_works(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tree_name("0.2.0", DIGEST)

    def broken() -> Iterator[tuple[Entry, IO[bytes] | None]]:
        yield from entries(("a.py", b"1"))
        raise UntrustedError("p.deb: is damaged")

    with pytest.raises(UntrustedError):
        board.releases.put(name, broken(), mark())
    assert not board.releases.is_whole(name)
    for what in ("replace", "sync_folder"):
        with monkeypatch.context() as patched:

            def fail(*_: object) -> None:
                raise OSError(28, "No space left on device")

            patched.setattr(durable, what, fail)
            with pytest.raises(DeviceError, match="No space left"):
                board.releases.put(name, entries(("a.py", b"1")), mark())
    board.releases.prepare()
    board.put()
    assert sorted(p.name for p in (board.releases.folder / name).iterdir()) == [
        MARK,
        "__pycache__",
        "a.py",
    ]


def test_bytecode_is_made_and_names_the_place_where_it_will_stand(board: Board) -> None:
    folder = board.releases.folder / board.put()
    (compiled,) = (folder / "__pycache__").iterdir()
    assert str(folder / "a.py").encode() in compiled.read_bytes()


def test_files_that_are_the_same_are_linked_and_others_written(board: Board) -> None:
    big = os.urandom(700_000)
    (board.factory / "same.so").write_bytes(big)
    (board.factory / "end.so").write_bytes(big[:-1] + bytes([big[-1] ^ 1]))
    (board.factory / "mode.so").write_bytes(big)
    (board.factory / "mode.so").chmod(0o755)
    (board.factory / "link.so").symlink_to("same.so")
    names = ("same.so", "end.so", "mode.so", "link.so", "new.so")
    for name in names[:2]:
        (board.factory / name).chmod(0o644)
    tree_folder = board.releases.folder / tree_name("0.2.0", DIGEST)
    board.releases.put(
        tree_folder.name, entries(*((name, big) for name in names)), mark(), like=[board.factory]
    )
    assert all((tree_folder / name).read_bytes() == big for name in names)
    shared = [n for n in names if (tree_folder / n).samefile(board.factory / names[0])]
    assert shared == ["same.so"]
    shutil.rmtree(tree_folder)
    assert (board.factory / "same.so").read_bytes() == big


def test_pruning_keeps_the_current_tree_and_what_it_is_told(board: Board) -> None:
    first, second, third = (board.put(f"0.{n}.0") for n in (2, 3, 4))
    board.releases.flip(first)
    board.releases.prune([second])
    assert board.releases.is_whole(first)
    assert board.releases.is_whole(second)
    assert not (board.releases.folder / third).exists()


def test_the_rule_needs_nothing_of_ours() -> None:
    """The launcher loads it by its path, before it knows where our software is."""
    source = Path(choice.__file__).read_text()
    assert "import edge_runtime" not in source
    assert "from edge_runtime" not in source
