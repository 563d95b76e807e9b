"""The notary's decision: sources in order, and what is here already when there are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.agent.notary import Kept, Timed, decide
from edge_runtime.bundle.files import Chunk, FileEntry, sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.errors import MetadataError, TransferError, UntrustedError
from edge_runtime.messages.fleet import Release
from tests.fakes.signed import SignedRepository

MANIFEST = b"a manifest that is signed"
ENTRY = FileEntry(
    MANIFEST_NAME,
    len(MANIFEST),
    sha256_hex(MANIFEST),
    (Chunk(sha256_hex(MANIFEST), len(MANIFEST)),),
)
RELEASE = Release("demo", "1.0.0", "board", 1, ENTRY)


class Place:
    """Files as they stood when it was made."""

    def __init__(self, repository: SignedRepository) -> None:
        self.files = dict(repository.files)

    def read(self, name: str, max_bytes: int) -> bytes | None:
        return self.files.get(name)


class Away:
    """A place that cannot be reached."""

    def read(self, name: str, max_bytes: int) -> bytes | None:
        raise TransferError(f"{name}: nobody answers")


@pytest.fixture
def repository() -> SignedRepository:
    return SignedRepository()


@pytest.fixture
def root(repository: SignedRepository) -> bytes:
    return repository.files["1.root.json"]


def sign(repository: SignedRepository) -> None:
    repository.add(RELEASE.file, MANIFEST)
    repository.publish()


def test_the_next_source_vouches_where_the_first_is_away_or_behind(
    tmp_path: Path, repository: SignedRepository, root: bytes
) -> None:
    behind = Place(repository)
    sign(repository)
    newest = Place(repository)
    for number, first in enumerate((Away(), behind)):
        trusted = decide(
            RELEASE,
            tmp_path / str(number),
            root,
            [("first", lambda first=first: first), ("second", lambda: newest)],  # type: ignore[misc]
        )
        assert trusted.timestamp_version == 2


@pytest.mark.parametrize("kind", ["away", "older"])
def test_metadata_that_was_seen_vouches_where_no_source_can_be_followed(
    tmp_path: Path, repository: SignedRepository, root: bytes, kind: str
) -> None:
    older = Place(repository)
    sign(repository)
    decide(RELEASE, tmp_path, root, [("all", lambda: Place(repository))])
    found = Away() if kind == "away" else older
    assert decide(RELEASE, tmp_path, root, [("one", lambda: found)]).timestamp_version == 2


def test_what_was_never_seen_is_not_vouched_for_offline(
    tmp_path: Path, repository: SignedRepository, root: bytes
) -> None:
    with pytest.raises(TransferError, match=r"stick: 2\.root\.json: nobody answers"):
        decide(RELEASE, tmp_path, root, [("stick", Away)])


def test_the_gravest_of_several_reasons_is_told(
    tmp_path: Path, repository: SignedRepository, root: bytes
) -> None:
    unsigned = Place(repository)
    spoiled = Place(repository)
    spoiled.files["timestamp.json"] = b"{}"
    with pytest.raises(UntrustedError, match=r"third: release demo==1\.0\.0 for board: not in"):
        decide(
            RELEASE,
            tmp_path,
            root,
            [("first", Away), ("second", lambda: spoiled), ("third", lambda: unsigned)],
        )
    with pytest.raises(MetadataError, match=r"second: timestamp\.json"):
        decide(RELEASE, tmp_path / "new", root, [("first", Away), ("second", lambda: spoiled)])


def test_a_source_whose_time_is_up_gives_way(
    tmp_path: Path, repository: SignedRepository, root: bytes
) -> None:
    sign(repository)
    slow = Timed(Place(repository), -1.0)
    with pytest.raises(TransferError, match="for one source"):
        slow.read("timestamp.json", 100)
    decide(RELEASE, tmp_path, root, [("slow", lambda: slow), ("quick", lambda: Place(repository))])


def test_kept_metadata_has_no_newer_root_and_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_bytes(b"x")
    (tmp_path / "timestamp.json").write_bytes(b"abc")
    kept = Kept(tmp_path)
    assert kept.read("2.root.json", 10) is None
    assert kept.read("timestamp.json", 1) == b"ab"
    assert kept.read("../timestamp.json", 10) is None
    assert kept.read("7.targets.json", 10) is None


def test_a_notary_whose_supervisor_is_gone_does_nothing(tmp_path: Path) -> None:
    question = (
        '{"control": 0, "folder": "f", "root": "r", "release": {}, "sources": [], "ca": null, '
        '"budget_s": 1.0, "supervisor": 1}'
    )
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime.agent.notary", question],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (1, "", [])
