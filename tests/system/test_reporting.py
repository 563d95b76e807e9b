"""What a device says of itself on a real broker: kept messages, the last will, telemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.fleet import Online, Reported, Telemetry
from edge_runtime.telemetry import Histogram
from edge_runtime.telemetry.board import temperatures
from edge_runtime.telemetry.probes import process_usage
from tests.fakes.agents import (
    DEVICE,
    TOPICS,
    agent,
    operator,
    texts_request,
    wait_for,
)
from tests.fakes.brokers import BrokerProcess, mosquitto
from tests.fakes.proxy import TcpProxy
from tests.fakes.tiny import tiny_folder, variant_json

INFER = "/v2/models/tiny/infer"
SETTINGS = "[telemetry]\ninterval_s = 0.5\n[update]\ntrial_s = 0.2\n"


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with mosquitto() as running:
        yield running


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "bundle", [variant_json("ort-int8", "model-int8.onnx")])


def kept(broker: BrokerProcess) -> dict[str, bytes]:
    """What a newcomer finds of the device on the broker."""
    found: dict[str, bytes] = {}

    def hear(message: Message) -> None:
        if message.retain:
            found[message.topic.rpartition("/")[2]] = message.payload

    link = connector(BrokerConfig.parse(broker.url))("newcomer", hear)
    link.subscribe([f"{TOPICS.prefix}/device/{DEVICE}/#"])
    link.start()
    try:
        wait_for("what is kept", lambda: {"online", "reported"} <= set(found), 10)
    finally:
        link.close()
    return found


def test_telemetry_says_all_that_an_operator_asks(
    tmp_path: Path, broker: BrokerProcess, bundle: Path
) -> None:
    with (
        operator(broker.url) as op,
        agent(tmp_path, broker=broker.url, bundle=bundle, settings=SETTINGS) as running,
    ):
        for _ in range(10):
            assert running.call("POST", INFER, texts_request("mail", "game"))[0] == 200
        assert running.call("POST", INFER, {"inputs": []})[0] == 400
        assert op.ask("one", "mail").results
        found: Telemetry = wait_for(
            "every request is counted",
            lambda: next((t for t in list(op.telemetry) if t.requests >= 11), None),
        )
        wait_for("a second sample", lambda: op.telemetry[-1].sequence > found.sequence)
        last = op.telemetry[-1]
        reported = op.reported
    # Requests that were wrong never reached the engine.
    assert (last.requests, last.errors, last.dropped) == (11, 0, 0)
    latency = Histogram.from_json(last.latency)
    waits = Histogram.from_json(last.queue_wait)
    assert latency.count == waits.count == 11
    p50_ms, p99_ms = latency.percentile(50), latency.percentile(99)
    assert p50_ms is not None
    assert p99_ms is not None
    assert 0 < p50_ms <= p99_ms < 10_000
    for role in ("supervisor", "worker"):
        assert last.gauges[f"{role}_rss_bytes"] > 1 << 20
        assert 0 <= last.gauges[f"{role}_cpu_percent"] < 400
    zones = {name for name in last.gauges if name.startswith("temp_c_")}
    assert zones == {f"temp_c_{zone}" for zone in temperatures()}
    assert {"load_1m", "memory_available_bytes", "disk_free_bytes"} <= set(last.gauges)
    assert reported is not None
    assert last.bundle == reported.active
    assert last.bundle is not None
    assert last.accelerator == reported.accelerator
    assert last.accelerator is not None
    assert (last.accelerator.variant, last.accelerator.degraded) == ("ort-int8", "")
    assert "CPU" in last.accelerator.requested
    assert "CPU" in last.accelerator.actual
    assert abs(last.time_s - time.time()) < 60
    assert 0 < last.uptime_s < 60


def test_a_newcomer_finds_online_and_reported_and_the_last_will_after_a_power_cut(
    tmp_path: Path, broker: BrokerProcess, bundle: Path
) -> None:
    with (
        operator(broker.url) as op,
        agent(tmp_path, broker=broker.url, bundle=bundle, settings=SETTINGS) as running,
    ):
        wait_for("it is idle", lambda: op.reported and op.reported.state == "idle")
        before = kept(broker)
        running.process.kill()
        wait_for("the last will", lambda: op.online is False, 20)
        after = kept(broker)
    online = Online.from_bytes(before["online"])
    assert online.online is True
    assert Online.from_bytes(after["online"]) == Online(False, online.boot_id)
    reported = Reported.from_bytes(before["reported"])
    assert (reported.boot_id, reported.trust) == (online.boot_id, "none")
    assert after["reported"] == before["reported"]


def test_a_broker_that_turns_it_away_is_not_hammered_and_found_again(
    tmp_path: Path, broker: BrokerProcess, bundle: Path
) -> None:
    with TcpProxy(broker.port) as proxy, operator(broker.url) as op:
        url = f"mqtt://127.0.0.1:{proxy.port}"
        with agent(tmp_path, broker=url, bundle=bundle, settings=SETTINGS) as running:
            wait_for("it is idle", lambda: op.reported and op.reported.state == "idle")
            proxy.refuse, accepted = True, proxy.accepted
            proxy.cut()
            wait_for("the last will", lambda: op.online is False, 20)
            time.sleep(3)
            # Full jitter under a ceiling of 1, 2, 4 s: 30 would be far out.
            assert 0 < proxy.accepted - accepted < 30
            assert running.log.count("broker unreachable") == 1
            seen = len(op.telemetry)
            proxy.refuse = False
            wait_for("it is back", lambda: op.online, 30)
            # What happened meanwhile was kept and comes now, in order and once.
            wait_for("telemetry of the outage", lambda: len(op.telemetry) >= seen + 4, 20)
            numbers = [t.sequence for t in op.telemetry]
            assert numbers == sorted(set(numbers))
            assert running.log.count("broker connected") == 2


def test_two_devices_that_share_an_id_throw_each_other_out_more_and_more_slowly(
    tmp_path: Path, broker: BrokerProcess, bundle: Path
) -> None:
    with (
        agent(tmp_path / "a", broker=broker.url, bundle=bundle, settings=SETTINGS) as one,
        agent(tmp_path / "b", broker=broker.url, bundle=bundle, settings=SETTINGS) as other,
    ):
        time.sleep(5)
        for running in (one, other):
            assert running.call("POST", INFER, texts_request("mail"))[0] == 200
            assert running.log.count("broker connected") < 30
            usage = process_usage(running.process.pid)
            assert usage is not None
            assert usage.cpu_s < 3
            assert "broker unreachable" in running.log
