"""What anybody may publish to a device: whatever ran before runs on, and one sentence says why."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.config import MAX_PAYLOAD_BYTES
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.fleet import (
    MAX_REQUEST_BYTES,
    Desired,
    InferRequest,
    InferResult,
    Release,
    to_bytes,
)
from edge_runtime.telemetry.probes import process_usage
from tests.fakes.agents import (
    DEVICE,
    TOPICS,
    Agent,
    Operator,
    agent,
    operator,
    texts_request,
    wait_for,
)
from tests.fakes.brokers import mosquitto
from tests.fakes.tiny import LABELS, tiny_folder, variant_json

INFER = "/v2/models/tiny/infer"
SETTINGS = "[update]\ntrial_s = 0.3\nchunk_timeout_s = 0.2\nchunk_tries = 2\nwait_s = 60.0\n"
MAX_SENTENCE = 700


@dataclasses.dataclass
class Place:
    """A broker, a device that serves, and the release that it serves."""

    broker: str
    agent: Agent
    op: Operator
    release: Release

    def put(self, topic: str, payload: bytes, **how: Any) -> None:
        self.op.link.publish(topic, payload, **{"wait_s": 10} | how)
        self.op.link.flush(30)

    def told(self, kind: str) -> list[str]:
        return [event["text"] for event in list(self.op.events) if event["kind"] == kind]

    def desire_bytes(self, payload: bytes, kind: str = "desired-invalid") -> str:
        """Put `payload` where the desired state stands; what the device says about it."""
        before = len(self.told(kind))
        self.put(TOPICS.device(DEVICE, "desired"), payload)
        wait_for(f"an event {kind}", lambda: len(self.told(kind)) > before, 20)
        return self.told(kind)[-1]

    def good(self) -> None:
        """The desired state is the good one again, and nothing is under way."""
        revision = self.op.reported.revision if self.op.reported else 0
        self.put(TOPICS.device(DEVICE, "desired"), Desired(revision + 1, self.release).to_bytes())
        wait_for("it is idle", self.idle, 20)

    def idle(self) -> bool:
        r = self.op.reported
        return r is not None and (r.state, r.active) == ("idle", self.release.ref)

    def check(self) -> None:
        """It serves, and never stopped to."""
        assert self.agent.call("POST", INFER, texts_request("mail"))[0] == 200
        assert self.op.ask(f"check{time.monotonic_ns()}", "mail").results
        assert self.agent.log.count("worker started") == 1
        assert "Traceback" not in self.agent.log


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    bundle = tiny_folder(folder / "bundle", [variant_json("ort-int8", "model-int8.onnx")])
    with mosquitto() as broker, operator(broker.url) as op:
        release = op.publish(bundle)
        early = to_bytes(InferRequest(("mail",)))
        op.link.publish(TOPICS.infer(DEVICE, "early"), early, retain=True)
        op.link.flush(10)
        with agent(folder, broker=broker.url, bundle=bundle, settings=SETTINGS) as running:
            made = Place(broker.url, running, op, release)
            wait_for("it is idle", made.idle)
            yield made


def sentence(text: str, says: str) -> None:
    assert says in text
    assert "\n" not in text
    assert len(text) < MAX_SENTENCE


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"null", "expected an object, found nothing"),
        (b"[]", "expected an object, found a list"),
        (b"[" * 50_000, "nested deeper"),
        (b'{"revision":1,"revision":2}', "same key twice"),
        (b'{"format":2,"revision":1}', "format 2, this software reads 1"),
        (b"{}", "revision is missing"),
        (b'{"revision":"two"}', "must be an integer, found 'two'"),
        (b'{"revision":true}', "must be an integer, found true"),
        (b'{"revision":1.5}', "must be an integer"),
        (b'{"revision":-1}', "revision is -1"),
        (b'{"revision":1e999}', "out of range"),
        (b'{"revision":' + b"9" * 400 + b"}", "an integer of 400 digits"),
        (b'{"revision":1,"release":null,"attempt":"x"}', "attempt must be an integer"),
        (b'{"format":1,"revision":1}', "release is missing, expected an object, or null"),
        (b'{"revision":1,"release":5}', "release must be an object"),
        (b'{"revision":1,"release":{}}', "manifest is missing"),
        (b" " * (129 << 10), "at most 131072 are accepted"),
    ],
)
def test_a_malformed_desired_state_is_told_and_ignored(
    place: Place, payload: bytes, says: str
) -> None:
    before = place.op.reported
    sentence(place.desire_bytes(payload), says)
    assert place.op.reported == before
    place.check()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "../../x"}, "name is '../../x'"),
        ({"version": "latest"}, "version is 'latest'"),
        ({"size_bytes": -5}, "size_bytes is -5"),
        ({"profile": None}, "profile"),
        ({"manifest": {"path": "../../etc/passwd"}}, "path '../../etc/passwd'"),
        ({"manifest": {"sha256": "A" * 64}}, "sha256"),
        ({"manifest": {"chunks": [["a" * 64, 1 << 30]]}}, "a chunk must be"),
        ({"manifest": {"chunks": [], "size_bytes": 0}}, "of 0"),
        ({"manifest": {"size_bytes": 1 << 40}}, "size_bytes"),
    ],
    ids=str,
)
def test_a_release_that_cannot_be_is_told_and_ignored(
    place: Place, fields: dict[str, Any], says: str
) -> None:
    value = json.loads(Desired(99, place.release).to_bytes())
    for key, changed in fields.items():
        part = value["release"]
        part[key] = part[key] | changed if isinstance(changed, dict) else changed
    sentence(place.desire_bytes(json.dumps(value).encode()), says)
    place.check()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (os.urandom(3000), "not valid JSON"),
        (b"[]", "expected an object"),
        (b"[" * 100_000, "nested deeper"),
        (b"{}", "format is missing"),
        (b"{" + b" " * ((1 << 20) - 2) + b"}", "format is missing"),
        (b'{"format":9}', "format 9"),
    ],
    ids=["noise", "list", "deep", "empty", "large", "format"],
)
def test_a_manifest_that_is_none_is_refused(place: Place, data: bytes, says: str) -> None:
    entry = file_entry("manifest.json", data)
    for chunk, piece in entry.cut(data):
        place.put(TOPICS.chunk(chunk.sha256), bytes(piece), retain=True)
    liar = Desired(99, Release("tiny", "9.9.9", "generic-x86_64", 5, entry))
    sentence(place.desire_bytes(liar.to_bytes(), "bundle-refused"), says)
    place.check()
    place.good()


def test_a_bundle_that_nobody_has_stalls_and_can_be_called_off(place: Place) -> None:
    chunks = (dataclasses.replace(place.release.manifest.chunks[0], sha256="c" * 64),)
    entry = dataclasses.replace(
        place.release.manifest,
        sha256="d" * 64,
        chunks=chunks,
        size_bytes=chunks[0].size_bytes,
    )
    ghost = dataclasses.replace(place.release, version="7.0.0", manifest=entry)
    sentence(place.desire_bytes(Desired(99, ghost).to_bytes(), "update-stalled"), "nothing came")
    place.check()
    place.good()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\x00\x01\x02", "not valid JSON"),
        (b"[1]", "expected an object"),
        (b"{}", "inputs is missing"),
        (b'{"inputs":"mail"}', "inputs must be a list"),
        (b'{"inputs":[1]}', "text: expected a string"),
        (b'{"inputs":[null]}', "text: expected a string"),
        (b'{"inputs":["\\ud800"]}', "not valid JSON"),
        (b'{"inputs":[]}', "0 entries"),
        (json.dumps({"inputs": ["x"] * 65}).encode(), "65 entries"),
        (json.dumps({"inputs": ["x" * 5000]}).encode(), "4096"),
        (json.dumps({"inputs": ["x" * 70_000]}).encode(), "at most 4096 are accepted"),
        (b'{"format":2,"inputs":["x"]}', "format 2"),
        (b" " * (MAX_REQUEST_BYTES + 1), f"at most {MAX_REQUEST_BYTES} are accepted"),
    ],
)
def test_a_malformed_request_is_answered_with_one_sentence(
    place: Place, payload: bytes, says: str
) -> None:
    answer = place.op.ask(f"bad{time.monotonic_ns()}", payload=payload)
    assert answer.results == ()
    sentence(answer.error, says)
    place.check()


@pytest.mark.parametrize("texts", [("",), ("\0\x01\x1b[31m",), ("ü" * 2000,), ("x" * 4096,) * 64])
def test_a_strange_text_is_still_a_text(place: Place, texts: tuple[str, ...]) -> None:
    answer = place.op.ask(f"odd{time.monotonic_ns()}", *texts)
    assert [result["label"] in LABELS for result in answer.results] == [True] * len(texts)


@pytest.mark.parametrize("name", ["bad.name", "two words", "ü", "x" * 65, "$SYS"])
def test_a_request_with_a_bad_name_is_told_so(place: Place, name: str) -> None:
    topic = f"{TOPICS.prefix}/device/{DEVICE}/infer/{name}"
    place.put(topic, to_bytes(InferRequest(("mail",))))
    answer: InferResult = wait_for("an answer", lambda: place.op.answers.get(name), 20)
    sentence(answer.error, "request name")


def test_a_request_that_was_retained_before_the_device_came_is_told_so(place: Place) -> None:
    answer: InferResult = wait_for("an answer", lambda: place.op.answers.get("early"), 20)
    sentence(answer.error, "must not be retained")


@pytest.fixture
def spy(place: Place) -> Iterator[list[Message]]:
    """Hears everything there is, and what is kept."""
    seen: list[Message] = []
    link = connector(BrokerConfig.parse(place.broker))("spy", seen.append)
    link.subscribe(["#"])
    link.start()
    link.wait_connected(10)
    yield seen
    link.close()


@pytest.mark.parametrize(
    "topic",
    [
        "device/other/desired",
        f"device/{DEVICE}/desired",
        f"device/{DEVICE}/reported",
        "device/other/infer/x",
        "repo/chunk/" + "a" * 64,
        "repo/metadata/tiny-1.0.0.json",
    ],
)
def test_no_response_topic_makes_a_device_steer_the_fleet(
    place: Place, spy: list[Message], topic: str
) -> None:
    name, where = f"steer{time.monotonic_ns()}", f"{TOPICS.prefix}/{topic}"
    place.put(TOPICS.infer(DEVICE, name), b'{"inputs":["mail"]}', response_topic=where)
    answer: InferResult = wait_for("an answer", lambda: place.op.answers.get(name), 20)
    sentence(answer.error, "is not allowed")
    place.check()
    assert [m for m in spy if m.topic == where and not m.retain and b"label" in m.payload] == []


def test_a_response_topic_elsewhere_gets_the_answer_with_its_correlation(
    place: Place, spy: list[Message]
) -> None:
    place.put(
        TOPICS.infer(DEVICE, "r7"),
        b'{"inputs":["mail"]}',
        response_topic="my/answers",
        correlation=b"\x00\xff7",
    )
    (answer,) = wait_for("an answer", lambda: [m for m in spy if m.topic == "my/answers"], 20)
    assert answer.correlation == b"\x00\xff7"
    assert InferResult.from_bytes(answer.payload).results


def test_messages_that_mean_nothing_are_passed_over(place: Place) -> None:
    before = place.agent.log
    for what in ("", "desire", "desired/x", "command", "infer", "infer/a/b", "infer/a/result"):
        place.put(f"{TOPICS.prefix}/device/{DEVICE}/{what}", b"\0" * 100)
    for topic in ("", "/repo/chunk/zz", "/repo/chunk/" + "a" * 64, "/device"):
        place.put(TOPICS.prefix + topic, b"\0" * 100)
    place.put(TOPICS.device(DEVICE, "desired"), b"")
    place.put(TOPICS.infer(DEVICE, "empty"), b"")
    place.check()
    assert place.agent.log == before


def test_payloads_beyond_every_bound_do_not_reach_the_device(place: Place) -> None:
    for size in (MAX_PAYLOAD_BYTES + 1, 6 << 20):
        place.put(TOPICS.infer(DEVICE, "giant"), b" " * size)
        place.put(TOPICS.device(DEVICE, "desired"), b" " * size)
    place.check()
    assert "giant" not in place.op.answers
    place.good()


def test_a_flood_of_requests_is_bounded_and_ends(place: Place) -> None:
    pid = place.agent.process.pid
    for number in range(1000):
        place.op.link.publish(
            TOPICS.infer(DEVICE, f"flood{number}"), b'{"inputs":["mail"]}', qos=0, wait_s=10
        )
    for _ in range(100):
        place.op.link.publish(TOPICS.infer(DEVICE, "large"), b"x" * (900 << 10), qos=0, wait_s=10)
        place.op.link.publish(TOPICS.device(DEVICE, "desired"), b"{" * (90 << 10), qos=0, wait_s=10)
    place.op.link.flush(60)
    place.check()
    usage = process_usage(pid)
    assert usage is not None
    assert usage.rss_bytes < 100 << 20
    place.good()


def test_a_giant_desired_state_on_mqtt_3_1_1_costs_the_connection_and_nothing_else(
    tmp_path: Path,
) -> None:
    bundle = tiny_folder(tmp_path / "bundle", [variant_json("ort-int8", "model-int8.onnx")])
    desired = TOPICS.device(DEVICE, "desired")
    with mosquitto() as broker, operator(broker.url) as op:
        config = dataclasses.replace(BrokerConfig.parse(broker.url), max_outbound_bytes=64 << 20)
        giant = connector(config)("giant", lambda _message: None)
        giant.start()
        giant.publish(desired, b" " * (5 * MAX_PAYLOAD_BYTES), retain=True)
        giant.flush(30)
        giant.close()
        settings = f'[broker]\nurl = "{broker.url}"\nversion = "3.1.1"\n'
        with agent(tmp_path, bundle=bundle, settings=settings) as running:
            wait_for("it says why", lambda: "broker sent a packet of" in running.log, 20)
            assert running.call("POST", INFER, texts_request("mail"))[0] == 200
            op.link.publish(desired, b"", retain=True)
            op.online = None
            wait_for("it is back", lambda: op.online and op.ask("back", "mail").results, 30)
