"""The agent as users meet it: real processes, real sockets, a real broker, the tiny bundle."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.agents import (
    Agent,
    Client,
    Operator,
    agent,
    operator,
    texts_request,
    wait_for,
)
from tests.fakes.brokers import mosquitto
from tests.fakes.tiny import LABELS, tiny_folder, variant_json

INFER = "/v2/models/tiny/infer"
QUICK = "[update]\nrestart_s = 0.1\ntrial_s = 0.5\n"
IDS = {"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [2, 9, 3]}
MASK = {"name": "attention_mask", "datatype": "INT64", "shape": [1, 3], "data": [1, 1, 1]}
TEXT = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["mail"]}


def tensors(rows: int, length: int) -> list[dict[str, Any]]:
    whole = {"shape": [rows, length], "data": [1] * (rows * length)}
    return [IDS | whole, MASK | whole]


def made(folder: Path, version: str = "1.0.0", **changed: Any) -> Path:
    variants = [variant_json("ort-int8", "model-int8.onnx")]
    return tiny_folder(folder / version, variants, version=version, **changed)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("device")
    settings = "[api]\nport = 0\nmax_body_bytes = 20000\n"
    with agent(folder, bundle=made(folder), settings=settings) as running:
        yield running


@pytest.fixture
def broker() -> Iterator[str]:
    with mosquitto() as running:
        yield running.url


@pytest.fixture
def op(broker: str) -> Iterator[Operator]:
    with operator(broker) as running:
        yield running


def outputs(answer: Any) -> dict[str, Any]:
    return {tensor["name"]: tensor for tensor in answer["outputs"]}


def test_a_text_is_classified(device: Agent) -> None:
    status, answer = device.call(
        "POST", INFER, texts_request("mail server", "a game") | {"id": "7"}
    )
    found = outputs(answer)
    assert status == 200
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "tiny", "1.0.0")
    assert found["label"]["shape"] == [2]
    assert set(found["label"]["data"]) <= set(LABELS)
    assert all(0 < score <= 1 for score in found["score"]["data"])
    assert found["scores"]["shape"] == found["labels"]["shape"] == [2, 2]
    assert found["truncated"]["data"] == [False, False]


def test_raw_tensors_get_the_model_s_own_outputs(device: Agent) -> None:
    status, answer = device.call("POST", INFER, {"inputs": [IDS, MASK]})
    assert status == 200
    assert outputs(answer)["logits"]["shape"] == [1, len(LABELS)]
    nested = {**IDS, "data": [[2, 9, 3]]}
    assert device.call("POST", INFER, {"inputs": [nested, MASK]}) == (200, answer)


def test_health_and_metadata_follow_the_protocol(device: Agent) -> None:
    assert device.call("GET", "/v2/health/live") == (200, {"live": True})
    assert device.call("GET", "/v2/health/ready")[0] == 200
    assert device.call("GET", "/v2")[1]["name"] == "edge-agent"
    assert device.call("GET", "/v2/models/tiny/ready") == (200, {"name": "tiny", "ready": True})
    status, model = device.call("GET", "/v2/models/tiny/versions/1.0.0")
    assert (status, model["versions"]) == (200, ["1.0.0"])
    assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 10_000, "nested deeper"),
        (b'{"inputs": [], "inputs": []}', "same key twice"),
        (b'{"inputs": [NaN]}', "NaN"),
        (b"[]", "expected an object"),
        (b"{}", "inputs is missing"),
        ({"inputs": []}, "0 entries"),
        ({"inputs": "text"}, "must be a list"),
        ({"inputs": [TEXT, TEXT]}, "share a name"),
        ({"inputs": [TEXT], "id": 5}, "id must be a string"),
        ({"inputs": [{**TEXT, "name": "txt"}]}, "'txt' is not known"),
        ({"inputs": [TEXT, IDS]}, "input text stands alone, found input_ids beside it"),
        ({"inputs": [TEXT, {**TEXT, "name": "zz"}]}, "inputs[1]: input 'zz' is not known"),
        ({"inputs": [{**TEXT, "datatype": "STRING"}]}, "expected one of BOOL"),
        ({"inputs": [{**TEXT, "datatype": "INT8"}]}, "must be of datatype BYTES"),
        ({"inputs": [{**TEXT, "shape": [2]}]}, "means 2 values, data holds 1"),
        ({"inputs": [{**TEXT, "shape": [1, 2]}]}, "shape [n]"),
        ({"inputs": [{**TEXT, "shape": [0], "data": []}]}, "0 of text"),
        ({"inputs": [{**TEXT, "shape": [-1]}]}, "must hold sizes"),
        ({"inputs": [{**TEXT, "data": [5]}]}, "data[0] must be a string, found 5"),
        ({"inputs": [{**IDS, "data": [2, 9, 4_000]}, MASK]}, "holds 4000, which is no token"),
        ({"inputs": [{**IDS, "data": [2, -9, 3]}, MASK]}, "holds -9, which is no token"),
        ({"inputs": [{**TEXT, "data": ["\ud800"]}]}, "not valid JSON"),
        ({"inputs": [{**TEXT, "shape": [65], "data": ["a"] * 65}]}, "expected"),
        ({"inputs": [{**TEXT, "data": ["x" * 5000]}]}, "4096"),
        ({"inputs": [TEXT], "outputs": [{"name": "labl"}]}, "'labl' is not known"),
        ({"inputs": [IDS]}, "attention_mask is missing"),
        ({"inputs": tensors(65, 1)}, "65 rows, at most 64 are answered at once"),
        ({"inputs": tensors(1, 129)}, "a sequence of 129, at most 128 are taken"),
        ({"inputs": [{**IDS, "datatype": "FP32"}, MASK]}, "expected int64, found float32"),
        ({"inputs": [{**IDS, "shape": [3]}, MASK]}, "shape"),
        ({"inputs": [{**IDS, "data": [1, 2]}, MASK]}, "means 3 values"),
        ({"inputs": [{**IDS, "data": [1, 2, 3.5]}, MASK]}, "INT64"),
        ({"inputs": [{**IDS, "data": [1, 2, 2**70]}, MASK]}, "INT64"),
        ({"inputs": [{**IDS, "data": [[1, 2], [3]]}, MASK]}, "nested unevenly"),
        ({"inputs": [{**IDS, "data": ["a", "b", "c"]}, MASK]}, "INT64"),
        ({"inputs": [{**IDS, "data": [1, 2, None]}, MASK]}, "INT64"),
    ],
)
def test_a_wrong_request_gets_400_and_one_sentence(device: Agent, body: Any, says: str) -> None:
    status, answer = device.call("POST", INFER, body)
    assert status == 400, answer
    assert list(answer) == ["error"]
    assert any(part in answer["error"] for part in says.split("|")), answer
    assert len(answer["error"]) < 700


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/", 404, "no such path: /; the API starts at /v2"),
        ("GET", "/v2/models/other", 404, "'other' is not served"),
        ("POST", "/v2/models/other/infer", 404, "'other' is not served"),
        ("POST", "/v2/models/tiny/versions/9.9.9/infer", 404, "'9.9.9'"),
        ("GET", INFER, 405, "expected POST"),
        ("DELETE", "/v2/models/tiny", 405, "expected GET"),
        ("BREW", "/v2", 405, "expected GET"),
    ],
)
def test_a_wrong_path_or_method_says_what_is_right(
    device: Agent, method: str, path: str, status: int, says: str
) -> None:
    found, answer = device.call(method, path, texts_request("a") if method == "POST" else None)
    assert (found, says in answer["error"]) == (status, True), answer


def test_a_body_above_the_limit_gets_413(device: Agent) -> None:
    status, answer = device.call("POST", INFER, b" " * 20001)
    assert status == 413
    assert "at most 20000" in answer["error"]


def test_after_all_that_it_still_serves_without_a_restart(device: Agent) -> None:
    assert device.call("POST", INFER, texts_request("mail"))[0] == 200
    assert device.log.count("worker started") == 1
    assert "Traceback" not in device.log


def test_before_any_bundle_a_client_is_told_so_and_the_agent_waits(
    tmp_path: Path, broker: str, op: Operator
) -> None:
    op.desire(None)
    with agent(tmp_path, broker=broker) as running:
        wait_for("online", lambda: op.online)
        assert running.call("GET", "/v2/health/live") == (200, {"live": True})
        told = 503, {"error": "no bundle serves on this device now"}
        assert running.call("GET", "/v2/health/ready") == told
        assert running.call("POST", INFER, b" " * 300_000) == told
        assert op.reported is None or op.reported.active is None
        assert "no bundle serves" in op.ask("early", "text").error


def test_from_start_to_bundle_and_back_no_client_is_refused(
    tmp_path: Path, broker: str, op: Operator
) -> None:
    release = op.publish(made(tmp_path))
    with agent(tmp_path, broker=broker) as running:
        wait_for("the door is answered", lambda: "started" in running.log)
        statuses: set[int] = set()
        failures: list[str] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                try:
                    statuses.add(running.call("POST", INFER, texts_request("mail"))[0])
                except (OSError, ValueError) as reason:
                    failures.append(repr(reason))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        wait_for("live", lambda: running.call("GET", "/v2/health/live")[0] == 200)
        for thread in threads:
            thread.start()
        for _ in range(3):
            op.deploy(release)
            wait_for("it serves", running.ready)
            op.desire(None)
            wait_for("it does not", lambda: not running.ready())
        done.set()
        for thread in threads:
            thread.join(20)
        assert (statuses, failures) == ({200, 503}, [])
        assert running.call("GET", "/v2/health/live") == (200, {"live": True})


def test_a_killed_worker_is_replaced_and_clients_wait_in_between(tmp_path: Path) -> None:
    with agent(tmp_path, bundle=made(tmp_path), settings=QUICK) as running:
        (before,) = running.workers()
        os.kill(before, signal.SIGKILL)
        wait_for("the worker is gone", lambda: before not in running.workers())
        assert running.call("POST", INFER, texts_request("mail"))[0] == 200
        (after,) = running.workers()
        assert after != before
        assert "ended by signal SIGKILL" in running.log


def test_a_hanging_worker_is_ended_and_replaced(tmp_path: Path) -> None:
    settings = QUICK + "[worker]\nhang_s = 5.0\n"
    with agent(tmp_path, bundle=made(tmp_path), settings=settings) as running:
        (before,) = running.workers()
        os.kill(before, signal.SIGSTOP)
        wait_for("the hang is noticed", lambda: "the worker hangs" in running.log, 20)
        assert running.call("POST", INFER, texts_request("mail"))[0] == 200


def test_sigterm_ends_it_in_order_and_says_goodbye(
    tmp_path: Path, broker: str, op: Operator
) -> None:
    with agent(tmp_path, broker=broker, bundle=made(tmp_path)) as running:
        wait_for("online", lambda: op.online)
        (worker,) = running.workers()
        begin_s = time.monotonic()
        assert running.end() == 0
        assert time.monotonic() - begin_s < 5
        wait_for("offline", lambda: op.online is False)
        assert not Path(f"/proc/{worker}").exists()
        assert "Traceback" not in running.log


def test_a_worker_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    with agent(tmp_path, bundle=made(tmp_path)) as running:
        (worker,) = running.workers()
        running.process.kill()
        wait_for("the worker has ended", lambda: not Path(f"/proc/{worker}").exists(), 10)


def test_it_serves_again_after_a_power_cut_without_being_told(tmp_path: Path) -> None:
    with agent(tmp_path, bundle=made(tmp_path), settings=QUICK) as running:
        running.process.kill()
    with agent(tmp_path, settings=QUICK + '[broker]\nurl = "mqtt://127.0.0.1:9"\n') as running:
        wait_for("serves", running.ready)


def test_a_bundle_that_cannot_be_installed_takes_nothing_from_one_on_trial(
    tmp_path: Path,
) -> None:
    journal = tmp_path / "state" / "journal.json"
    settings = "[update]\nrestart_s = 0.1\ntrial_s = 600.0\nmax_boots = 9\n"
    for version in ("1.0.0", "2.0.0"):
        with agent(tmp_path, bundle=made(tmp_path, version), settings=settings) as running:
            path = f"/v2/models/tiny/versions/{version}"
            wait_for("it serves", lambda: running.call("GET", path)[0] == 200)  # noqa: B023
            wait_for("it is on trial", lambda: json.loads(journal.read_bytes())["state"] == "trial")
    before = journal.read_bytes()
    found = json.loads(before)
    assert (found["state"], found["active"]["version"]) == ("trial", "2.0.0")
    damaged = made(tmp_path, "3.0.0", replace={"model-int8.onnx": b"new on this device"})
    other = made(tmp_path, "4.0.0", profile="raspberry-pi-5")
    (damaged / "model-int8.onnx").write_bytes(b"spoilt")
    for bundle, code, says in (
        (tmp_path / "nope.edge", 1, "there is nothing at this path"),
        (tmp_path / "agent.toml", 3, "agent.toml"),
        (damaged, 3, "model-int8.onnx"),
        (other, 1, "made for profile raspberry-pi-5"),
    ):
        with agent(tmp_path, bundle=bundle, serving=False, settings=settings) as running:
            assert running.process.wait(20) == code
        last = running.log.splitlines()[-1]
        assert last.startswith("edge-agent: ")
        assert says in last
        assert journal.read_bytes() == before
    assert "worker started" not in running.log.rpartition("edge-agent: bundle")[2]
    arguments = settings + '[broker]\nurl = "mqtt://127.0.0.1:9"\n'
    with agent(tmp_path, settings=arguments) as running:
        wait_for("serves", running.ready)
        assert running.call("GET", "/v2/models/tiny/versions/2.0.0")[0] == 200


def test_texts_over_mqtt_are_answered(tmp_path: Path, broker: str, op: Operator) -> None:
    with agent(tmp_path, broker=broker, bundle=made(tmp_path)):
        wait_for("online", lambda: op.online)
        result = op.ask("one", "mail server", "a game")
        assert [r["label"] in LABELS for r in result.results] == [True, True]


def test_twenty_swaps_under_load_fail_no_request(tmp_path: Path, broker: str, op: Operator) -> None:
    folders = [made(tmp_path, "1.0.0"), made(tmp_path, "2.0.0")]
    releases = [op.publish(folder) for folder in folders]
    settings = "[telemetry]\ninterval_s = 1.0\n"
    with agent(tmp_path, broker=broker, bundle=folders[0], settings=settings) as running:
        wait_for("online", lambda: op.online)
        clients = [Client(running, "tiny", reuse=reuse) for reuse in (True, False)]
        for client in clients:
            client.start()
        for turn in range(20):
            reported = op.deploy(releases[(turn + 1) % 2])
            assert reported.accelerator is not None
        for client in clients:
            client.finish()
        kept, fresh = clients
        assert kept.failures == fresh.failures == []
        assert kept.connections == 1
        assert fresh.connections == fresh.sent > 20
        for client in clients:
            assert set(client.versions) == {"1.0.0", "2.0.0"}
        total = kept.sent + fresh.sent
        wait_for("all are counted", lambda: op.telemetry and op.telemetry[-1].requests >= total)
        last = op.telemetry[-1]
        assert (last.requests, last.errors) == (total, 0)
        assert len(running.workers()) == 1
        numbers = [t.sequence for t in op.telemetry if t.boot_id == last.boot_id]
        assert numbers == sorted(set(numbers))


def test_a_request_under_way_is_finished_at_the_end(tmp_path: Path) -> None:
    with agent(tmp_path, bundle=made(tmp_path)) as running:
        body = json.dumps(texts_request("mail")).encode()
        head = f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
            sock.sendall(head + body[:10])
            time.sleep(0.3)
            threading.Timer(0.5, lambda: sock.sendall(body[10:])).start()
            assert running.end() == 0
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
