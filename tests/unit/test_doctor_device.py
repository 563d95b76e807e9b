"""A device's broker, identity, trust and bundle as the doctor finds them, good and bad."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.cli import main
from edge_runtime.agent.config import AgentConfig, ApiConfig, load_config
from edge_runtime.agent.doctor import (
    bounded,
    broker,
    bundles,
    clocks,
    engines,
    examine,
    identity,
    integrity,
    storage,
)
from edge_runtime.agent.doctor.engines import Engines
from edge_runtime.agent.doctor.finding import Finding, Level
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.agent.doctor.seen import seen
from edge_runtime.agent.reporting import Reporting
from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.certificates import Role
from edge_runtime.fleet.enroll import enroll
from edge_runtime.fleet.home import Home
from edge_runtime.link import BrokerConfig
from edge_runtime.messages.fleet import Accelerator, BundleRef
from edge_runtime.profile import Engine, load_profile
from edge_runtime.update.clock import Clock
from edge_runtime.update.journal import Journal
from edge_runtime.update.record import Record, Status
from edge_runtime.update.trust.client import Client
from tests.fakes.bundles import write_bundle
from tests.fakes.homes import NOW, make_home
from tests.fakes.signed import NOW_S, FakeReadings, SignedRepository
from tests.fakes.stored import store
from tests.fakes.tiny import tiny_folder, variant_json

DAY = timedelta(days=1)
PROFILE = load_profile("generic-x86_64")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home") / "fleet", broker="mqtts://localhost:8883")


@pytest.fixture
def device(home: Home) -> AgentConfig:
    folder = enroll(home, "press-7", PROFILE.name, now=NOW, force=True).folder
    return load_config(folder / "agent.toml", {})


def scene(config: AgentConfig, now: datetime = NOW, **more: Any) -> Scene:
    readings = FakeReadings(now.timestamp())
    return Scene(config=config, profile=PROFILE, architecture="x86_64", readings=readings, **more)


def levels(findings: Iterator[Finding]) -> dict[str, Level]:
    return {finding.id: finding.level for finding in findings}


# The broker.


@contextmanager
def listening(context: ssl.SSLContext | None = None, silent: bool = False) -> Iterator[int]:
    """A broker that shakes hands and then waits for a packet of MQTT, as all do; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    if silent:
                        continue
                    with suppress(OSError):
                        if context is not None:
                            connection = context.wrap_socket(connection, server_side=True)
                            held.append(connection)
                        connection.settimeout(5)
                        assert connection.recv(1) == b"", "the doctor spoke"

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()
        thread.join(5)


