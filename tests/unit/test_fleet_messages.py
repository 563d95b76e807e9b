"""What fleet and device say to each other: every message reads what it writes, and its limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.files import Chunk, FileEntry
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from edge_runtime.errors import IncompatibleError, UntrustedError
from edge_runtime.messages.fleet import (
    MAX_MESSAGE_BYTES,
    MAX_REQUEST_BYTES,
    Desired,
    Event,
    InferRequest,
    InferResult,
    Online,
    Release,
    Reported,
    Telemetry,
)
from edge_runtime.messages.topics import Topics
from tests.fakes.messages import FLEET_MESSAGES, RELEASE, REPORTED, TELEMETRY

EVERY = pytest.mark.parametrize(
    ("message", "data"),
    FLEET_MESSAGES,
    ids=[type(message).__name__ for message, _ in FLEET_MESSAGES],
)


def changed(data: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(data), **fields}).encode()


@EVERY
def test_a_message_reads_what_it_writes(message: Any, data: bytes) -> None:
    assert type(message).from_bytes(data) == message


@EVERY
def test_unknown_fields_pass(message: Any, data: bytes) -> None:
    assert type(message).from_bytes(changed(data, later=[{}])) == message


@EVERY
def test_another_format_is_incompatible(message: Any, data: bytes) -> None:
    with pytest.raises(IncompatibleError, match="format 2, this software reads 1"):
        type(message).from_bytes(changed(data, format=2))


@EVERY
def test_a_message_that_is_too_large_is_not_parsed(message: Any, data: bytes) -> None:
    limit = MAX_REQUEST_BYTES if "Infer" in type(message).__name__ else MAX_MESSAGE_BYTES
    type(message).from_bytes(data + b" " * (limit - len(data)))
    with pytest.raises(UntrustedError, match=f"at most {limit} are accepted"):
        type(message).from_bytes(data + b" " * (limit + 1 - len(data)))


@EVERY
@pytest.mark.parametrize("bad", [b"", b"null", b"[]", b'"x"', b"\xff", b"{"])
def test_a_message_is_an_object(message: Any, data: bytes, bad: bytes) -> None:
    with pytest.raises(UntrustedError):
        type(message).from_bytes(bad)


def test_a_release_refers_to_its_bundle_by_the_manifest_digest() -> None:
    assert RELEASE.ref.manifest_sha256 == RELEASE.manifest.sha256
    assert RELEASE.file == "demo@1.0.0@generic-x86_64.json"


def test_a_release_of_any_version_has_a_topic() -> None:
    release = Release("demo", "1.0.0-rc.1+b.7", "p", 1, RELEASE.manifest)
    assert Topics().metadata(release.file).endswith("/demo@1.0.0-rc.1_b.7@p.json")
    version = f"{'9' * 9}.{'9' * 9}.{'9' * 9}-{'a' * 64}+{'b' * 64}"
    longest = Release("n" * 64, version, "p" * 64, 1, RELEASE.manifest)
    assert Release.from_bytes(longest.to_bytes()) == longest
    assert Topics().metadata(longest.file).endswith(f"@{'p' * 64}.json")


@pytest.mark.parametrize(
    "manifest",
    [
        file_entry("model.onnx", b"x"),
        file_entry(MANIFEST_NAME, b""),
        FileEntry(
            MANIFEST_NAME,
            MAX_MANIFEST_BYTES + 16,
            "ab" * 32,
            (Chunk("cd" * 32, (MAX_MANIFEST_BYTES + 16) // 16),) * 16,
        ),
    ],
    ids=["another file", "empty", "too large"],
)
def test_a_release_names_a_manifest_of_a_sane_size(manifest: FileEntry) -> None:
    data = Release("demo", "1.0.0", "p", 1, manifest).to_bytes()
    with pytest.raises(UntrustedError, match=r"manifest must be manifest\.json of 1\.\.1048576"):
        Release.from_bytes(data)


def test_a_release_with_the_largest_manifest_fits_a_message() -> None:
    smallest = 16 << 10
    chunks = (Chunk("cd" * 32, smallest),) * (MAX_MANIFEST_BYTES // smallest)
    entry = FileEntry(MANIFEST_NAME, MAX_MANIFEST_BYTES, "ab" * 32, chunks)
    data = Desired(2**53, Release("n" * 64, "1.0.0", "p" * 64, 2**53, entry), 9).to_bytes()
    assert Desired.from_bytes(data).release is not None
    assert len(data) < 8 << 10


def test_no_release_means_that_no_bundle_is_wanted() -> None:
    assert Desired.from_bytes(Desired(1, None).to_bytes()) == Desired(1, None, 0)
    assert Desired.from_bytes(b'{"revision":1,"release":null}') == Desired(1, None, 0)


@pytest.mark.parametrize(
    ("of", "data", "says"),
    [
        (Desired, b"{}", "desired: revision is missing"),
        (Desired, b'{"revision":-1}', "revision is -1"),
        (Desired, b'{"format":1,"revision":1}', "desired: release is missing, expected an object"),
        (Desired, b'{"revision":1,"release":[]}', "release must be an object"),
        (Desired, b'{"revision":1,"release":{}}', "desired.release: manifest is missing"),
        (Online, b'{"online":1}', "online must be true or false"),
        (Event, b'{"boot_id":"b","sequence":1}', "event: time_s is missing"),
        (InferRequest, b'{"inputs":"one"}', "inputs must be a list"),
        (InferRequest, b'{"inputs":' + b"[" + b'"",' * 64 + b'""]}', "inputs has 65 entries"),
        (InferResult, b'{"results":[1]}', r"results\[0\]: expected an object"),
        (Release, changed(RELEASE.to_bytes(), name="a/b"), "name is 'a/b'"),
        (Release, changed(RELEASE.to_bytes(), version="1"), "version is '1'"),
    ],
)
def test_a_wrong_field_is_named(of: Any, data: bytes, says: str) -> None:
    with pytest.raises(UntrustedError, match=says):
        of.from_bytes(data)


def test_an_input_is_whatever_the_task_takes() -> None:
    inputs = ["a text", ["two", "texts"], {"temperature": 21.5}]
    assert InferRequest.from_bytes(json.dumps({"inputs": inputs}).encode()).inputs == tuple(inputs)


def test_a_gauge_is_a_number() -> None:
    data = next(data for message, data in FLEET_MESSAGES if isinstance(message, Telemetry))
    assert Telemetry.from_bytes(data).gauges == TELEMETRY.gauges
    with pytest.raises(UntrustedError, match=r"telemetry\.gauges: cpu must be a number"):
        Telemetry.from_bytes(changed(data, gauges={"cpu": "hot"}))


def test_what_a_device_does_not_report_has_defaults() -> None:
    least = Reported.from_bytes(b'{"revision":0,"state":"idle"}')
    assert (least.active, least.previous, least.progress, least.refused) == (None, None, None, ())
    assert least.boot_id == ""
    assert REPORTED.refused[0].attempt == 1
