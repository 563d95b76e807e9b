"""`edge-fleet` as a process, on real brokers, with a real agent."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.fleet.connection import Connection
from edge_runtime.link import BrokerConfig
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.fleet import Online, to_bytes
from edge_runtime.messages.topics import Topics
from tests.fakes.agents import DEVICE, agent, wait_for
from tests.fakes.brokers import embedded, free_port, mosquitto
from tests.fakes.bundles import write_bundle
from tests.fakes.senses import colours, png, sound, tones, wav
from tests.fakes.tiny import LABELS, tiny_folder, variant_json

pytestmark = pytest.mark.system
ROOT = Path(__file__).resolve().parents[2]
TOPICS = Topics()
COMMAND = [sys.executable, "-m", "edge_runtime.fleet.cli"]
QUICK = "[update]\ntrial_s = 0.5\n"


class Fleet:
    """`edge-fleet` on one broker."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGE_FLEET_BROKER": url}

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: object) -> Any:
        """The result of a command that must succeed."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            [*COMMAND, *arguments], text=True, env=self.environment, stdout=subprocess.PIPE,
            **options,
        )  # fmt: skip

    def connect(self) -> Connection:
        """To say what no command says."""
        return Connection(connector(BrokerConfig.parse(self.url)), TOPICS)


@pytest.fixture(params=[mosquitto, embedded], ids=["mosquitto", "embedded"])
def any_fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with request.param() as broker:
        yield Fleet(broker.url)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with mosquitto() as broker:
        yield Fleet(broker.url)


def tiny(folder: Path, version: str, floor: float = 0.97, **changed: Any) -> Path:
    tolerance = {"metric": "cosine", "floor": floor}
    variant = variant_json("ort-int8", "model-int8.onnx", tolerance=tolerance)
    return tiny_folder(folder / version, [variant], version=version, **changed)


def chunks(folder: Path) -> dict[str, int]:
    bundle = verify(FolderReader(folder))
    return {c.sha256: c.size_bytes for file in bundle.manifest.files for c in file.chunks}


def test_the_whole_way_from_a_bundle_to_an_answer(any_fleet: Fleet, tmp_path: Path) -> None:
    fleet = any_fleet
    first = tiny(tmp_path, "1.0.0")
    second = tiny(tmp_path, "2.0.0", replace={"notes.txt": b"x" * 5000})
    assert fleet.json("publish", first)["skipped_chunks"] == 0
    assert fleet.json("publish", first)["sent_chunks"] == 0
    published = fleet.json("publish", second)
    assert published["skipped_chunks"] == len(chunks(first))
    assert [r["version"] for r in fleet.json("releases")["releases"]] == ["1.0.0", "2.0.0"]

    with agent(tmp_path / "device", broker=fleet.url, bundle=first, settings=QUICK):
        (device,) = wait_for(
            "the device reports its bundle",
            lambda: [d for d in fleet.json("status")["devices"] if d["reported"]["active"]],
        )
        assert (device["device"], device["online"]) == (DEVICE, True)

        command = ["deploy", "tiny==2.0.0", "--device", DEVICE, "--wait", "60"]
        (made,) = fleet.json(*command)["devices"]
        assert made["outcome"] == "serving"
        assert made["update_s"] > 0
        # What the device lacked: one file, and the manifest.
        new = {d: s for d, s in chunks(second).items() if d not in chunks(first)}
        assert made["fetched_bytes"] == published["sent_bytes"]
        assert (
            made["fetched_bytes"] - sum(new.values()) == (second / "manifest.json").stat().st_size
        )
        done = fleet(*command)
        assert (done.returncode, done.stdout) == (0, f"{DEVICE}: serves tiny 2.0.0 already\n")

        shown = fleet("status").stdout
        assert f"{DEVICE}  yes     tiny 2.0.0" in shown
        assert "ort-int8: onnxruntime" in shown
        assert "CPUExecutionProvider" in shown

        answer = fleet.json("ask", DEVICE, "mail server", "a puzzle game")
        assert [result["label"] in LABELS for result in answer["results"]] == [True, True]
        assert fleet("ask", DEVICE, "mail server").stdout.endswith("\tmail server\n")
        notices = [
            json.loads(line)
            for line in fleet("watch", "--seconds", "1", "--json").stdout.splitlines()
        ]
        assert {"online", "reported"} <= {notice["kind"] for notice in notices}

        refused = tiny(tmp_path, "3.0.0", floor=1.0)
        fleet.json("publish", refused)
        done = fleet("deploy", "tiny==3.0.0", "--device", DEVICE, "--wait", "60")
        assert done.returncode == 1
        assert done.stdout.startswith(f"{DEVICE}: refused tiny 3.0.0: ")
        assert f"{DEVICE}  yes     tiny 2.0.0" in fleet("status").stdout

    done = fleet("ask", DEVICE, "anyone?", "--timeout", "1")
    assert done.returncode == 1
    assert done.stderr == f"edge-fleet: device {DEVICE}: no answer within 1 s; it is offline\n"


def test_a_device_is_asked_about_pictures_and_sounds(fleet: Fleet, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    files = {"red.png": png((250, 0, 0)), "blue.png": png((0, 0, 250), size=400),
             "low.wav": wav(sound(("low", 0.1))), "long.wav": wav(sound(("low", 9.0)))}  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def serving(name: str) -> list[Any]:
        devices = fleet.json("status")["devices"]
        return [d for d in devices if (d["reported"]["active"] or {}).get("name") == name]

    def ask(*arguments: object) -> list[str]:
        return [result["label"] for result in fleet.json("ask", DEVICE, *arguments)["results"]]

    with agent(tmp_path / "a", broker=fleet.url, bundle=colours(tmp_path / "colours")):
        wait_for("the device reports its bundle", lambda: serving("colours"))
        pictures = ["--file", tmp_path / "red.png", "--file", tmp_path / "blue.png"]
        assert ask(*pictures) == ["red", "blue"]
        done = fleet("ask", DEVICE, "--file", tmp_path / "low.wav")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert f"edge-fleet: device {DEVICE}: " in done.stderr
        assert "image: " in done.stderr
    with agent(tmp_path / "b", broker=fleet.url, bundle=tones(tmp_path / "tones")):
        wait_for("the device reports its bundle", lambda: serving("tones"))
        assert ask("--file", tmp_path / "low.wav") == ["low"]
        # More than 128 KiB in one message.
        assert ask("--file", tmp_path / "long.wav") == ["low"]
        done = fleet("ask", DEVICE, "mail server")
        assert (done.returncode, "not base64" in done.stderr) == (1, True)


def test_two_boards_are_served_side_by_side(any_fleet: Fleet, tmp_path: Path) -> None:
    fleet = any_fleet
    mine = fleet.json("publish", tiny(tmp_path, "1.0.0"))
    other = write_bundle(tmp_path / "pi", name="tiny", profile="raspberry-pi-5")[0]
    assert fleet.json("publish", other)["manifest_sha256"] != mine["manifest_sha256"]
    profiles = [release["profile"] for release in fleet.json("releases")["releases"]]
    assert profiles == [mine["profile"], "raspberry-pi-5"]
    command = ["deploy", "tiny==1.0.0", "--device", DEVICE]
    done = fleet(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert "say which of these, as in --profile " in done.stderr
    with agent(tmp_path / "device", broker=fleet.url, settings=QUICK):
        wait_for(
            "the device reports",
            lambda: [d for d in fleet.json("status")["devices"] if d["reported"]],
        )
        (made,) = fleet.json(*command, "--wait", "60")["devices"]
    assert (made["profile"], made["outcome"]) == (mine["profile"], "serving")


def test_a_device_that_never_comes_ends_the_wait(fleet: Fleet, tmp_path: Path) -> None:
    fleet.json("publish", write_bundle(tmp_path)[0])
    done = fleet("deploy", "demo==1.0.0", "--device", "ghost", "--wait", "1")
    assert done.returncode == 1
    assert (
        done.stdout == "ghost: does not serve demo 1.0.0 after 1 s: it has not reported anything\n"
    )
    assert "ghost has never been on this broker" in done.stderr


def test_the_rights_of_the_documentation_are_enough_and_not_too_much(tmp_path: Path) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed")
    page = (ROOT / "docs" / "topics.md").read_text()
    conf, rules = re.findall(r"```conf\n(.*?)```", page, re.DOTALL)
    passwords, acl = tmp_path / "passwords", tmp_path / "rules"
    passwords.touch(mode=0o600)
    for user in ("operator", "dashboard", DEVICE):
        subprocess.run([program, "-b", passwords, user, "pw"], check=True, timeout=30)
    acl.write_text(rules)
    acl.chmod(0o600)
    for old, new in {
        "listener 1883\n": "",
        "/etc/mosquitto/passwords": str(passwords),
        "/etc/mosquitto/rules": str(acl),
        "/var/lib/mosquitto/": f"{tmp_path}/",
    }.items():
        assert old in conf
        conf = conf.replace(old, new)
    with mosquitto(conf.splitlines()) as broker:

        def url(user: str) -> str:
            return f"mqtt://{user}:pw@127.0.0.1:{broker.port}"

        ops, dashboard = Fleet(url("operator")), Fleet(url("dashboard"))
        ops.json("publish", tiny(tmp_path, "1.0.0"))
        with agent(tmp_path / "device", broker=url(DEVICE)):
            done = ops("deploy", "tiny==1.0.0", "--device", DEVICE, "--wait", "60")
            assert done.returncode == 0
            assert done.stdout.startswith(f"{DEVICE}: serves tiny 1.0.0 ")
            assert ops.json("ask", DEVICE, "mail server")["results"]
        seen = dashboard("status", "--json")
        assert seen.stderr == ""
        assert json.loads(seen.stdout)["devices"][0]["online"] is False
        assert dashboard("publish", tiny(tmp_path, "2.0.0")).returncode == 1
        assert dashboard("deploy", "tiny==1.0.0", "--device", "other").returncode == 1


READ_ONLY = ["topic read edge/v1/#", "topic readwrite edge/v1/fleet/#"]


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize(
    ("rights", "says"),
    [
        (READ_ONLY, ("acknowledged chunk", "refused to accept edge/v1/repo/chunk/")),
        (
            [*READ_ONLY, "topic readwrite edge/v1/repo/chunk/#"],
            ("acknowledged it but keeps nothing", "refused to accept edge/v1/repo/metadata/"),
        ),
    ],
    ids=["reader", "chunks-only"],
)
def test_who_may_not_publish_is_told_so_on_every_mqtt(
    rights: list[str], says: tuple[str, str], version: str, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("\n".join(rights) + "\n")
    rules.chmod(0o644)
    with mosquitto([f"acl_file {rules}"]) as broker:
        done = Fleet(broker.url)("publish", write_bundle(tmp_path / "b")[0],
                                 "--mqtt-version", version)  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert says[version == "5"] in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_may_not_deploy_is_told_so(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("\n".join([*READ_ONLY, "topic readwrite edge/v1/repo/#"]) + "\n")
    rules.chmod(0o644)
    with mosquitto([f"acl_file {rules}"]) as broker:
        fleet = Fleet(broker.url)
        fleet.json("publish", write_bundle(tmp_path / "b")[0])
        command = ["deploy", "demo==1.0.0", "--device", "d1", "--mqtt-version"]
        old, new = fleet(*command, "3.1.1"), fleet(*command, "5")
    assert old.returncode == new.returncode == 1
    assert "does this user have the right to deploy?" in old.stderr
    assert "refused to accept edge/v1/device/d1/desired" in new.stderr


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_without_the_fence_it_works_slowly_and_says_so(version: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite edge/v1/repo/#\n")
    rules.chmod(0o644)
    with mosquitto([f"acl_file {rules}"]) as broker:
        done = Fleet(broker.url)("publish", write_bundle(tmp_path / "b")[0],
                                 "--mqtt-version", version)  # fmt: skip
    assert done.returncode == 0
    assert "edge/v1/fleet/fence/+" in done.stderr
    assert done.stderr.count("did not confirm") == 1


def test_a_fleet_larger_than_the_broker_s_queue_is_told_to_be_cut_short() -> None:
    with mosquitto(["max_queued_messages 100"]) as broker:
        fleet = Fleet(broker.url)
        with fleet.connect() as connection:
            for index in range(600):
                topic = TOPICS.device(f"d{index}", "online")
                connection.send("online", topic, to_bytes(Online(True)))
            connection.settle()
        done = fleet("status", "--json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["devices"]) < 600
    assert "did not confirm that these are all" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("start", [mosquitto, embedded])
def test_hundreds_of_devices_are_all_there(start: Callable[..., Any]) -> None:
    with start() as broker:
        fleet = Fleet(broker.url)
        with fleet.connect() as connection:
            for index in range(400):
                payload = to_bytes(Online(True))
                connection.send("online", TOPICS.device(f"d{index}", "online"), payload)
            connection.settle()
        done = fleet("status", "--json")
    assert len(json.loads(done.stdout)["devices"]) == 400
    assert done.stderr == ""


def test_a_broker_that_is_not_there_is_one_sentence() -> None:
    port = free_port()
    started_s = time.monotonic()
    done = Fleet(f"mqtt://127.0.0.1:{port}")("status", "--timeout", "1")
    assert time.monotonic() - started_s < 20
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"edge-fleet: broker 127.0.0.1:{port}: not connected within 1 s (Connection refused)\n"
    )


def test_a_wrong_password_is_one_sentence_without_the_password(tmp_path: Path) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    subprocess.run([program, "-b", "-c", passwords, "ops", "right"], check=True, timeout=30)
    passwords.chmod(0o644)
    with mosquitto([f"password_file {passwords}", "allow_anonymous false"]) as broker:
        fleet = Fleet(broker.url)
        options = ["--username", "ops", "--password-file", secret, "--timeout", "1"]
        secret.write_text("wr0ng-s3cret\n")
        done = fleet("status", *options)
        secret.write_text("right\n")
        assert fleet("status", *options).returncode == 0
    assert done.returncode == 1
    assert "refused: Not authorized" in done.stderr
    assert "s3cret" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_watch_ends_with_ctrl_c_and_with_its_reader(fleet: Fleet) -> None:
    with fleet.connect() as connection:
        connection.send("online", TOPICS.device("d1", "online"), to_bytes(Online(True)))
        connection.settle()
        for end in ("signal", "reader"):
            process = fleet.start("watch", stderr=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline().split()[1:3] == ["d1", "online"]
            if end == "signal":
                process.send_signal(signal.SIGINT)
            else:
                process.stdout.close()
                connection.send("online", TOPICS.device("d1", "online"), to_bytes(Online(False)))
                connection.settle()
            code = process.wait(20)
            assert process.stderr is not None
            assert process.stderr.read() == ""
            assert code == (130 if end == "signal" else 1)
            process.stderr.close()


def test_a_broker_lost_while_watching_is_told(fleet: Fleet) -> None:
    with mosquitto() as broker:
        fleet = Fleet(broker.url)
        process = fleet.start("watch", "--timeout", "1", stderr=subprocess.PIPE)
        with fleet.connect() as connection:
            connection.send("online", TOPICS.device("d1", "online"), to_bytes(Online(True)))
            connection.settle()
        assert process.stdout is not None
        assert "online" in process.stdout.readline()
        broker.stop()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    warning, error = err.splitlines()
    assert warning.startswith("edge-fleet: warning: broker unreachable: ")
    assert error.startswith(f"edge-fleet: broker 127.0.0.1:{broker.port}: not connected within 1 s")


def test_on_a_terminal_a_bar_moves_on_stderr_and_stdout_stays_clean(
    fleet: Fleet, tmp_path: Path
) -> None:
    controller, terminal = pty.openpty()
    folder = write_bundle(tmp_path)[0]
    process = fleet.start("publish", str(folder), "--json", stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            data = os.read(controller, 4096)
        except OSError:  # EIO: the other side is closed.
            break
        if not data:
            break
        shown += data
    os.close(controller)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["name"] == "demo"
    assert b"publishing" in shown
    assert b"Traceback" not in shown
