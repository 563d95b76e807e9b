"""Every repository outside the broker keeps the same promises: over http, https, in a folder."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.bundle.files import MAX_CHUNK_BYTES
from edge_runtime.errors import InputError, MetadataError, TransferError
from edge_runtime.link.address import NO_FILES, TlsFiles
from edge_runtime.link.pool import ChunkPool
from edge_runtime.link.repository import open_repository
from tests.fakes.web import WebServer, make_identity

WAIT_S = 15.0


class Lab:
    """A repository and its other side."""

    def __init__(self, url: str, files: TlsFiles = NO_FILES) -> None:
        self.repository = open_repository(url, files)

    def put(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def vanish(self) -> None:
        """The server, or the stick, is gone."""
        raise NotImplementedError

    def put_chunk(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.put(f"chunks/{digest[:2]}/{digest}", data)
        return digest


class FolderLab(Lab):
    def __init__(self, root: Path) -> None:
        self.root = root
        # Blanks and signs in the folder's name come percent-encoded in a URL.
        super().__init__(root.as_uri())
        self.put("metadata/timestamp.json", b"{}")
        self.put("chunks/00/.keep", b"")

    def put(self, path: str, data: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)

    def vanish(self) -> None:
        shutil.rmtree(self.root)


class WebLab(Lab):
    def __init__(self, server: WebServer, files: TlsFiles = NO_FILES) -> None:
        self.server = server
        super().__init__(f"{server.url}/some/edge/", files)

    def put(self, path: str, data: bytes) -> None:
        self.server.files[f"/some/edge/{path}"] = data

    def vanish(self) -> None:
        self.repository.rest()
        self.server.stop()


@pytest.fixture(params=["http", "https", "folder"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    if request.param == "folder":
        yield FolderLab(tmp_path / "a stick, 100%")
        return
    identity = make_identity(tmp_path) if request.param == "https" else None
    with WebServer(identity) as server:
        lab = WebLab(server, TlsFiles(ca=identity.ca) if identity else NO_FILES)
        yield lab
        lab.repository.close()


class Heard:
    """What a pool told; `settle` waits until it has told that much."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.chunks: list[tuple[str, bytes]] = []
        self.failures: list[tuple[str, str]] = []

    def on_chunk(self, sha256: str, data: bytes) -> None:
        with self._changed:
            self.chunks.append((sha256, data))
            self._changed.notify_all()

    def on_failed(self, sha256: str, reason: str) -> None:
        with self._changed:
            self.failures.append((sha256, reason))
            self._changed.notify_all()

    def settle(self, chunks: int = 0, failures: int = 0) -> None:
        def told() -> bool:
            return len(self.chunks) >= chunks and len(self.failures) >= failures

        with self._changed:
            assert self._changed.wait_for(told, WAIT_S), (self.chunks, self.failures)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def pool(lab: Lab, heard: Heard) -> Iterator[ChunkPool]:
    pool = ChunkPool(lab.repository, heard.on_chunk, heard.on_failed)
    yield pool
    pool.close()


def test_a_file_is_read_byte_for_byte(lab: Lab) -> None:
    data = bytes(range(256)) * 300
    lab.put("metadata/3.targets.json", data)
    assert lab.repository.read("3.targets.json", 1 << 20) == data


def test_an_empty_file_is_not_a_missing_one(lab: Lab) -> None:
    lab.put("metadata/empty.json", b"")
    assert lab.repository.read("empty.json", 100) == b""
    assert lab.repository.read("nothing.json", 100) is None


def test_the_last_byte_that_fits_is_read_and_one_more_is_refused(lab: Lab) -> None:
    lab.put("metadata/fits.json", bytes(5000))
    lab.put("metadata/large.json", bytes(5001))
    assert lab.repository.read("fits.json", 5000) == bytes(5000)
    with pytest.raises(MetadataError, match=r"large\.json.* more than 5000 bytes"):
        lab.repository.read("large.json", 5000)
    assert lab.repository.read("fits.json", 5000) == bytes(5000)


def test_a_name_is_taken_as_it_is_spelled(lab: Lab) -> None:
    for name in ("mood@1.0.0-rc.1@rpi4.json", "2.team%2Fa.json", "..json", "x" * 250):
        lab.put(f"metadata/{name}", name.encode())
        assert lab.repository.read(name, 320) == name.encode()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "...", "a/b", "../secret", "a b", "a\n", "a\0", "ä", "a?b", "a#b", "x" * 321],
)
def test_what_can_be_no_name_is_never_asked_for(lab: Lab, name: str) -> None:
    with pytest.raises(InputError, match="metadata file"):
        lab.repository.read(name, 100)
    assert not isinstance(lab, WebLab) or lab.server.requests == []


