"""Which deltas are published, and that they are worth it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from edge_runtime.bundle.delta import MAX_PIECE_CHUNKS, DeltaIndex, OldFiles, news, restore, split
from edge_runtime.bundle.files import MAX_CHUNK_BYTES, Chunk
from edge_runtime.errors import TransferError
from edge_runtime.fleet.deltas import Delta, Source, bases, delta
from tests.fakes import bundles
from tests.fakes.fleet import PROFILE, Bundle
from tests.unit.test_delta import stepped
from tests.unit.test_rebuild import NEW, OLD, source, version


def rebuilt(old: Bundle, new: Bundle, made: Delta) -> dict[str, bytes]:
    """Every chunk that the delta makes, by digest."""
    blobs = {chunk.sha256: data for chunk, data in made.blobs}
    index = DeltaIndex.from_bytes(b"".join(blobs[c.sha256] for c in made.ref.index.chunks))
    files = OldFiles(old.manifest, lambda chunk: old.chunks[chunk.sha256])
    chunks = news(old.manifest, new.manifest)
    out = {}
    for piece in index.pieces:
        differences = split(blobs[piece.blob.sha256], piece.count)
        for chunk, one in zip(chunks[piece.first :], differences, strict=False):
            base = files.range(one.file, one.offset, chunk.size_bytes)
            out[chunk.sha256] = restore(one.coded, base, chunk.size_bytes)
    return out


def test_a_delta_makes_the_chunks_of_the_new_bundle() -> None:
    made = delta(source(OLD), source(NEW), PROFILE.name)
    assert made is not None
    found = rebuilt(OLD, NEW, made)
    assert all(NEW.chunks[digest] == data for digest, data in found.items())
    coded = sum(len(data) for data in found.values())
    assert coded > 0.99 * made.plain_bytes
    blobs = sum(len(data) for _, data in made.blobs)
    assert made.wire_bytes == made.plain_bytes - coded + blobs


def test_no_piece_is_larger_than_a_chunk_or_makes_too_many() -> None:
    weights = bundles.noise(3_000_000, 13)
    up_by_one = weights.translate(bytes((n + 1) % 256 for n in range(256)))
    old = version("1.0.0", weights)
    new = version("1.1.0", stepped(weights[:900_000]) + up_by_one[900_000:])
    made = delta(source(old), source(new), PROFILE.name)
    assert made is not None
    assert all(len(data) <= MAX_CHUNK_BYTES for _, data in made.blobs)
    index = DeltaIndex.from_bytes(made.blobs[-1][1])
    assert max(piece.count for piece in index.pieces) == MAX_PIECE_CHUNKS
    assert max(piece.blob.size_bytes for piece in index.pieces) > 0.8 * MAX_CHUNK_BYTES


def test_a_chunk_that_gains_nothing_stays_out() -> None:
    fresh = bundles.noise(200_000, 77)
    new = version("1.1.0", fresh + stepped(OLD.files["model.onnx"])[200_000:])
    made = delta(source(OLD), source(new), PROFILE.name)
    assert made is not None
    found = rebuilt(OLD, new, made)
    inside = [c.sha256 for c in new.manifest.file("model.onnx").chunks[:2]]
    assert not set(inside) & set(found)
    assert found


@pytest.mark.parametrize("header", [b"", b"a longer header", bundles.noise(999, 5)])
def test_weights_that_a_header_moved_are_still_found(header: bytes) -> None:
    old = version("1.0.0", b"header" + OLD.files["model.onnx"])
    new = version("1.1.0", header + stepped(OLD.files["model.onnx"]))
    made = delta(source(old), source(new), PROFILE.name)
    assert made is not None
    assert made.wire_bytes < 0.3 * made.plain_bytes


def test_other_weights_are_not_worth_a_delta() -> None:
    other = version("1.1.0", bundles.noise(700_000, 12))
    assert delta(source(OLD), source(other), PROFILE.name) is None


def test_what_would_spare_less_than_a_round_trip_is_not_worth_it() -> None:
    model = OLD.files["model.onnx"]
    head = version("1.1.0", model[:-5000] + stepped(model[-5000:]))
    assert news(OLD.manifest, head.manifest)
    assert delta(source(OLD), source(head), PROFILE.name) is None


def test_the_same_content_needs_no_delta() -> None:
    assert delta(source(OLD), source(OLD), PROFILE.name) is None


def test_a_new_file_has_no_base_and_is_fetched() -> None:
    files = {"renamed.onnx": stepped(OLD.files["model.onnx"])}
    new = Bundle("1.1.0", {**OLD.files, **files})
    assert delta(source(OLD), source(new), PROFILE.name) is None


def test_the_newest_others_of_the_same_name_and_profile_are_bases() -> None:
    def release(number: str, **changed: str) -> Bundle:
        return Bundle(number, bundles.FILES, **changed)

    found = [release(f"1.{n}.0") for n in range(4)]
    strange = [release("1.9.0", name="other"), release("1.9.0", profile="raspberry-pi-5")]
    chosen = bases([one.release for one in [*found, *strange]], found[3].release)
    assert [one.version for one in chosen] == ["1.2.0", "1.1.0"]


def test_a_published_bundle_is_read_by_its_chunks_and_a_lost_one_is_told() -> None:
    def get(chunks: Iterable[Chunk]) -> Mapping[str, bytes]:
        return {c.sha256: OLD.chunks[c.sha256] for c in chunks if c.sha256 not in lost}

    lost: set[str] = set()
    published = Source.from_chunks(OLD.digest, OLD.manifest, get)
    entry = OLD.manifest.file("model.onnx")
    assert published.read(entry) == OLD.files["model.onnx"]
    lost.add(entry.chunks[0].sha256)
    with pytest.raises(TransferError, match=r"1 chunks of model\.onnx are lost"):
        published.read(entry)
