"""Topic names: built, taken apart, never with a wildcard that somebody smuggled in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.messages.topics import DELIVERY, Topics

TOPICS = Topics()
DIGEST = "ab" * 32


def test_the_names_are_those_of_the_documentation() -> None:
    assert TOPICS.device("pi-1", "desired") == "edge/v1/device/pi-1/desired"
    assert TOPICS.infer("pi-1", "r7") == "edge/v1/device/pi-1/infer/r7"
    assert TOPICS.infer_result("pi-1", "r7") == "edge/v1/device/pi-1/infer/r7/result"
    assert TOPICS.metadata("demo-1.0.0.json") == "edge/v1/repo/metadata/demo-1.0.0.json"
    assert TOPICS.chunk(DIGEST) == f"edge/v1/repo/chunk/{DIGEST}"


def test_a_plus_subscribes_to_all() -> None:
    assert TOPICS.device("+", "reported") == "edge/v1/device/+/reported"
    assert TOPICS.infer("pi-1") == "edge/v1/device/pi-1/infer/+"
    assert TOPICS.metadata("+") == "edge/v1/repo/metadata/+"


def test_what_was_built_is_taken_apart() -> None:
    assert TOPICS.device_of(TOPICS.device("pi-1", "command/result")) == ("pi-1", "command/result")
    assert TOPICS.request_of(TOPICS.infer("pi-1", "r_7")) == "r_7"
    assert TOPICS.chunk_of(TOPICS.chunk(DIGEST)) == DIGEST


@pytest.mark.parametrize(
    "topic",
    [
        "", "edge/v1/device", "edge/v1/device/", "edge/v1/device/pi-1", "edge/v1/device/+/online",
        "edge/v2/device/pi-1/online", "edge/v1/device/a b/online", "x/edge/v1/device/pi-1/online",
        "edge/v1/repo/metadata/x",
    ],
)  # fmt: skip
def test_any_other_topic_is_no_device(topic: str) -> None:
    assert TOPICS.device_of(topic) is None
    assert TOPICS.request_of(topic) is None


@pytest.mark.parametrize("what", ["infer", "infer/", "infer/a/b", "infer/r/result", "infer/ä"])
def test_only_one_level_below_infer_is_a_request(what: str) -> None:
    assert TOPICS.request_of(f"edge/v1/device/pi-1/{what}") is None


@pytest.mark.parametrize("digest", ["", "AB" * 32, DIGEST[:-1], DIGEST + "\n", DIGEST + "/x"])
def test_only_a_digest_names_a_chunk(digest: str) -> None:
    assert TOPICS.chunk_of(f"edge/v1/repo/chunk/{digest}") is None


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "a//b", "a/+", "#", "a b", "a\0", "x" * 65])
def test_a_prefix_has_no_wildcards_and_no_empty_levels(prefix: str) -> None:
    with pytest.raises(InputError, match="topic prefix"):
        Topics(prefix)


def test_a_prefix_may_be_one_level_or_several() -> None:
    assert Topics("a").device("d", "online") == "a/device/d/online"
    assert Topics("$aws/rules/x").chunk_of(f"$aws/rules/x/repo/chunk/{DIGEST}") == DIGEST


@pytest.mark.parametrize("device", ["", "#", "a/b", "a b", "-a", "x" * 65, "a\n", "é"])
def test_a_device_id_is_one_plain_level(device: str) -> None:
    with pytest.raises(InputError, match="device id"):
        TOPICS.device(device, "online")


@pytest.mark.parametrize("request_id", ["", "#", "a/b", "a+", "x" * 65])
def test_a_request_is_one_plain_level(request_id: str) -> None:
    for build in (TOPICS.infer, TOPICS.infer_result):
        with pytest.raises(InputError, match="request"):
            build("pi-1", request_id)


@pytest.mark.parametrize("file", ["", "#", "a/b", "a+b", "../x", "x" * 321])
def test_a_metadata_file_is_one_plain_level(file: str) -> None:
    with pytest.raises(InputError, match="metadata file"):
        TOPICS.metadata(file)


def test_state_is_retained_and_what_happened_once_is_not() -> None:
    retained = {name for name, delivery in DELIVERY.items() if delivery.retain}
    assert retained == {"desired", "reported", "online", "metadata", "chunk"}
    assert {delivery.qos for delivery in DELIVERY.values()} == {1}


def test_the_documentation_names_every_kind_of_topic() -> None:
    page = Path(__file__).parents[2] / "docs" / "topics.md"
    text = page.read_text()
    assert [name for name in DELIVERY if not re.search(rf"\b{name.split('/')[0]}\b", text)] == []