def test_a_chunk_is_had_by_its_digest_and_only_by_one(lab: Lab) -> None:
    digest = lab.put_chunk(b"weights")
    assert lab.repository.chunk(digest) == b"weights"
    assert lab.repository.chunk("ab" * 32) is None
    for name in ("../../etc/passwd", digest.upper(), digest[:-1], digest + "\n"):
        with pytest.raises(RuntimeError, match="not a digest"):
            lab.repository.chunk(name)


def test_nothing_larger_than_a_chunk_comes_as_one(lab: Lab) -> None:
    assert lab.repository.chunk(lab.put_chunk(bytes(MAX_CHUNK_BYTES))) == bytes(MAX_CHUNK_BYTES)
    with pytest.raises(MetadataError, match=f"more than {MAX_CHUNK_BYTES} bytes"):
        lab.repository.chunk(lab.put_chunk(bytes(MAX_CHUNK_BYTES + 1)))


def test_a_repository_that_is_gone_is_not_one_without_news(lab: Lab) -> None:
    lab.put("metadata/1.root.json", b"{}")
    assert lab.repository.read("1.root.json", 100) == b"{}"
    lab.vanish()
    with pytest.raises(TransferError):
        lab.repository.read("1.root.json", 100)
    with pytest.raises(TransferError):
        lab.repository.chunk("ab" * 32)


def test_a_closed_repository_is_not_asked_any_more(lab: Lab) -> None:
    lab.put("metadata/1.root.json", b"{}")
    lab.repository.close()
    with pytest.raises(TransferError, match="not asked any more"):
        lab.repository.read("1.root.json", 100)


def test_a_pool_brings_every_chunk_that_is_wanted(lab: Lab, pool: ChunkPool, heard: Heard) -> None:
    data = [number.to_bytes(2, "big") * 500 for number in range(250)]
    wanted = {lab.put_chunk(piece): piece for piece in data}
    pool.want(list(wanted))
    heard.settle(chunks=250)
    assert dict(heard.chunks) == wanted
    assert heard.failures == []
    assert pool.running <= 4


def test_what_is_wanted_again_comes_again(lab: Lab, pool: ChunkPool, heard: Heard) -> None:
    digest = lab.put_chunk(b"weights")
    pool.want([digest])
    heard.settle(chunks=1)
    pool.want([digest])
    heard.settle(chunks=2)
    assert heard.chunks == [(digest, b"weights")] * 2


def test_what_cannot_be_had_is_told_with_the_reason(
    lab: Lab, pool: ChunkPool, heard: Heard
) -> None:
    absent, spoiled = "ab" * 32, "cd" * 32
    lab.put(f"chunks/cd/{spoiled}", b"other bytes")
    pool.want([absent, spoiled])
    heard.settle(failures=2)
    where = lab.repository.address
    assert dict(heard.failures) == {
        absent: f"{where}: does not have it",
        spoiled: f"{where}: has other bytes under its name",
    }
    assert heard.chunks == []


def test_a_pool_outlives_a_repository_that_goes_away(
    lab: Lab, pool: ChunkPool, heard: Heard
) -> None:
    digest = lab.put_chunk(b"weights")
    pool.want([digest])
    heard.settle(chunks=1)
    lab.vanish()
    pool.want([digest, "ab" * 32])
    heard.settle(failures=2)
    assert {sha256 for sha256, _ in heard.failures} == {digest, "ab" * 32}


def test_a_closed_pool_fetches_nothing(lab: Lab, pool: ChunkPool, heard: Heard) -> None:
    digest = lab.put_chunk(b"weights")
    pool.close()
    pool.want([digest])
    assert pool.running == 0
    assert heard.chunks == []


def test_many_threads_may_ask_one_repository(lab: Lab) -> None:
    digests = [lab.put_chunk(bytes([number]) * 3000) for number in range(16)]
    found: list[bytes | None] = [None] * 16

    def ask(number: int) -> None:
        for _ in range(5):
            found[number] = lab.repository.chunk(digests[number])

    run_all([lambda n=n: ask(n) for n in range(16)])  # type: ignore[misc]
    assert found == [bytes([number]) * 3000 for number in range(16)]


def run_all(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
