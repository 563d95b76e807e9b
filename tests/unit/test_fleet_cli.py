"""`edge-fleet` as people and scripts meet it, on a broker in memory."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.fleet import connection as module
from edge_runtime.fleet import reach, show
from edge_runtime.fleet.cli import main
from edge_runtime.link.config import BrokerConfig
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import (
    Desired,
    Event,
    InferRequest,
    InferResult,
    Online,
    to_bytes,
)
from tests.fakes.bundles import FILES, noise, write_bundle, write_for_boards
from tests.fakes.messages import ACCELERATOR, RELEASE, TELEMETRY
from tests.fakes.operators import (
    ESCAPES,
    TOPICS,
    FakeDevice,
    StrictBroker,
    clean,
    keep,
    nothing,
    refuse,
)

ROOT = Path(__file__).resolve().parents[2]
VERBS = {
    "publish": ["x.edge"],
    "deploy": ["demo==1.0.0", "--device", "d1"],
    "status": [],
    "watch": ["--seconds", "1"],
    "releases": [],
    "ask": ["d1", "text"],
}
AT_HOME = ["init", "key", "sign", "rotate", "revoke", "refresh"]
"""Verbs of what is signed: `test_fleet_trust_cli` runs them."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def run(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """(exit code, stdout, stderr) of a command line."""
    monkeypatch.setattr(reach, "connector", lambda _config: broker.link)
    monkeypatch.setenv("EDGE_FLEET_BROKER", "mqtt://broker.example")
    monkeypatch.delenv("EDGE_FLEET_HOME", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "v1")[0]


def value(out: str) -> Any:
    assert out.count("\n") == 1
    return json.loads(out)


# Publishing and what is published.


def test_publish_says_what_went_out_and_again_that_nothing_did(run: Run, bundle: Path) -> None:
    code, out, _ = run("publish", bundle, "--json")
    made = value(out)
    assert code == 0
    assert {
        "name", "version", "profile", "size_bytes", "manifest_sha256", "again", "sent_chunks",
        "sent_bytes", "skipped_chunks", "skipped_bytes",
    } <= set(made)  # fmt: skip
    assert (made["name"], made["version"], made["again"]) == ("demo", "1.0.0", False)
    code, out, _ = run("publish", bundle)
    assert code == 0
    assert out.startswith("published again demo==1.0.0, ")
    assert "0 chunks sent, 0 B; " in out


def test_a_new_version_sends_only_what_differs(run: Run, bundle: Path, tmp_path: Path) -> None:
    run("publish", bundle)
    files = dict(FILES) | {"golden.safetensors": noise(500, 9)}
    second = write_bundle(tmp_path / "v2", files, version="2.0.0")[0]
    made = value(run("publish", second, "--json")[1])
    assert made["sent_chunks"] == 2
    assert made["skipped_bytes"] > 200_000


def test_another_bundle_under_the_same_version_needs_force(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    run("publish", bundle)
    other = write_bundle(tmp_path / "other", task="text-embedding")[0]
    code, out, err = run("publish", other)
    assert (code, out) == (1, "")
    assert err.startswith(
        "edge-fleet: release demo==1.0.0 for generic-x86_64: broker memory:1883 holds another"
    )
    assert err.count("\n") == 1
    assert run("publish", other, "--force")[0] == 0


def test_releases_are_a_table_and_what_cannot_be_read_is_a_warning(
    run: Run, broker: MemoryBroker, bundle: Path
) -> None:
    assert run("releases") == (
        0,
        "",
        "edge-fleet: nothing is published on broker memory:1883 under edge/v1 yet\n",
    )
    run("publish", bundle)
    keep(broker, TOPICS.metadata("broken.json"), b"garbage")
    code, out, err = run("releases")
    assert code == 0
    assert out.splitlines()[0].split() == ["NAME", "VERSION", "PROFILE", "SIZE", "MANIFEST"]
    assert out.splitlines()[1].split()[:3] == ["demo", "1.0.0", "generic-x86_64"]
    assert err.startswith("edge-fleet: warning: broken.json cannot be read: release: not valid")
    listed = value(run("releases", "--json")[1])
    assert [r["version"] for r in listed["releases"]] == ["1.0.0"]
    assert [r["file"] for r in listed["unreadable"]] == ["broken.json"]


# Deploying.


def test_deploy_sets_the_desired_state_and_returns(
    run: Run, broker: MemoryBroker, bundle: Path
) -> None:
    run("publish", bundle)
    code, out, err = run("deploy", "demo==1.0.0", "--device", "new")
    assert (code, out) == (0, "new: now wants demo 1.0.0 (revision 1)\n")
    assert err == (
        "edge-fleet: warning: new has never been on this broker; the desired state waits for it\n"
    )
    assert TOPICS.device("new", "desired") in broker.retained
    _, out, _ = run("deploy", "demo==1.0.0", "--device", "new")
    assert out == "new: wanted already demo 1.0.0 (revision 1)\n"
    made = value(run("deploy", "demo==1.0.0", "--device", "new", "--json")[1])
    assert (made["name"], made["version"]) == ("demo", "1.0.0")
    assert made["devices"][0]["changed"] is False
    assert made["devices"][0]["outcome"] is None


def test_deploy_follows_devices_until_they_serve(
    run: Run, broker: MemoryBroker, bundle: Path
) -> None:
    run("publish", bundle)
    for device in ("d1", "d2"):
        FakeDevice(broker, device)
    command = ["deploy", "demo==1.0.0", "--device", "d1", "--device", "d2", "--wait", "9"]
    code, out, err = run(*command, "--json")
    assert code == 0
    for device, made in zip(("d1", "d2"), value(out)["devices"], strict=True):
        assert (made["device"], made["outcome"]) == (device, "serving")
        assert (made["fetched_bytes"], made["update_s"]) == (1234, 2.5)
    assert "d1: serving" in err
    code, out, _ = run(*command)
    assert (code, out) == (0, "d1: serves demo 1.0.0 already\nd2: serves demo 1.0.0 already\n")


def test_the_time_and_the_bytes_are_shown_to_people(
    run: Run, broker: MemoryBroker, bundle: Path
) -> None:
    run("publish", bundle)
    FakeDevice(broker, "d1")
    _, out, _ = run("deploy", "demo==1.0.0", "--device", "d1", "--wait", "9")
    assert out == "d1: serves demo 1.0.0 after 2.5 s, 1.2 kB fetched\n"


def test_on_a_terminal_the_talk_moves_and_the_result_stays(
    run: Run, broker: MemoryBroker, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    FakeDevice(broker, "d1")
    FakeDevice(broker, "d2", lambda device, desired: refuse(device, desired, ESCAPES))
    assert value(run("publish", bundle, "--json")[1])["name"] == "demo"
    command = ["deploy", "demo==1.0.0", "--device", "d1", "--device", "d2", "--wait", "9"]
    code, out, err = run(*command, "--json")
    assert code == 1
    assert [made["outcome"] for made in value(out)["devices"]] == ["serving", "refused"]
    assert "\x1b[32mserving\x1b[0m" in err
    assert "[bold]markup[/bold]" in err
    assert "\x1b]0;pwned" not in err
    assert value(run("ask", "d1", "x", "--json")[1])["device"] == "d1"


def test_deploy_fails_where_one_device_refuses(
    run: Run, broker: MemoryBroker, bundle: Path
) -> None:
    run("publish", bundle)
    FakeDevice(broker, "good")
    bad = FakeDevice(broker, "bad", refuse)
    command = ["deploy", "demo==1.0.0", "--device", "good", "--device", "bad", "--wait", "9"]
    code, out, _ = run(*command)
    assert code == 1
    assert out.splitlines()[1] == "bad: refused demo 1.0.0: cosine 0.07 below 0.99"
    code, _, err = run(*command)
    assert code == 1
    assert "has refused this bundle before (cosine 0.07 below 0.99); --retry makes it" in err
    assert run(*command, "--retry")[0] == 1
    assert [desired.attempt for desired in bad.seen] == [0, 1]


def test_deploy_fails_where_a_device_takes_too_long(
    run: Run, broker: MemoryBroker, bundle: Path
) -> None:
    run("publish", bundle)
    FakeDevice(broker, "d1", nothing)
    code, out, _ = run("deploy", "demo==1.0.0", "--device", "d1", "--wait", "0.2")
    assert code == 1
    assert out == "d1: does not serve demo 1.0.0 after 0.2 s: fetching, 3 of 10 chunks\n"


def test_a_release_that_is_not_published_is_one_sentence(run: Run) -> None:
    code, out, err = run("deploy", "demo==9.0.0", "--device", "d1")
    assert (code, out) == (1, "")
    assert err == (
        "edge-fleet: release demo==9.0.0: not on broker memory:1883; "
        "nothing is published there yet\n"
    )


def test_each_device_gets_the_bundle_that_is_made_for_it(
    run: Run, broker: MemoryBroker, bundle: Path, tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "pi", profile="raspberry-pi-5")[0]
    for folder in (bundle, other):
        assert run("publish", folder)[0] == 0
    listed = run("releases")[1].splitlines()[1:]
    assert [row.split()[:3] for row in listed] == [
        ["demo", "1.0.0", "generic-x86_64"], ["demo", "1.0.0", "raspberry-pi-5"],
    ]  # fmt: skip
    x86, pi = FakeDevice(broker, "x86"), FakeDevice(broker, "pi")
    pi.report(profile="raspberry-pi-5")
    broker.pump()
    command = ["deploy", "demo==1.0.0", "--device", "x86", "--device", "pi", "--wait", "9"]
    code, out, _ = run(*command, "--json")
    assert code == 0
    assert [(made["device"], made["profile"], made["warnings"]) for made in value(out)["devices"]] \
        == [("x86", "generic-x86_64", []), ("pi", "raspberry-pi-5", [])]  # fmt: skip
    wanted = [device.seen[-1].release for device in (x86, pi)]
    assert [release.profile for release in wanted if release] == [
        "generic-x86_64", "raspberry-pi-5",
    ]  # fmt: skip


def test_one_bundle_for_two_boards_reaches_both_in_one_go(
    run: Run, broker: MemoryBroker, tmp_path: Path
) -> None:
    both, manifest = write_for_boards(tmp_path / "both")
    code, out, _ = run("publish", both)
    assert code == 0
    assert " for generic-x86_64, raspberry-pi-5: " in out
    x86, pi = FakeDevice(broker, "x86"), FakeDevice(broker, "pi")
    other = FakeDevice(broker, "other")
    pi.report(profile="raspberry-pi-5")
    other.report(profile="jetson")
    broker.pump()
    command = ["deploy", "demo==1.0.0", "--device", "x86", "--device", "pi"]
    code, out, err = run(*command, "--device", "other")
    assert (code, out) == (1, "")
    assert "for generic-x86_64, raspberry-pi-5, but other has profile jetson; nothing was" in err
    broker.pump()
    assert x86.seen == pi.seen == other.seen == []

    code, out, _ = run(*command, "--wait", "9", "--json")
    assert code == 0
    assert [made["profile"] for made in value(out)["devices"]] == list(manifest.profiles)
    assert [made["warnings"] for made in value(out)["devices"]] == [[], []]
    wanted = {device.seen[-1].release.ref for device in (x86, pi) if device.seen[-1].release}
    assert len(wanted) == 1


def test_nothing_is_deployed_where_one_device_can_have_none(
    run: Run, broker: MemoryBroker, bundle: Path, tmp_path: Path
) -> None:
    run("publish", bundle)
    good, other = FakeDevice(broker, "good"), FakeDevice(broker, "other")
    other.report(profile="jetson")
    broker.pump()
    command = ["deploy", "demo==1.0.0", "--device", "good", "--device"]
    assert run(*command, "other") == (
        1,
        "",
        "edge-fleet: release demo==1.0.0: published for generic-x86_64, but other has profile "
        "jetson; nothing was deployed\n",
    )
    run("publish", write_bundle(tmp_path / "pi", profile="raspberry-pi-5")[0])
    code, out, err = run(*command, "new")
    assert (code, out) == (1, "")
    assert err.endswith("as in --profile generic-x86_64; nothing was deployed\n")
    assert err.count("\n") == 1
    broker.pump()
    assert good.seen == other.seen == []

    code, out, err = run("deploy", "demo==1.0.0", "--device", "new", "--device", "other",
                         "--profile", "raspberry-pi-5", "--json")  # fmt: skip
    assert code == 0
    assert [made["profile"] for made in value(out)["devices"]] == ["raspberry-pi-5"] * 2
    assert "other has profile jetson, the bundle is made for raspberry-pi-5" in err


def test_an_outcome_is_said_once_to_people(run: Run, broker: MemoryBroker, bundle: Path) -> None:
    run("publish", bundle)
    FakeDevice(broker, "good")
    FakeDevice(broker, "bad", refuse)
    FakeDevice(broker, "slow", nothing)
    devices = ["--device", "good", "--device", "bad", "--device", "slow"]
    code, out, err = run("deploy", "demo==1.0.0", *devices, "--wait", "0.5")
    assert code == 1
    assert [line.split()[1] for line in out.splitlines()] == ["serves", "refused", "does"]
    assert (out + err).count("cosine 0.07 below 0.99") == 1
    assert err.splitlines()[-1] == "slow: waiting fetching, 3 of 10 chunks"
    assert "serving" not in err


# Seeing.


def test_status_says_what_runs_where_and_what_is_degraded(
    run: Run, broker: MemoryBroker, bundle: Path
) -> None:
    assert run("status") == (
        0, "", "edge-fleet: no device has been on broker memory:1883 under edge/v1 yet\n"
    )  # fmt: skip
    run("publish", bundle)
    good = FakeDevice(broker, "good")
    FakeDevice(broker, "bad", refuse)
    run("deploy", "demo==1.0.0", "--device", "good", "--device", "bad", "--device", "new")
    good.report(accelerator=ACCELERATOR)
    good.say("online", to_bytes(Online(False)))
    broker.pump()
    code, out, _ = run("status")
    assert code == 0
    heads, *rows = out.splitlines()
    assert heads.split() == [
        "DEVICE", "ONLINE", "SERVING", "STATE", "ACCELERATOR", "TRUST", "WANTED",
    ]  # fmt: skip
    bad, served, new = rows
    assert "nothing" in bad
    assert "refused demo 1.0.0: cosine 0.07 below 0.99" in bad
    assert served.split()[:4] == ["good", "no", "demo", "1.0.0"]
    assert "DEGRADED litert-cpu: CPU; delegate missing; XNNPACK was requested" in served
    assert "digest" in served
    assert "never seen" in new
    assert "not yet demo 1.0.0" in new


def test_status_for_scripts_is_complete_and_can_be_narrowed(run: Run, broker: MemoryBroker) -> None:
    FakeDevice(broker, "d1", active=RELEASE.ref)
    FakeDevice(broker, "d2")
    every = value(run("status", "--json")[1])
    assert [device["device"] for device in every["devices"]] == ["d1", "d2"]
    assert every["devices"][0]["reported"]["active"]["name"] == "demo"
    one = value(run("status", "--device", "d2", "--json")[1])
    assert [device["device"] for device in one["devices"]] == ["d2"]
    assert "never seen" in run("status", "--device", "stranger")[1]


def test_garbage_of_one_device_hides_no_other(run: Run, broker: MemoryBroker) -> None:
    FakeDevice(broker, "d1")
    for what in ("online", "reported", "desired"):
        keep(broker, TOPICS.device("evil", what), b"\xff\x00garbage")
    code, out, _ = run("status")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["d1", "evil"]
    assert "unreadable: online: " in out.splitlines()[2]
    assert len(value(run("status", "--json")[1])["devices"][1]["unreadable"]) == 3


@pytest.mark.parametrize("columns", [60, 80, 120, 300])
def test_on_a_terminal_a_device_is_a_line_that_fits(
    columns: int,
    run: Run,
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(show, "is_terminal", lambda: True)
    active = dataclasses.replace(RELEASE.ref, name="debian-sections")
    wanted = dataclasses.replace(RELEASE, name="debian-sections", version="2.0.0")
    for number in range(3):
        press = FakeDevice(broker, f"press-{number}", nothing, active=active)
        press.report(accelerator=ACCELERATOR)
    keep(broker, TOPICS.device("press-0", "desired"), Desired(9, wanted).to_bytes())
    for what in ("online", "reported", "desired"):
        keep(broker, TOPICS.device("evil", what), json.dumps({"x" * 300: 1}).encode())
    broker.pump()
    code, out, _ = run("status")
    assert code == 0
    rows = out.splitlines()
    assert [row.split()[0] for row in rows] == [
        "DEVICE", "evil", "press-0", "press-1", "press-2",
    ]  # fmt: skip
    assert max(len(row.rstrip()) for row in rows) <= columns
    assert "debian-sections 1.0.0" in rows[3] or columns < 80
    assert "DEGRADED" in rows[3] or columns < 80
    assert "not yet" in rows[2] or columns < 80
    every = value(run("status", "--json")[1])["devices"]
    assert len(every[0]["unreadable"]) == 3


def test_watch_prints_a_line_for_each_notice(run: Run, broker: MemoryBroker) -> None:
    device = FakeDevice(broker, "d1", active=RELEASE.ref)
    gauges = {"supervisor_rss_bytes": 4e7, "worker_rss_bytes": 8e7, "temp_c_cpu": 51.5}
    latency = {"sum_ms": 350.0}
    telemetry = dataclasses.replace(TELEMETRY, gauges=gauges, latency=latency)
    keep(broker, TOPICS.device("d1", "telemetry"), to_bytes(telemetry))
    keep(broker, TOPICS.device("d1", "event"), to_bytes(Event("b", 1, 1.0, "rolled-back", "why")))
    keep(broker, TOPICS.device("d2", "event"), b"garbage")
    code, out, _ = run("watch", "--seconds", "0.2")
    assert code == 0
    lines = {tuple(line.split()[1:3]): line for line in out.splitlines()}
    assert all(line.startswith("earlier  d") for line in lines.values())
    assert lines["d1", "online"].endswith(" online")
    assert lines["d1", "reported"].endswith("idle; serving demo 1.0.0")
    assert (
        "100 requests, 1 errors, mean 3.5 ms, RSS 120.0 MB, 52 °C, up 60 s"
        in lines["d1", "telemetry"]
    )
    assert lines["d1", "event"].endswith("rolled-back: why")
    assert "unreadable: event: not valid JSON" in lines["d2", "event"]
    code, out, _ = run("watch", "--device", "d1", "--seconds", "0.2", "--json")
    notices = [json.loads(line) for line in out.splitlines()]
    assert {notice["kind"] for notice in notices} == {"online", "reported", "telemetry", "event"}
    assert {notice["device"] for notice in notices} == {device.name}


# Asking.


def test_ask_prints_an_answer_for_each_text(run: Run, broker: MemoryBroker) -> None:
    FakeDevice(broker, "d1")
    code, out, _ = run("ask", "d1", "one text", "another")
    assert (code, out) == (0, "mail\t0.900\tone text\nmail\t0.900\tanother\n")
    made = value(run("ask", "d1", "one text", "--json")[1])
    assert made["device"] == "d1"
    assert made["results"][0]["label"] == "mail"


def test_ask_takes_pairs_rows_and_files(run: Run, broker: MemoryBroker, tmp_path: Path) -> None:
    seen: list[InferRequest] = []

    def answer(asked: InferRequest) -> bytes:
        seen.append(asked)
        return to_bytes(InferResult(tuple({"label": "a", "score": 0.5} for _ in asked.inputs)))

    FakeDevice(broker, "d1", answer=answer)
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG")
    assert run("ask", "d1", "--pair", "x", "y", "--pair", "u", "v") == (
        0, "a\t0.500\tx | y\na\t0.500\tu | v\n", "",
    )  # fmt: skip
    assert run("ask", "d1", "--file", picture)[1].startswith(f"a\t0.500\t{str(picture)[:60]}")
    assert run("ask", "d1", "--row", '{"heat": 3}')[1] == 'a\t0.500\t{"heat": 3}\n'
    assert [one.inputs for one in seen] == [
        (["x", "y"], ["u", "v"]), ("iVBORw==",), ({"heat": 3},),
    ]  # fmt: skip
    code, out, err = run("ask", "d1", "--file", tmp_path / "gone.png")
    assert (code, out) == (1, "")
    assert err.endswith("gone.png: cannot be read (No such file or directory)\n")


def test_a_result_of_another_task_is_shown_as_json(run: Run, broker: MemoryBroker) -> None:
    vector = to_bytes(InferResult(({"vector": [0.5, 1.0]},)))
    FakeDevice(broker, "d1", answer=lambda _asked: vector)
    assert run("ask", "d1", "x") == (0, '{"vector": [0.5, 1.0]}\n', "")


def test_a_device_that_cannot_answer_fails_with_its_reason(run: Run, broker: MemoryBroker) -> None:
    FakeDevice(broker, "d1", answer=lambda _asked: to_bytes(InferResult(error="no bundle")))
    FakeDevice(broker, "d2", answer=lambda _asked: b"garbage")
    assert run("ask", "d1", "x") == (1, "", "edge-fleet: device d1: no bundle\n")
    assert run("ask", "d2", "x")[0] == 3
    code, _, err = run("ask", "d3", "x", "--timeout", "0.1")
    assert code == 1
    assert err == (
        "edge-fleet: device d3: no answer within 0.1 s; it has never been on this broker\n"
    )


# What is wrong.


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_broker_each_verb_says_where_to_name_one(
    verb: str, run: Run, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.delenv("EDGE_FLEET_BROKER")
    arguments = [str(bundle)] if verb == "publish" else VERBS[verb]
    assert run(verb, *arguments) == (
        2,
        "",
        "edge-fleet: no broker; say where it is with --broker mqtt://HOST[:PORT] or in "
        "EDGE_FLEET_BROKER\n",
    )


@pytest.mark.parametrize("url", ["MQTTS://u:p@broker.example", " mqtts://u:p@broker.example"])
def test_a_broker_whose_scheme_is_written_oddly_is_still_encrypted(
    url: str, run: Run, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[BrokerConfig] = []

    def connector(config: BrokerConfig) -> Any:
        asked.append(config)
        return broker.link

    monkeypatch.setattr(reach, "connector", connector)
    assert run("releases", "--broker", url)[0] == 0
    monkeypatch.setenv("EDGE_FLEET_BROKER", url)
    assert run("releases")[0] == 0
    assert [(config.tls, config.port) for config in asked] == [(True, 8883)] * 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--broker", "broker.example"], "URL starts with 'no scheme', expected mqtt or mqtts"),
        (["--broker", "http://broker.example"], "expected mqtt or mqtts"),
        (["--broker", "mqtt://"], "URL names no host"),
        (["--broker", "mqtt://host:99999"], "URL is malformed (port)"),
        (["--ca", "/nowhere.pem"], "CA given, but only a mqtts:// URL is encrypted"),
        (["--username", "u", "--password-file", "/nowhere"], "password file /nowhere: No such"),
    ],
)
def test_a_broker_that_cannot_be_is_one_sentence(options: list[str], says: str, run: Run) -> None:
    code, out, err = run("status", *options)
    assert (code, out) == (2, "")
    assert err.startswith("edge-fleet: broker: ")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: VERB"),
        (["deploy", "demo", "--device", "d"], "expected NAME==VERSION"),
        (["deploy", "demo==", "--device", "d"], "expected NAME==VERSION"),
        (
            ["deploy", "nope==1", "--device", "d"],
            "version '1' of nope needs three numbers, as 1.0.0",
        ),
        (["deploy", "demo==1.0.0", "--device", "d", "--profile", "a/b"], "'a/b' is no profile"),
        (["deploy", "demo==1.0.0"], "required: --device"),
        (["deploy", "demo==1.0.0", "--device", "+"], "'+' is no device id"),
        (["deploy", "demo==1.0.0", "--device", "d", "--wait", "0"], "'0' is no time"),
        (["watch", "--seconds", "nan"], "'nan' is no time"),
        (["watch", "--seconds", "soon"], "'soon' is no time"),
        (["status", "--device", "a/b"], "'a/b' is no device id"),
        (["status", "--prefix", "a/#"], "topic prefix 'a/#'"),
        (["status", "--mqtt-version", "4"], "invalid choice"),
        (["ask", "d1"], "expected TEXT, --pair, --file or --row, of one kind"),
        (["ask", "d1", "x", "--row", "{}"], "of one kind: a device has one model"),
        (["ask", "d1", "--pair", "x"], "expected 2 arguments"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_connected(
    arguments: list[str], says: str, run: Run
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_a_bundle_that_is_missing_or_tampered_with_is_one_sentence(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "none.edge"
    assert run("publish", missing) == (
        1, "", f"edge-fleet: {missing}: no such file or folder\n"
    )  # fmt: skip
    (bundle / "model.onnx").write_bytes(b"\0" * 200_000)
    code, out, err = run("publish", bundle)
    assert (code, out) == (3, "")
    assert err.startswith(f"edge-fleet: bundle {bundle}: 'model.onnx' has digest ")
    assert err.count("\n") == 1
    (tmp_path / "text.edge").write_text("no archive at all")
    assert run("publish", tmp_path / "text.edge")[0] == 3


def test_a_broker_that_is_away_is_one_sentence(run: Run, broker: MemoryBroker) -> None:
    broker.go_offline()
    assert run("status", "--timeout", "0.1") == (
        1,
        "",
        "edge-fleet: broker memory:1883: not connected within 0.1 s (connection refused)\n",
    )


def test_a_warning_of_the_library_is_one_line(
    run: Run, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    strict = StrictBroker("edge/v1/fleet/#")
    monkeypatch.setattr(reach, "connector", lambda _config: strict.link)
    FakeDevice(strict, "d1")
    code, out, err = run("status")
    assert code == 0
    assert out.splitlines()[1].startswith("d1 ")
    assert err.startswith("edge-fleet: warning: broker memory:1883: 1 retained messages came")
    assert err.count("\n") == 1


def test_nothing_that_a_device_says_acts_on_the_terminal(
    run: Run, broker: MemoryBroker, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "connector", lambda _config: broker.link)
    run("publish", bundle)
    evil = FakeDevice(
        broker,
        "d1",
        lambda device, desired: refuse(device, desired, ESCAPES),
        lambda _asked: to_bytes(InferResult(({"label": ESCAPES, "score": 0.5},))),
    )
    texts = dict.fromkeys(("variant", "requested", "actual", "degraded"), ESCAPES)
    evil.report(state=ESCAPES, reason=ESCAPES, trust=ESCAPES, profile=ESCAPES,
                accelerator=type(ACCELERATOR)(**texts))  # fmt: skip
    keep(broker, TOPICS.device("d1", "event"), to_bytes(Event("b", 1, 1.0, ESCAPES, ESCAPES)))
    keep(broker, TOPICS.device("d2", "online"), json.dumps({ESCAPES: ESCAPES}).encode())
    keep(broker, TOPICS.device("d3", "online"), json.dumps({"format": ESCAPES}).encode())
    keep(broker, TOPICS.metadata("x.json"), json.dumps({"format": 1, "name": ESCAPES}).encode())
    broker.pump()
    code, _, err = run("deploy", "demo==1.0.0", "--device", "d1")
    assert code == 1
    assert "but d1 has profile" in err
    assert clean(err)
    made_for = ["--profile", "generic-x86_64"]
    for arguments in (
        ["releases"],
        ["deploy", "demo==1.0.0", "--device", "d1", "--wait", "5", *made_for],
        ["deploy", "demo==1.0.0", "--device", "d1", *made_for],
        ["status"],
        ["watch", "--seconds", "0.2"],
        ["ask", "d1", "x"],
    ):
        for json_too in ([], ["--json"]):
            _, out, err = run(*arguments, *json_too)
            assert clean(out), arguments
            assert clean(err), arguments
            assert out
    _, out, _ = run("status")
    assert "[bold]markup[/bold]" in out
    keep(broker, TOPICS.device("d1", "desired"), b"")
    evil_error = to_bytes(InferResult(error=ESCAPES))
    FakeDevice(broker, "d4", answer=lambda _asked: evil_error)
    code, _, err = run("ask", "d4", "x")
    assert code == 1
    assert clean(err)
    assert err.count("\n") == 1


# Help, and the process.


@pytest.mark.parametrize("verb", ["", *VERBS, *AT_HOME])
def test_help_has_an_example_for_a_newcomer(verb: str, run: Run) -> None:
    code, out, _ = run(*[verb][: bool(verb)], "--help")
    assert code == 0
    assert "examples:" in out
    assert f"edge-fleet {verb}" in out
    assert max(map(len, out.splitlines())) <= 100


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


def test_it_runs_as_a_module_and_never_with_a_traceback() -> None:
    done = process("-m", "edge_runtime.fleet.cli", "status", "--broker", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("edge-fleet: broker: ")


def test_without_rich_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None\n"
        "from edge_runtime.fleet.cli import main; sys.exit(main(['status']))"
    )
    done = process("-c", code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "edge-fleet: needs the package rich; install edge-runtime[fleet]\n"


@pytest.mark.parametrize(
    "module", ["edge_runtime.errors", "edge_runtime.fleet.options", "rich.console"]
)
def test_ctrl_c_during_imports_ends_without_a_traceback(module: str) -> None:
    code = (
        "import sys\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "from edge_runtime.fleet.cli import entry\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "sys.argv = ['edge-fleet', 'status', '--broker', 'mqtt://127.0.0.1:1']\n"
        "entry()"
    )
    done = process("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_terminal_without_unicode_shows_escapes() -> None:
    done = process("-m", "edge_runtime.fleet.cli", "deploy", "ü", "--device", "d",
                   PYTHONIOENCODING="ascii", PYTHONUTF8="0")  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