def server_context(home: Home, folder: Path, *hosts: str) -> ssl.SSLContext:
    made = CertificateAuthority(home).issue(Role.BROKER, "broker", hosts, now=NOW)
    (folder / "b.pem").write_bytes(made.certificate)
    (folder / "b.key").write_bytes(made.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "b.pem", folder / "b.key")
    context.load_verify_locations(home.ca_certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def at(config: AgentConfig, port: int, **changed: Any) -> AgentConfig:
    assert config.broker is not None
    return dataclasses.replace(
        config, broker=dataclasses.replace(config.broker, port=port, **changed)
    )


def test_a_broker_that_proves_itself_and_takes_our_certificate_is_ok(
    home: Home, device: AgentConfig, tmp_path: Path
) -> None:
    with listening(server_context(home, tmp_path, "localhost")) as port:
        found = {f.id: f for f in broker.broker(scene(at(device, port)))}
    assert {f.level for f in found.values()} == {Level.OK}
    assert found["broker.encryption"].text == "TLSv1.3, the broker is broker"


def test_a_broker_of_another_name_or_authority_is_an_obstacle(
    home: Home, device: AgentConfig, tmp_path: Path
) -> None:
    other = make_home(tmp_path / "other")
    for authority, host, says in (
        (home, "elsewhere.example", "Hostname mismatch"),
        (other, "localhost", "certificate"),
    ):
        with listening(server_context(authority, tmp_path, host)) as port:
            found = {f.id: f for f in broker.broker(scene(at(device, port)))}
        assert found["broker.connection"].level is Level.OK
        assert found["broker.encryption"].level is Level.OBSTACLE
        assert says in found["broker.encryption"].text


def test_a_broker_that_refuses_our_certificate_after_the_handshake_is_an_obstacle(
    home: Home, device: AgentConfig, tmp_path: Path
) -> None:
    context = server_context(home, tmp_path, "localhost")
    assert device.broker is not None
    with listening(context) as port:
        config = at(device, port, cert_file=None, key_file=None)
        found = {f.id: f for f in broker.broker(scene(config))}
    assert found["broker.encryption"].level is Level.OBSTACLE
    assert "CERTIFICATE_REQUIRED" in found["broker.encryption"].text


def test_a_broker_that_never_shakes_hands_is_unknown_within_its_time(device: AgentConfig) -> None:
    with listening(silent=True) as port:
        begin_s = time.monotonic()
        found = levels(broker.broker(scene(at(device, port))))
    assert time.monotonic() - begin_s < 2.5
    assert found["broker.encryption"] is Level.UNKNOWN


def test_a_broker_that_is_not_there_is_an_obstacle_unless_offline(device: AgentConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    config = at(device, port)
    assert levels(broker.broker(scene(config)))["broker.connection"] is Level.OBSTACLE
    (said,) = broker.broker(scene(config, offline=True))
    assert (said.level, said.text) == (Level.OK, f"localhost:{port}, not contacted")
    nowhere = at(device, 1, host="no-such-host.invalid")
    assert levels(broker.broker(scene(nowhere)))["broker.address"] is Level.OBSTACLE


def test_a_plain_broker_is_only_for_this_machine(tmp_path: Path) -> None:
    with listening() as port:
        config = AgentConfig(
            "d", PROFILE.name, tmp_path, "none", broker=BrokerConfig("127.0.0.1", port)
        )
        assert levels(broker.broker(scene(config)))["broker.encryption"] is Level.OK


# Who it is, and whom it believes.


class Shelf:
    """A repository's files as a source."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def read(self, name: str, max_bytes: int) -> bytes | None:
        return self._files.get(name)


def test_a_certificate_is_held_to_the_device_and_to_the_day(device: AgentConfig) -> None:
    def told(config: AgentConfig, now: datetime = NOW) -> Finding:
        (finding,) = identity.certificate(scene(config, now))
        return finding

    assert told(device).level is Level.OK
    assert told(device).values["name"] == "press-7"
    end = datetime.fromtimestamp(float(str(told(device).values["expires_s"])), timezone.utc)
    assert told(device, end - 10 * DAY).level is Level.WARNING
    assert told(device, end + DAY).text == f"expired on {end:%Y-%m-%d}"
    assert told(device, end + DAY).level is Level.OBSTACLE
    other = told(dataclasses.replace(device, device_id="press-8"))
    assert (other.level, other.text.startswith("is of press-7, this device is press-8")) == (
        Level.OBSTACLE, True,
    )  # fmt: skip
    assert device.broker is not None
    assert device.broker.cert_file is not None
    device.broker.cert_file.write_text("spoiled")
    assert told(device).level is Level.OBSTACLE


def test_a_key_that_everybody_may_read_is_told(device: AgentConfig) -> None:
    assert device.broker is not None
    key = device.broker.key_file
    assert key is not None
    for mode, expected in ((0o600, Level.OK), (0o640, Level.OK), (0o644, Level.WARNING)):
        key.chmod(mode)
        assert levels(identity.key(scene(device))) == {"identity.key": expected}
    key.unlink()
    assert levels(identity.key(scene(device))) == {"identity.key": Level.OBSTACLE}


def test_the_root_of_trust_must_be_one_and_no_trust_is_told(
    device: AgentConfig, tmp_path: Path
) -> None:
    (good,) = identity.root(scene(device))
    assert good.values["version"] == 1
    spoiled = tmp_path / "root.json"
    spoiled.write_text("{}")
    for path in (spoiled, tmp_path / "gone.json"):
        config = dataclasses.replace(device, root=path)
        assert levels(identity.root(scene(config))) == {"identity.root": Level.OBSTACLE}
    (none,) = identity.root(scene(dataclasses.replace(device, trust="none", root=None)))
    assert (none.level, "not signed" in none.text) == (Level.WARNING, True)


def test_signed_metadata_on_disk_is_told_until_it_expires(
    device: AgentConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(device, state_dir=tmp_path)
    assert "none followed" in next(identity.metadata(scene(config))).text
    signed = SignedRepository()
    clock = Clock(tmp_path / "trust/time.json", FakeReadings())
    Client(tmp_path / "trust", signed.files["1.root.json"], Shelf(signed.files), clock).refresh()
    now = datetime.fromtimestamp(NOW_S, timezone.utc)
    (good,) = identity.metadata(scene(config, now))
    assert good.level is Level.OK
    assert "timestamp 1 until" in good.text
    ends = good.values["timestamp"]
    assert isinstance(ends, dict)
    late = datetime.fromtimestamp(ends["expires_s"], timezone.utc) + DAY
    (expired,) = identity.metadata(scene(config, late))
    assert (expired.level, expired.text.startswith("timestamp expired")) == (Level.WARNING, True)
    (tmp_path / "trust/root.json").write_text('{"signed": []}')
    assert "root" not in next(identity.metadata(scene(config, now))).text


# The bundle.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a variant of every fate."""
    away = variant_json("away", "model.onnx", profiles=["rk3588"])
    provider = variant_json("npu", "model.onnx", providers=["QNNExecutionProvider"])
    large = variant_json("large", "model.onnx")
    large["needs"] = {"ram_bytes": 1_900_000_000, "cpu_features": ["avx2"]}
    other = variant_json("other", "model.onnx")
    other["placement"] = {**other["placement"], "accelerator": "dpu"}
    return tiny_folder(
        tmp_path_factory.mktemp("tiny"),
        [away, provider, large, other, variant_json("cpu", "model-int8.onnx")],
        profile=PROFILE.name,
    )


def looked(at: Scene) -> dict[str, Finding]:
    return {f.subject or f.id: f for f in bundles.present(at, Engines(at.profile))}


def small(root: Path, features: str = "avx2 fma") -> Path:
    """A machine with a gigabyte."""
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 1000000 kB\n")
    (root / "proc/cpuinfo").write_text(f"flags : {features}\n")
    return root


def test_each_variant_says_whether_it_would_run_and_why_not(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    here = Scene(root=small(tmp_path), profile=PROFILE, bundle=tiny, architecture="x86_64")
    found = looked(here)
    assert list(found) == ["bundle.present", "away", "npu", "large", "other", "cpu"]
    assert "1 of 5 variants would run, cpu first" in found["bundle.present"].text
    assert found["bundle.present"].values["runs"] == ["cpu"]
    assert (found["away"].level, found["away"].text) == (
        Level.OK, "no, it is for other boards: rk3588",
    )  # fmt: skip
    assert "its plug-in onnxruntime-qnn is not installed" in found["npu"].text
    assert "needs 1.9 GB of memory, 1.0 GB is here" in found["large"].text
    assert "needs onnxruntime on dpu, the profile has" in found["other"].text
    assert found["cpu"].values["runs"] is True
    assert [found[name].values["rank"] for name in ("away", "cpu")] == [1, 5]


def test_a_bundle_of_which_nothing_would_run_is_an_obstacle(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    only = variant_json("wide", "model.onnx")
    only["needs"] = {"ram_bytes": 0, "cpu_features": ["avx2"]}
    folder = tiny_folder(tmp_path / "b", [only], profile=PROFILE.name)
    here = Scene(root=small(tmp_path / "r", "sse2"), profile=PROFILE, bundle=folder)
    found = looked(here)
    assert found["bundle.present"].level is Level.OBSTACLE
    assert "avx2, missing here" in found["wide"].text
    task = dataclasses.replace(PROFILE, tasks=("keyword-spotting",))
    (wrong,) = looked(dataclasses.replace(here, profile=task)).values()
    assert (wrong.level, "this device takes keyword-spotting" in wrong.text) == (
        Level.OBSTACLE, True,
    )  # fmt: skip


def test_without_a_profile_a_bundle_is_held_to_the_one_that_fits(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    found = looked(Scene(bundle=tiny, architecture="x86_64"))
    assert found["cpu"].values["runs"] is True
    assert looked(Scene(bundle=tiny, architecture="riscv64"))["bundle.present"].level is (
        Level.UNKNOWN
    )


def test_the_active_bundle_is_read_from_the_state_folder_and_nothing_changes(
    tiny: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    digest = store(FolderReader(tiny), state)
    active = BundleRef("tiny", "1.0.0", digest)
    Journal(state / "journal.json").save(Record(active=active))
    config = AgentConfig("d", PROFILE.name, state, "none", api=ApiConfig(port=0))
    before = sorted((path, path.stat().st_mtime_ns) for path in state.rglob("*"))
    found = looked(scene(config))
    assert found["bundle.present"].text.startswith("tiny ")
    assert ", active, " in found["bundle.present"].text
    (free,) = storage.free(scene(config))
    found_bundle = seen(scene(config))
    assert found_bundle is not None
    needed = found_bundle.size_bytes(PROFILE) + config.update.disk_margin_bytes
    assert free.values["needed_bytes"] == needed
    # A spoiled manifest is the agent's to find: it stays.
    path = state / "manifests" / f"{digest}.json"
    data = path.read_bytes()
    assert sorted((path, path.stat().st_mtime_ns) for path in state.rglob("*")) == before
    path.write_bytes(data[:-1])
    assert looked(scene(config))["bundle.present"].level is Level.OBSTACLE
    assert path.exists()


@pytest.fixture
def installed(tmp_path: Path) -> tuple[AgentConfig, dict[str, list[Path]]]:
    """A device with an active bundle of two variants, and the chunks of each of its files."""
    state = tmp_path / "state"
    folder = tiny_folder(
        tmp_path / "two",
        [variant_json("int8", "model-int8.onnx"), variant_json("float", "model.onnx")],
        profile=PROFILE.name,
    )
    digest = store(FolderReader(folder), state)
    Journal(state / "journal.json").save(Record(active=BundleRef("tiny", "1.0.0", digest)))
    files = Manifest.from_bytes((folder / "manifest.json").read_bytes()).files
    chunks = {
        entry.path: [state / "chunks" / c.sha256[:2] / c.sha256 for c in entry.chunks]
        for entry in files
    }
    return AgentConfig("d", PROFILE.name, state, "none", api=ApiConfig(port=0)), chunks


def garbage(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [Path.unlink, garbage, pipe])
def test_an_active_bundle_whose_chunks_are_lost_or_spoiled_is_an_obstacle_and_stays(
    installed: tuple[AgentConfig, dict[str, list[Path]]], spoil: Callable[[Path], None]
) -> None:
    pytest.importorskip("onnxruntime")
    config, chunks = installed
    assert looked(scene(config))["bundle.present"].level is Level.OK
    for path in {path for paths in chunks.values() for path in paths}:
        spoil(path)
    before = sorted(path for path in config.state_dir.rglob("*"))
    found = looked(scene(config))
    assert found["bundle.present"].level is Level.OBSTACLE
    assert "is spoiled: " in found["bundle.present"].text
    assert found["bundle.present"].values["spoiled"] == sorted(chunks)
    assert {found[id].values["runs"] for id in ("int8", "float")} == {False}
    assert sorted(path for path in config.state_dir.rglob("*")) == before


def test_one_whole_variant_of_the_active_bundle_is_enough_to_serve(
    installed: tuple[AgentConfig, dict[str, list[Path]]],
) -> None:
    pytest.importorskip("onnxruntime")
    config, chunks = installed
    garbage(chunks["model-int8.onnx"][0])
    found = looked(scene(config))
    assert found["bundle.present"].level is Level.WARNING
    assert "1 of 2 variants would run, float first" in found["bundle.present"].text
    assert "its file model-int8.onnx is spoiled" in found["int8"].text
    assert found["float"].level is Level.OK


def test_what_was_not_read_in_time_is_told(
    installed: tuple[AgentConfig, dict[str, list[Path]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    config, chunks = installed
    monkeypatch.setattr("edge_runtime.agent.doctor.seen.READ_S", 0.0)
    found = looked(scene(config))["bundle.present"]
    whole = sum(path.stat().st_size for paths in chunks.values() for path in paths)
    assert (found.level, "not all read in time" in found.text) == (Level.OK, True)
    assert found.values["unread_bytes"] == whole
    chunks["model.onnx"][0].unlink()  # What is not there is seen without reading.
    assert looked(scene(config))["float"].level is Level.WARNING


@pytest.mark.parametrize("kind", ["short", "flipped", "packed", "missing"])
def test_a_given_bundle_with_a_spoiled_file_is_an_obstacle(
    tiny: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "b"
    shutil.copytree(tiny, folder)
    model, given = folder / "model-int8.onnx", folder
    data = model.read_bytes()
    if kind == "short":
        model.write_bytes(data[:5])
    elif kind == "missing":
        model.unlink()
    elif kind == "flipped":
        model.write_bytes(bytes(50) + data[50:])
    else:
        given = tmp_path / "b.edge"
        pack(FolderReader(folder), given)
        packed = given.read_bytes()
        at = packed.index(data)
        given.write_bytes(packed[:at] + bytes(50) + packed[at + 50 :])
    (found,) = looked(Scene(profile=PROFILE, bundle=given, architecture="x86_64")).values()
    assert found.level is Level.OBSTACLE
    assert found.values["spoiled"] == ["model-int8.onnx"]
    assert "model-int8.onnx" in found.text


@pytest.mark.parametrize("content", ["[[[", 100_000 * "[", "{}", "", "\0", None])
def test_a_record_that_cannot_be_read_is_a_warning(
    installed: tuple[AgentConfig, dict[str, list[Path]]], content: str | None
) -> None:
    config, _ = installed
    journal = config.state_dir / "journal.json"
    if content is None:
        pipe(journal)
    else:
        journal.write_text(content)
    begin_s = time.monotonic()
    (found,) = looked(scene(config)).values()
    assert time.monotonic() - begin_s < 3
    assert (found.id, found.level) == ("bundle.present", Level.WARNING)
    assert "which one is active cannot be told" in found.text


def test_a_variant_that_would_run_but_not_on_its_accelerator_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    npu = variant_json("npu", "model.onnx", providers=["CPUExecutionProvider"])
    npu["placement"] = {**npu["placement"], "accelerator": "npu"}
    folder = tiny_folder(tmp_path / "b", [npu], profile=PROFILE.name)
    engine = Engine("onnxruntime", "w8", ("NoneExecutionProvider",), 1, {}, accelerator="npu")
    profile = dataclasses.replace(PROFILE, engines=(engine,))
    here = Scene(root=small(tmp_path / "r"), profile=profile, bundle=folder, architecture="x86_64")
    found = looked(here)["npu"]
    assert found.level is Level.WARNING
    assert found.text.startswith("yes, but not on npu: NoneExecutionProvider is not among")


def test_a_variant_whose_delegate_does_not_load_says_so_as_its_engine_does(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = tiny_folder(
        tmp_path / "b", [variant_json("lite", "model.tflite")], profile=PROFILE.name
    )
    engine = Engine("litert", "w8", (), 1, {"delegate": "/nowhere/libx.so"})
    profile = dataclasses.replace(PROFILE, engines=(engine,))
    here = Scene(root=small(tmp_path / "r"), profile=profile, bundle=folder, architecture="x86_64")
    assert looked(here)["lite"].text.startswith("no: delegate /nowhere/libx.so: cannot be loaded")


def test_pipes_in_the_place_of_files_are_told_and_never_waited_for(
    device: AgentConfig, tmp_path: Path
) -> None:
    assert device.broker is not None
    paths = [tmp_path / name for name in ("cert.pem", "key.pem", "root.json", "reported.json")]
    (tmp_path / "trust").mkdir()
    for path in (*paths, tmp_path / "journal.json", tmp_path / "trust/time.json"):
        os.mkfifo(path)
    files = dataclasses.replace(device.broker, cert_file=paths[0], key_file=paths[1])
    config = dataclasses.replace(device, state_dir=tmp_path, root=paths[2], broker=files)
    here = scene(config, offline=True)
    begin_s = time.monotonic()
    found = [
        finding
        for look in (
            identity.certificate, identity.key, identity.root, identity.metadata,
            clocks.floor, bundles.degraded, storage.free,
        )
        for finding in look(here)
    ]  # fmt: skip
    assert time.monotonic() - begin_s < 2
    told = {f.id: f.level for f in found if "is no regular file" in f.text}
    assert told == {
        "identity.certificate": Level.OBSTACLE,
        "identity.key": Level.OBSTACLE,
        "identity.root": Level.OBSTACLE,
        "clock.floor": Level.WARNING,
        "bundle.degraded": Level.UNKNOWN,
    }


def test_the_bounds_of_the_doctor_add_up_to_three_seconds() -> None:
    assert integrity.READ_S < examine.ENGINES_S
    assert examine.ENGINES_S + engines.END_S + bounded.END_S <= examine.LOOK_S <= 2.6


def test_a_device_without_a_bundle_waits_for_one_or_says_how_to_get_one(tmp_path: Path) -> None:
    config = AgentConfig("d", PROFILE.name, tmp_path, "none")
    assert looked(scene(config))["bundle.present"].level is Level.WARNING
    waiting = dataclasses.replace(config, broker=BrokerConfig("b", 1883))
    assert looked(scene(waiting))["bundle.present"].level is Level.OK
    lost = dataclasses.replace(config, first_bundle=tmp_path / "gone.edge")
    assert looked(scene(lost))["bundle.present"].level is Level.OBSTACLE


@pytest.mark.parametrize("degraded", ["", "delegate libx.so did not start"])
def test_what_the_agent_reported_of_its_accelerator_is_told(tmp_path: Path, degraded: str) -> None:
    config = AgentConfig("d", PROFILE.name, tmp_path, "none")
    assert list(bundles.degraded(scene(config))) == []
    reporting = Reporting(config, PROFILE, "1", 0.0)
    status = Status(1, "idle", None, None, (), None, 0, 0.0, "", "none")
    reporting.report(status, None)
    assert list(bundles.degraded(scene(config))) == []  # Nothing serves: nothing is kept.
    reporting.report(status, Accelerator("npu-int8", "litert: libx.so", "litert: cpu", degraded))
    (found,) = bundles.degraded(scene(config))
    assert found.level is (Level.WARNING if degraded else Level.OK)
    assert degraded in found.text
    assert "when the agent ran last" in found.text
    (tmp_path / "reported.json").write_text("{")
    assert levels(bundles.degraded(scene(config))) == {"bundle.degraded": Level.UNKNOWN}


# The command.


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        'device_id = "d"\nprofile = "generic-x86_64"\nstate_dir = "state"\ntrust = "none"\n'
        "[api]\nport = 0\n"
    )
    return path


def test_the_doctor_needs_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == int(any(f["level"] == "obstacle" for f in found))
    assert {"machine.profile", "machine.architecture", "clock.plausible"} <= {
        f["id"] for f in found
    }
    assert {tuple(f) for f in found} == {("id", "subject", "level", "text", "advice", "values")}
    assert not any(f["id"].startswith(("identity.", "broker.", "bundle.")) for f in found)


def test_the_doctor_is_over_in_three_seconds_and_changes_nothing(
    config: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    begin_s = time.monotonic()
    code = main(["doctor", "--config", str(config), "--bundle", str(tiny)])
    took_s = time.monotonic() - begin_s
    text = capsys.readouterr().out
    assert code == 0, text
    assert "not signed" in text
    assert "  cpu " in text
    assert [path.name for path in config.parent.iterdir()] == ["agent.toml"]
    # Three on a machine of one's own; this one may run other tests beside.
    assert took_s < 9


def test_a_configuration_or_bundle_that_is_none_fails_in_one_sentence(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--config", str(tmp_path / "gone.toml")]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert main(["doctor", "--profile", "raspberry-pi-9"]) == 1
    assert "known are" in capsys.readouterr().err
    hostile = write_bundle(tmp_path / "b")[0]
    (hostile / "manifest.json").write_text("[]")
    for path in (hostile, tmp_path / "gone.edge", "/nowhere/\0"):
        assert main(["doctor", "--offline", "--bundle", str(path), "--json"]) == 1
        found = {f["id"]: f for f in json.loads(capsys.readouterr().out)}
        assert found["bundle.present"]["level"] == "obstacle"
