"""Publishing: chunks once, the release last, and nothing believed that the broker did not keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.errors import InputError, TransferError, UntrustedError
from edge_runtime.fleet import connection as module
from edge_runtime.fleet.publish import Publication, publish
from edge_runtime.fleet.repository import read_catalog, read_release
from edge_runtime.link.memory import MemoryBroker
from tests.fakes.bundles import BOARDS, noise, write_bundle
from tests.fakes.fleet import Bundle, bundle, for_boards
from tests.fakes.operators import TOPICS, StrictBroker, keep, operator

BOTH = for_boards("1.0.0", {file: noise(150_000, i) for i, (_, _, file) in
                            enumerate(BOARDS.values())})  # fmt: skip
KEY = ("demo", "1.0.0", "generic-x86_64")
METADATA = TOPICS.metadata("demo@1.0.0@generic-x86_64.json")


def put(broker: MemoryBroker, made: Bundle, *, force: bool = False) -> Publication:
    with operator(broker) as connection:
        return publish(connection, made, force=force)


@pytest.fixture(scope="module")
def first() -> Bundle:
    return bundle("1.0.0")


@pytest.fixture(scope="module")
def second() -> Bundle:
    return bundle("2.0.0")


def kept(broker: MemoryBroker) -> dict[str, bytes]:
    found = {TOPICS.chunk_of(topic): message.payload for topic, message in broker.retained.items()}
    return {digest: payload for digest, payload in found.items() if digest is not None}


def test_a_bundle_is_on_the_broker_whole(first: Bundle) -> None:
    broker = MemoryBroker()
    made = put(broker, first)
    assert kept(broker) == first.chunks
    assert made.release == first.release
    assert not made.again
    assert made.sent_chunks == len(first.chunks)
    assert made.sent_bytes == sum(map(len, first.chunks.values()))
    assert (made.skipped_chunks, made.skipped_bytes) == (0, 0)
    with operator(broker) as connection:
        assert read_release(connection, *KEY) == first.release


def test_publishing_again_sends_nothing(first: Bundle) -> None:
    broker = MemoryBroker()
    put(broker, first)
    made = put(broker, first)
    assert made.again
    assert (made.sent_chunks, made.sent_bytes) == (0, 0)
    assert made.skipped_chunks == len(first.chunks)


def test_publishing_again_mends_what_the_broker_lost_or_spoiled(first: Bundle) -> None:
    broker = MemoryBroker()
    put(broker, first)
    lost, spoiled = list(first.chunks)[2:4]
    del broker.retained[TOPICS.chunk(lost)]
    keep(broker, TOPICS.chunk(spoiled), b"other")
    made = put(broker, first)
    assert made.again
    assert made.sent_chunks == 2
    assert kept(broker) == first.chunks


def test_a_new_head_on_an_old_backbone_sends_only_what_differs(
    first: Bundle, second: Bundle
) -> None:
    broker = MemoryBroker()
    put(broker, first)
    made = put(broker, second)
    new = set(second.chunks) - set(first.chunks)
    assert made.sent_chunks == len(new) < len(second.chunks) / 2
    assert made.sent_bytes == sum(len(second.chunks[digest]) for digest in new)
    assert made.sent_bytes + made.skipped_bytes == sum(map(len, second.chunks.values()))
    assert kept(broker) == first.chunks | second.chunks


def test_chunks_of_a_release_whose_manifest_is_lost_are_not_relied_upon(
    first: Bundle, second: Bundle
) -> None:
    broker = MemoryBroker()
    put(broker, first)
    for topic in [topic for topic in broker.retained if TOPICS.chunk_of(topic)]:
        del broker.retained[topic]
    assert put(broker, second).skipped_chunks == 0


def test_garbage_among_the_releases_keeps_nobody_from_publishing(
    first: Bundle, second: Bundle
) -> None:
    broker = MemoryBroker()
    put(broker, first)
    keep(broker, TOPICS.metadata("garbage@1.0.0@p.json"), b"\xff\x00")
    assert put(broker, second).skipped_chunks > 0


def test_another_bundle_under_the_same_key_is_refused_without_force(
    first: Bundle,
) -> None:
    broker = MemoryBroker()
    put(broker, first)
    before = dict(broker.retained)
    other = bundle("1.0.0", backbone=7)
    with pytest.raises(InputError, match="holds another bundle under this name, version and") as e:
        put(broker, other)
    assert "raise the version, or use --force" in str(e.value)
    assert first.digest[:12] in str(e.value)
    assert broker.retained == before

    made = put(broker, other, force=True)
    assert not made.again
    assert made.skipped_chunks == 0
    with operator(broker) as connection:
        assert read_release(connection, *KEY) == other.release


def test_one_version_is_published_for_two_profiles_side_by_side(
    first: Bundle, tmp_path: Path
) -> None:
    broker = MemoryBroker()
    put(broker, first)
    folder, _ = write_bundle(tmp_path, profile="raspberry-pi-5")
    with operator(broker) as connection:
        made = publish(connection, FolderReader(folder))
        assert not made.again
        assert publish(connection, FolderReader(folder)).again
        assert read_release(connection, *KEY) == first.release
        assert read_release(connection, "demo", "1.0.0", "raspberry-pi-5") == made.release
        profiles = [release.profile for release in read_catalog(connection).releases]
    assert profiles == ["generic-x86_64", "raspberry-pi-5"]


def test_something_unreadable_under_the_name_is_replaced_only_with_force(first: Bundle) -> None:
    broker = MemoryBroker()
    keep(broker, METADATA, b"garbage")
    with pytest.raises(InputError, match=r"something unreadable .*use --force to replace it"):
        put(broker, first)
    put(broker, first, force=True)
    with operator(broker) as connection:
        assert read_catalog(connection).unreadable == ()


def test_force_sends_every_chunk_again(first: Bundle) -> None:
    broker = MemoryBroker()
    put(broker, first)
    made = put(broker, first, force=True)
    assert made.again
    assert made.sent_chunks == len(first.chunks)


@pytest.mark.parametrize(
    ("forbidden", "says"),
    [
        (TOPICS.prefix + "/repo/chunk/+", "acknowledged chunk .* but does not keep it"),
        (TOPICS.prefix + "/repo/metadata/+", "it but keeps nothing .* the right to publish"),
        (TOPICS.prefix + "/#", "acknowledged chunk .* but does not keep it"),
    ],
)
def test_a_broker_that_forbids_without_a_word_is_found_out(
    forbidden: str, says: str, first: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    broker = StrictBroker(forbidden)
    with pytest.raises(TransferError, match=says):
        put(broker, first)
    assert METADATA not in broker.retained


def test_a_release_that_somebody_else_protects_is_not_said_to_be_replaced(first: Bundle) -> None:
    broker = StrictBroker(METADATA)
    other = bundle("1.0.0", backbone=7)
    keep(broker, METADATA, other.release.to_bytes())
    with pytest.raises(TransferError, match=r"keeps something else .* the right to publish"):
        put(broker, first, force=True)


def test_progress_begins_at_nothing_and_ends_with_all(first: Bundle, second: Bundle) -> None:
    broker = MemoryBroker()
    put(broker, first)
    seen: list[tuple[int, int]] = []
    with operator(broker) as connection:
        made = publish(connection, second, on_progress=lambda *now: seen.append(now))
    assert seen[0] == (0, made.sent_bytes)
    assert seen[-1] == (made.sent_bytes, made.sent_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_tampered_bundle_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    folder, _ = write_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(b"\0" * 200_000)
    broker = MemoryBroker()
    with operator(broker) as connection, pytest.raises(UntrustedError, match=r"model\.onnx"):
        publish(connection, FolderReader(folder))
    assert broker.retained == {}


def test_a_manifest_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    folder, _ = write_bundle(tmp_path)
    broker = MemoryBroker()

    class Changing(FolderReader):
        def read(self, path: str, max_bytes: int) -> bytes:
            data = super().read(path, max_bytes)
            if path == "manifest.json":
                write_bundle(folder, version="1.0.1")
            return data

    with operator(broker) as connection, pytest.raises(InputError, match="changed while"):
        publish(connection, Changing(folder))
    assert broker.retained == {}


def test_figures_for_scripts_are_complete(first: Bundle) -> None:
    assert put(MemoryBroker(), first).as_json() == {
        "name": "demo",
        "version": "1.0.0",
        "profile": "generic-x86_64",
        "profiles": ["generic-x86_64"],
        "size_bytes": first.manifest.size_bytes,
        "manifest_sha256": first.digest,
        "again": False,
        "sent_chunks": len(first.chunks),
        "sent_bytes": sum(map(len, first.chunks.values())),
        "skipped_chunks": 0,
        "skipped_bytes": 0,
        "deltas": 0,
        "delta_bytes": 0,
    }


# A bundle for several boards.


def test_a_bundle_for_two_boards_has_a_release_for_each() -> None:
    broker = MemoryBroker()
    made = put(broker, BOTH)
    assert [release.profile for release in made.releases] == ["generic-x86_64", "raspberry-pi-5"]
    assert made.release == made.releases[0]
    assert {release.ref for release in made.releases} == {BOTH.release.ref}
    for release in made.releases:
        assert release == BOTH.for_board(release.profile).release
        with operator(broker) as connection:
            assert read_release(connection, "demo", "1.0.0", release.profile) == release
    pc_bytes, pi_bytes = (release.size_bytes for release in made.releases)
    assert pc_bytes + pi_bytes > BOTH.manifest.size_bytes > max(pc_bytes, pi_bytes)
    assert kept(broker) == BOTH.chunks
    again = put(broker, BOTH)
    assert (again.again, again.sent_chunks) == (True, 0)
    value = again.as_json()
    assert value["profiles"] == ["generic-x86_64", "raspberry-pi-5"]
    assert value["size_bytes"] == BOTH.manifest.size_bytes


def test_a_bundle_for_two_boards_takes_the_place_of_no_other(first: Bundle) -> None:
    """Nor of that of the second board, and then nothing is sent at all."""
    broker = MemoryBroker()
    before = put(broker, bundle("1.0.0", profile="raspberry-pi-5"))
    there = dict(broker.retained)
    with pytest.raises(InputError, match=r"for raspberry-pi-5: .* another bundle under this name"):
        put(broker, BOTH)
    assert broker.retained == there
    made = put(broker, BOTH, force=True)
    assert made.releases[1] != before.release
    with operator(broker) as connection:
        found = read_release(connection, "demo", "1.0.0", "raspberry-pi-5")
    assert found == made.releases[1]


def test_after_a_cut_the_second_board_s_release_follows() -> None:
    broker = MemoryBroker()
    made = put(broker, BOTH)
    second = TOPICS.metadata(made.releases[1].file)
    del broker.retained[second]
    again = put(broker, BOTH)
    assert (again.again, again.sent_chunks) == (False, 0)
    assert broker.retained[second].payload == made.releases[1].to_bytes()
