"""docs/topics.md says what the code does: its table is DELIVERY, its examples are read."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.upgrade.host import KINDS as AGENT_KINDS
from edge_runtime.bundle.files import MAX_CHUNK_BYTES
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from edge_runtime.fields import MAX_DEPTH
from edge_runtime.fleet import connection
from edge_runtime.link.topics import matches
from edge_runtime.messages import fleet
from edge_runtime.messages.topics import DELIVERY, Topics
from edge_runtime.telemetry import Histogram
from edge_runtime.update import notices
from edge_runtime.update.lifecycle import State
from edge_runtime.update.policy import BROKER_QUEUE, Policy

PAGE = (Path(__file__).parents[2] / "docs" / "topics.md").read_text()
TOPICS = Topics()
NAMES: Mapping[str, Callable[[], str]] = {
    "infer": lambda: TOPICS.infer("d", "r"),
    "infer/result": lambda: TOPICS.infer_result("d", "r"),
    "metadata": lambda: TOPICS.metadata("n@v@p.json"),
    "chunk": lambda: TOPICS.chunk("s"),
    "fence": lambda: TOPICS.fence("t"),
}
SHORT = {
    "id": "d",
    "request": "r",
    "name": "n",
    "version": "v",
    "profile": "p",
    "sha256": "s",
    "token": "t",
}
MESSAGES: tuple[Any, ...] = (
    fleet.Desired, fleet.Reported, fleet.Online, fleet.Telemetry, fleet.Event,
    fleet.InferRequest, fleet.InferResult, fleet.Release,
)  # fmt: skip
PARTS: tuple[Any, ...] = (
    fleet.BundleRef, fleet.Accelerator, fleet.Refusal, fleet.Progress, fleet.DesiredAgent,
    fleet.ReportedAgent,
)  # fmt: skip
SAID_BY_SILENCE = {"keeps"}
"""Fields that are on the wire as the absence of another."""


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def example(kind: Any) -> dict[str, Any]:
    found = re.search(r"```json\n(.*?)```", section(kind.__name__), re.DOTALL)
    assert found, kind.__name__
    value = json.loads(found[1].replace("…64 hex digits…", "ab" * 32))
    assert isinstance(value, dict)
    return value


def test_the_table_of_the_page_is_the_table_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| `([^`]+)` \|[^|]+\| (\d) \| (yes|no) \|", PAGE, re.MULTILINE
    )
    assert {kind: (int(qos), kept == "yes") for kind, _, qos, kept in rows} == {
        kind: (how.qos, how.retain) for kind, how in DELIVERY.items()
    }
    for kind, topic, _, _ in rows:
        named = re.sub(r"<(\w+)>", lambda part: SHORT[part[1]], topic)
        assert named == NAMES.get(kind, lambda kind=kind: TOPICS.device("d", kind))(), kind


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_example_is_read_and_has_every_field(kind: Any) -> None:
    value = example(kind)
    parsed = kind.from_bytes(json.dumps(value).encode())
    fields = {field.name for field in dataclasses.fields(kind)} - SAID_BY_SILENCE
    assert set(value) == fields | {"format"}
    again = json.loads(parsed.to_bytes() if hasattr(parsed, "to_bytes") else fleet.to_bytes(parsed))
    assert again == value


@pytest.mark.parametrize("kind", [*MESSAGES, *PARTS], ids=lambda kind: kind.__name__)
def test_every_field_is_described(kind: Any) -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    names = {field.name for field in dataclasses.fields(kind)} - {"manifest_sha256"}
    names -= SAID_BY_SILENCE
    assert [name for name in sorted(names) if f"`{name}`" not in prose] == []


def test_the_example_histograms_are_histograms() -> None:
    value = example(fleet.Telemetry)
    for name in ("latency", "queue_wait"):
        assert Histogram.from_json(value[name]).as_json() == value[name]


def test_the_example_state_is_one() -> None:
    assert example(fleet.Reported)["state"] in {state.value for state in State}


def test_every_kind_of_event_is_named() -> None:
    text = section("Event")
    assert [kind for kind in notices.KINDS.values() if f"`{kind}`" not in text] == []
    assert [kind for kind in AGENT_KINDS.values() if f"`{kind}`" not in text] == []
    assert f"`{example(fleet.Event)['kind']}`" in text


@pytest.mark.parametrize(
    "number",
    [
        fleet.MAX_MESSAGE_BYTES, fleet.MAX_REQUEST_BYTES, MAX_CHUNK_BYTES, MAX_MANIFEST_BYTES,
        MAX_DEPTH, 64, 1 << 16, 2048,
    ],
)  # fmt: skip
def test_every_limit_is_on_the_page(number: int) -> None:
    assert re.search(rf"\b{number:,}\b", section("Limits"))


def test_the_numbers_in_the_prose_are_the_code_s() -> None:
    chunks = " ".join(section("Chunks").split())
    assert f"at most {Policy().window} chunks" in chunks
    assert f"{BROKER_QUEUE:,} messages" in chunks
    assert connection.QUIET_S == 3.0
    assert "three seconds of silence" in section("Reading what the broker keeps")


def rights() -> dict[str, list[tuple[str, str]]]:
    """(access, filter) of each user in the page's rules; patterns are those of a device."""
    block = re.search(r"```conf\n(pattern.*?)```", PAGE, re.DOTALL)
    assert block
    found: dict[str, list[tuple[str, str]]] = {"device": []}
    user = "device"
    for line in filter(None, block[1].splitlines()):
        word, *rest = line.split()
        if word == "user":
            user = rest[0]
            found[user] = []
        else:
            found["device" if word == "pattern" else user].append((rest[0], rest[1]))
    return found


def may(user: str, access: str, topic: str) -> bool:
    return any(
        access in granted and matches(topic_filter.replace("%u", "d1"), topic)
        for granted, topic_filter in rights()[user]
    )


def test_the_rules_of_the_page_let_each_do_its_work_and_no_more() -> None:
    written = ("online", "reported", "telemetry", "event")
    for what in written:
        assert may("device", "write", TOPICS.device("d1", what))
        assert not may("device", "write", TOPICS.device("d2", what))
        assert may("dashboard", "read", TOPICS.device("d1", what))
    for topic in (
        TOPICS.device("d1", "desired"), TOPICS.infer("d1", "r"), TOPICS.chunk("ab"),
    ):  # fmt: skip
        assert may("device", "read", topic)
        assert not may("device", "write", topic)
        assert not may("dashboard", "write", topic)
        assert may("operator", "write", topic)
    assert may("device", "write", TOPICS.infer_result("d1", "r"))
    assert not may("device", "read", TOPICS.device("d2", "desired"))
    for user in ("operator", "dashboard"):
        assert may(user, "write", TOPICS.fence("t"))
        assert may(user, "read", TOPICS.fence("t"))
