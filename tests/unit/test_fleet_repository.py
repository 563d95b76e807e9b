"""What is published, as the operator reads it: what is forged or broken hides nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edge_runtime.errors import TransferError, UntrustedError
from edge_runtime.fleet.repository import (
    WINDOW,
    fetch,
    fetch_manifest,
    intact,
    read_catalog,
    read_release,
)
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import Release
from tests.fakes.fleet import Bundle, bundle
from tests.fakes.operators import TOPICS, keep, operator

KEY = ("demo", "1.0.0", "generic-x86_64")


def put(broker: MemoryBroker, made: Bundle, release: Release | None = None) -> Release:
    release = release or made.release
    keep(broker, TOPICS.metadata(release.file), release.to_bytes())
    for digest, data in made.chunks.items():
        keep(broker, TOPICS.chunk(digest), data)
    return release


@pytest.fixture(scope="module")
def made() -> Bundle:
    return bundle("1.0.0")


def test_releases_are_listed_by_name_and_version(made: Bundle) -> None:
    broker = MemoryBroker()
    versions = ["1.10.0", "2.0.0", "1.9.0", "2.0.0-rc.1", "1.9.1"]
    for version in versions:
        put(broker, made, dataclasses.replace(made.release, version=version))
    put(broker, made, dataclasses.replace(made.release, name="another", version="3.0.0"))
    with operator(broker) as connection:
        found = read_catalog(connection)
    assert [f"{r.name} {r.version}" for r in found.releases] == [
        "another 3.0.0",
        *(f"demo {version}" for version in ("1.9.0", "1.9.1", "1.10.0", "2.0.0-rc.1", "2.0.0")),
    ]
    assert found.unreadable == ()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"garbage", "not valid JSON"),
        (b"{}", "is missing"),
        (b'{"format": 2}', "format 2"),
        (b"x" * 200_000, "200000 bytes"),
    ],
)
def test_a_broken_release_hides_no_other(payload: bytes, says: str, made: Bundle) -> None:
    broker = MemoryBroker()
    put(broker, made)
    keep(broker, TOPICS.metadata("broken@1.0.0@p.json"), payload)
    with operator(broker) as connection:
        found = read_catalog(connection)
        assert read_release(connection, *KEY) == made.release
    assert found.releases == (made.release,)
    ((file, reason),) = found.unreadable
    assert file == "broken@1.0.0@p.json"
    assert says in reason


def test_a_release_under_another_s_name_is_refused(made: Bundle) -> None:
    broker = MemoryBroker()
    forged = dataclasses.replace(made.release, version="6.6.6")
    keep(broker, TOPICS.metadata(made.release.file), forged.to_bytes())
    with operator(broker) as connection:
        with pytest.raises(
            UntrustedError, match=r"holds release demo==6\.6\.6 for generic-x86_64, not"
        ):
            read_release(connection, *KEY)
        found = read_catalog(connection)
    assert found.releases == ()
    assert "not its own" in found.unreadable[0][1]


@pytest.mark.parametrize("field", ["name", "version", "profile"])
def test_a_release_that_is_not_there_is_none(field: str, made: Bundle) -> None:
    broker = MemoryBroker()
    other: dict[str, Any] = {field: "9.0.0"}
    put(broker, made, dataclasses.replace(made.release, **other))
    with operator(broker) as connection:
        assert read_release(connection, *KEY) is None


@pytest.mark.parametrize("version", ["1.0.0", "1.0.0-rc.1", "1.0.0+build.5", "1.0.0-a+b"])
def test_a_release_has_a_topic_whatever_its_version(version: str, made: Bundle) -> None:
    release = dataclasses.replace(made.release, version=version)
    assert TOPICS.metadata(release.file).endswith(
        f"/demo@{version.replace('+', '_')}@generic-x86_64.json"
    )


def test_no_two_releases_share_a_topic(made: Bundle) -> None:
    one = dataclasses.replace(made.release, name="demo", version="1.0.0-2.0.0-1")
    other = dataclasses.replace(made.release, name="demo-1.0.0", version="2.0.0-1")
    assert one.file != other.file


def test_chunks_are_fetched_in_windows(made: Bundle) -> None:
    broker = MemoryBroker(queue_limit=WINDOW + 1)
    big = bundle("1.0.0", size=6_000_000)
    assert len(big.chunks) > 2 * WINDOW
    release = put(broker, big)
    with operator(broker) as connection:
        entries = (release.manifest, *big.manifest.files)
        chunks = [chunk for entry in entries for chunk in entry.chunks]
        assert fetch(connection, chunks) == big.chunks
        assert intact(connection, chunks) == set(big.chunks)
    assert broker.dropped == 0


def test_a_chunk_with_other_bytes_is_refused_and_not_intact(made: Bundle) -> None:
    broker = MemoryBroker()
    release = put(broker, made)
    first = release.manifest.chunks[0]
    keep(broker, TOPICS.chunk(first.sha256), b"other")
    with operator(broker) as connection:
        with pytest.raises(UntrustedError, match="broker memory:1883"):
            fetch(connection, [first])
        assert intact(connection, [first]) == set()
        with pytest.raises(UntrustedError):
            fetch_manifest(connection, release)


def test_a_manifest_comes_back_whole_or_says_what_is_missing(made: Bundle) -> None:
    broker = MemoryBroker()
    release = put(broker, made)
    with operator(broker) as connection:
        assert fetch_manifest(connection, release) == made.manifest
        del broker.retained[TOPICS.chunk(release.manifest.chunks[0].sha256)]
        with pytest.raises(TransferError, match=r"demo==1\.0\.0: broker memory:1883 lacks 1 chunk"):
            fetch_manifest(connection, release)


def test_a_catalog_for_scripts_names_what_could_not_be_read(made: Bundle) -> None:
    broker = MemoryBroker()
    put(broker, made)
    keep(broker, TOPICS.metadata("x.json"), b"")
    keep(broker, TOPICS.metadata("y.json"), b"[")
    with operator(broker) as connection:
        value: Any = read_catalog(connection).as_json()
    (release,) = value["releases"]
    assert release == {
        "name": "demo",
        "version": "1.0.0",
        "profile": "generic-x86_64",
        "size_bytes": made.manifest.size_bytes,
        "manifest_sha256": made.digest,
    }
    assert [broken["file"] for broken in value["unreadable"]] == ["y.json"]
