"""A real mosquitto on exactly what `edge-fleet broker` wrote: who gets in, and who may do what.

The matrix asks for every topic, every role and both protocols whether a message goes through. On
MQTT 3.1.1 a forbidden publish looks like any other, so only a subscriber's word counts; a forbidden
subscription is granted on both, so only what is delivered counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_runtime.agent.asks import Asks
from edge_runtime.agent.config import load_config
from edge_runtime.errors import TransferError
from edge_runtime.fleet.cli import main
from edge_runtime.fleet.enroll import enroll, revoke_device
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.mosquitto import write
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.base import Will
from edge_runtime.link.mqtt import MqttLink
from edge_runtime.messages.fleet import Online, to_bytes
from edge_runtime.messages.topics import Topics
from tests.fakes.brokers import BrokerProcess, free_port, served_folder, written
from tests.fakes.homes import make_home

pytestmark = pytest.mark.system
WAIT_S = 30.0
PROFILE = "generic-x86_64"
PREFIX = "edge/v1"
A, B, OPERATOR = "press-7", "press-8", "operator"
ROLES = (A, B, OPERATOR)
VERSIONS = ("5", "3.1.1")
SHA = "ab" * 32


def until(done: Callable[[], bool], what: str = "") -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


class Client:
    """A link, what it has heard, and a way to know that the broker has worked what it sent."""

    def __init__(
        self, name: str, config: BrokerConfig, own: str, will: Will | None, client_id: str = ""
    ) -> None:
        config = dataclasses.replace(config, backoff_base_s=0.05, backoff_cap_s=0.2)
        self.name = name
        self.seen: list[Message] = []
        self.on_message: Callable[[Message], None] = self.seen.append
        self._own = own
        self._count = 0
        self.link = MqttLink(
            config,
            client_id or f"{name}-{os.urandom(4).hex()}",
            lambda message: self.on_message(message),
            will=will,
        )

    def subscribe(self, *filters: str) -> None:
        """When this returns, the broker knows of it."""
        self.link.subscribe(filters)
        self.fence()

    def fence(self) -> str:
        """Publish something that this client may; returns its payload, after it was taken.

        The broker works a client's packets in order, so all that came before was worked, too.
        """
        self._count += 1
        payload = f"fence {self.name} {id(self)} {self._count}"
        self.link.publish(self._own, payload.encode())
        self.link.flush(WAIT_S)
        return payload

    def heard(self, payload: str) -> bool:
        return any(message.payload == payload.encode() for message in self.seen)


class Fleet:
    """A home with two devices, its broker, and clients that know nothing but their folders."""

    def __init__(self, folder: Path, autosave_s: int = 30) -> None:
        self.port = free_port()
        url = f"mqtts://127.0.0.1:{self.port}"
        self.home: Home = make_home(folder / "fleet", broker=url, prefix=PREFIX, now=None)
        self._devices = {name: enroll(self.home, name, PROFILE).folder for name in (A, B)}
        self.folder = write(self.home, out=folder / "broker", autosave_s=autosave_s).folder
        self.topics = Topics(PREFIX)
        self._stack = ExitStack()
        self._clients: list[Client] = []
        self.broker: BrokerProcess

    def __enter__(self) -> Fleet:
        self.broker = self._stack.enter_context(written(self.folder, self.port))
        return self

    def __exit__(self, *_: object) -> None:
        self.part()
        self._stack.close()

    def part(self) -> None:
        """Close every client."""
        while self._clients:
            self._clients.pop().link.close()

    def config(self, name: str) -> BrokerConfig:
        """How `name` connects: a device by its agent.toml, the operator by its folder."""
        home = self.home
        if name == OPERATOR:
            return BrokerConfig.parse(
                home.read().broker,
                ca_file=home.operator_ca,
                cert_file=home.operator_certificate,
                key_file=home.operator_key,
            )
        found = load_config(self._devices[name] / "agent.toml", {}).broker
        assert found is not None
        return found

    def own(self, name: str) -> str:
        """A topic that it may write, and the operator read."""
        return f"{PREFIX}/fleet/fence/t" if name == OPERATOR else self.topics.device(name, "event")

    def client(
        self, name: str, version: str = "auto", *, will: Will | None = None, client_id: str = ""
    ) -> Client:
        """Connected."""
        config = dataclasses.replace(self.config(name), version=version)
        made = Client(name, config, self.own(name), will, client_id)
        self._clients.append(made)
        made.link.start()
        made.link.wait_connected(WAIT_S)
        return made

    def admits(self, config: BrokerConfig, session: ssl.SSLSession | None = None) -> bool:
        """Whether the broker takes one connection, by hand: it says so, or hangs up."""
        context = config.tls_context()
        return self.handshake(context, session) is not None

    def handshake(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> ssl.SSLSession | None:
        """The TLS session of a connection that was taken."""
        hello = bytes([0x10, 15, 0, 4]) + b"MQTT" + bytes([4, 2, 0, 60, 0, 3]) + b"abc"
        host = "127.0.0.1"
        with (
            suppress(OSError),
            socket.create_connection((host, self.port), WAIT_S) as plain,
            context.wrap_socket(plain, server_hostname=host, session=session) as secure,
        ):
            secure.sendall(hello)
            if secure.recv(4) == bytes([0x20, 2, 0, 0]):
                return secure.session
        return None


@pytest.fixture(scope="module")
def shared() -> Iterator[Fleet]:
    with served_folder() as folder, Fleet(folder) as made:
        yield made


@pytest.fixture
def fleet(shared: Fleet) -> Iterator[Fleet]:
    """One broker for all tests that leave it as it is."""
    yield shared
    shared.part()


@pytest.fixture
def another() -> Iterator[Fleet]:
    """For tests that stop the broker, or take somebody's certificate."""
    with served_folder() as folder, Fleet(folder, autosave_s=1) as made:
        yield made


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Root, for a while, as another user; files belong to that one."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's mosquitto becomes another user")
def test_roots_mosquitto_runs_on_the_files_of_the_user_who_wrote_them() -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    with served_folder() as folder:
        fleet = Fleet(folder)
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, uid, -1)
        with acting_as(uid):
            write(fleet.home, out=fleet.folder)
        assert stat.S_IMODE((fleet.folder / "acl").stat().st_mode) == 0o600
        with fleet:
            fleet.client(OPERATOR).fence()
            told = Path(f"/proc/{fleet.broker.pid}/status").read_text().split("Uid:")[1]
            assert told.split()[:3] == [str(uid)] * 3


# The matrix.


def of_device(device: str) -> list[str]:
    kinds = ("desired", "reported", "online", "telemetry", "event", "command", "command/result",
             "infer/r1", "infer/r1/result",
             "other", "desired/more", "infer", "infer/r1/result/more")  # fmt: skip
    return [f"device/{device}/{kind}" for kind in kinds]


TOPICS = (
    *of_device(A),
    *of_device(B),
    "repo/metadata/timestamp.json",
    "repo/metadata/1.root.json",
    "repo/metadata/demo@1.0.0@board.json",
    f"repo/chunk/{SHA}",
    "repo/other",
    "fleet/fence/0123",
    "fleet/other",
    "other",
)
READS = ("desired", "command", "infer/r1")
WRITES = ("reported", "online", "telemetry", "event", "command/result", "infer/r1/result")


def allowed(role: str, access: str, topic: str) -> bool:
    """What the product promises, in its own words: not read from what it wrote."""
    if role == OPERATOR:
        return True
    if access == "read":
        repository = topic.startswith(("repo/metadata/", "repo/chunk/"))
        return repository or topic in [f"device/{role}/{kind}" for kind in READS]
    return topic in [f"device/{role}/{kind}" for kind in WRITES]


class Cell(NamedTuple):
    version: str
    role: str
    access: str
    topic: str


CELLS = [
    Cell(version, role, access, topic)
    for version in VERSIONS
    for role in ROLES
    for access in ("read", "write")
    for topic in TOPICS
]


def strip(topic: str) -> str:
    return topic.removeprefix(f"{PREFIX}/")


def try_to_write(fleet: Fleet, role: str, version: str) -> tuple[set[str], set[str]]:
    """Topics that a subscriber got something on, and those the writer was told are forbidden."""
    watcher, writer = fleet.client(OPERATOR), fleet.client(role, version)
    watcher.subscribe(f"{PREFIX}/#")
    told: set[str] = set()
    for topic in TOPICS:
        before = writer.link.stats().refused
        writer.link.publish(f"{PREFIX}/{topic}", f"{role} {version}".encode(), retain=True)
        with suppress(TransferError):
            writer.link.flush(WAIT_S)
        if writer.link.stats().refused > before:
            told.add(topic)
    fence = writer.fence()
    until(lambda: watcher.heard(fence), "the watcher hears the fence")
    words = f"{role} {version}".encode()
    got = {strip(m.topic) for m in watcher.seen if m.payload == words and not m.retain}
    late = fleet.client(OPERATOR)
    late.subscribe(f"{PREFIX}/#")
    fence = late.fence()
    until(lambda: late.heard(fence), "all that is kept has come")
    assert {strip(m.topic) for m in late.seen if m.payload == words} == got
    return got, told


def try_to_read(fleet: Fleet, role: str, version: str) -> tuple[set[str], set[str]]:
    """Topics of which it got what was just published, and those of which it got what was kept."""
    author = fleet.client(OPERATOR)
    for topic in TOPICS:
        author.link.publish(f"{PREFIX}/{topic}", b"for everybody", retain=True)
    author.fence()
    reader = fleet.client(role, version)
    # By wildcards of each kind, and by name.
    reader.subscribe("#", f"{PREFIX}/+/+/desired", *(f"{PREFIX}/{topic}" for topic in TOPICS))
    for topic in TOPICS:
        author.link.publish(f"{PREFIX}/{topic}", b"for everybody", retain=True)
    last = f"{PREFIX}/device/{A if role == OPERATOR else role}/command"
    author.link.publish(last, b"that was all")
    until(lambda: reader.heard("that was all"), "the reader hears the last message")
    mine = [m for m in reader.seen if m.payload == b"for everybody"]
    return {strip(m.topic) for m in mine if not m.retain}, {
        strip(m.topic) for m in mine if m.retain
    }


class Found(NamedTuple):
    done: dict[Cell, bool]
    kept: dict[Cell, bool]
    told: dict[Cell, bool]


@pytest.fixture(scope="module")
def found(shared: Fleet) -> Found:
    """Every cell, tried once on one broker."""
    result = Found({}, {}, {})
    for version in VERSIONS:
        for role in ROLES:
            wrote, told = try_to_write(shared, role, version)
            read, kept = try_to_read(shared, role, version)
            shared.part()
            for topic in TOPICS:
                writing = Cell(version, role, "write", topic)
                reading = Cell(version, role, "read", topic)
                result.done[writing], result.told[writing] = topic in wrote, topic in told
                result.done[reading], result.kept[reading] = topic in read, topic in kept
    return result


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c.version}-{c.role}-{c.access}-{c.topic}")
def test_every_cell_of_the_rights_is_as_promised(found: Found, cell: Cell) -> None:
    expected = allowed(cell.role, cell.access, cell.topic)
    assert found.done[cell] == expected
    if cell.access == "read":
        assert found.kept[cell] == expected
    else:
        assert found.told[cell] == (cell.version == "5" and not expected)


def test_the_matrix_has_cells_of_both_kinds_for_every_role() -> None:
    """So that a broker that forbids, or allows, everything could not pass."""
    for role in (A, B):
        for access in ("read", "write"):
            words = {allowed(role, access, topic) for topic in TOPICS}
            assert words == {True, False}


@pytest.mark.parametrize("role", ROLES)
def test_nobody_writes_outside_the_prefix(fleet: Fleet, role: str) -> None:
    client = fleet.client(role, "5")
    for topic in ("other", "edge/v2/device/press-7/desired", "$SYS/broker/uptime", "edge"):
        client.link.publish(topic, b"x")
        with pytest.raises(TransferError):
            client.link.flush(WAIT_S)


def test_only_the_operator_sees_what_the_broker_says_of_itself(fleet: Fleet) -> None:
    device, operator = fleet.client(A), fleet.client(OPERATOR)
    for client in (device, operator):
        client.subscribe("$SYS/#", "$SYS/broker/version")
    until(lambda: any("version" in m.topic for m in operator.seen))
    author = fleet.client(OPERATOR)
    author.link.publish(f"{PREFIX}/device/{A}/command", b"last")
    device.subscribe(f"{PREFIX}/device/{A}/command")
    author.link.publish(f"{PREFIX}/device/{A}/command", b"last")
    until(lambda: device.heard("last"))
    assert [m for m in device.seen if m.topic.startswith("$SYS")] == []


def test_a_shared_subscription_is_no_way_round_the_rights(fleet: Fleet) -> None:
    device, author = fleet.client(A, "5"), fleet.client(OPERATOR)
    device.subscribe(f"$share/g/{PREFIX}/#", f"$share/g/{PREFIX}/device/{B}/desired",
                     f"{PREFIX}/device/{A}/command")  # fmt: skip
    author.link.publish(f"{PREFIX}/device/{B}/desired", b"secret")
    author.link.publish(f"{PREFIX}/device/{A}/command", b"last")
    until(lambda: device.heard("last"))
    assert not device.heard("secret")


def test_a_last_will_on_another_devices_topic_is_never_published(fleet: Fleet) -> None:
    watcher = fleet.client(OPERATOR)
    watcher.subscribe(f"{PREFIX}/device/#")
    own, other = (
        Will(f"{PREFIX}/device/{name}/online", f"gone {name}".encode()) for name in (A, B)
    )
    fleet.client(A, will=other, client_id="liar")
    fleet.client(A, will=own, client_id="honest")
    fleet.client(B, client_id="liar")  # Whoever takes a client id ends the one who had it.
    fleet.client(B, client_id="honest")
    until(lambda: watcher.heard(f"gone {A}"), "the honest will")
    assert not watcher.heard(f"gone {B}")


def test_an_answer_may_go_where_the_question_was_asked_and_nowhere_else(fleet: Fleet) -> None:
    """MQTT 5 lets a request name any topic for its answer; these are the ones that work."""
    asker, device = fleet.client(OPERATOR, "5"), fleet.client(A, "5")
    device.subscribe(fleet.topics.infer(A))
    own, other = fleet.topics.infer_result(A, "x9"), fleet.topics.infer_result(B, "x9")
    asker.subscribe(own, other)
    asker.link.publish(fleet.topics.infer(A, "q1"), b"ask", response_topic=own, correlation=b"7")
    until(lambda: device.heard("ask"))
    (question,) = [m for m in device.seen if m.payload == b"ask"]
    assert (question.response_topic, question.correlation) == (own, b"7")
    device.link.publish(other, b"astray")
    with pytest.raises(TransferError, match="refused"):
        device.link.flush(WAIT_S)
    device.link.publish(own, b"answer", correlation=b"7")
    until(lambda: asker.heard("answer"))
    assert not asker.heard("astray")


def test_the_operators_commands_need_nothing_but_the_home(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They find the broker, the prefix and the certificate there; and the fence comes back."""
    monkeypatch.delenv("EDGE_FLEET_BROKER", raising=False)
    device = fleet.client(B)
    device.link.publish(fleet.topics.device(B, "online"), to_bytes(Online(True, "b1")), retain=True)
    device.link.flush(WAIT_S)
    home = ["--home", str(fleet.home.folder)]
    assert main(["status", "--device", B, "--json", *home]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["devices"]
    assert (row["device"], row["online"]) == (B, True)
    assert "did not confirm" not in captured.err
    # What is said on the command line goes before what the home says.
    assert main(["status", "--broker", "mqtt://127.0.0.1:1", "--timeout", "1", *home]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    for words in (["--cert", "/nowhere"], ["--ca", "/nowhere"]):
        assert main(["status", *words, *home]) == 2
        assert "/nowhere" in capsys.readouterr().err


def test_a_device_answers_the_operators_question_through_the_rights(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_FLEET_BROKER", raising=False)
    device = fleet.client(A)
    asks = Asks(fleet.topics, device.link, lambda _ask: False)
    device.on_message = asks.receive
    device.subscribe(fleet.topics.infer(A))
    assert main(["ask", A, "what is it?", "--home", str(fleet.home.folder)]) == 1
    assert "no bundle serves on this device now" in capsys.readouterr().err


# Who gets in.


def test_a_client_without_a_certificate_is_refused(fleet: Fleet) -> None:
    config = dataclasses.replace(fleet.config(A), cert_file=None, key_file=None)
    assert fleet.admits(fleet.config(A))
    assert not fleet.admits(config)


def test_a_password_is_no_substitute_and_a_user_name_changes_nothing(fleet: Fleet) -> None:
    config = dataclasses.replace(fleet.config(A), username=OPERATOR, password="x")
    without = dataclasses.replace(config, cert_file=None, key_file=None)
    assert not fleet.admits(without)
    liar = Client(A, config, fleet.own(A), None)
    liar.link.start()
    try:
        liar.link.wait_connected(WAIT_S)
        liar.link.publish(f"{PREFIX}/device/{A}/desired", b"x")
        with pytest.raises(TransferError):
            liar.link.flush(WAIT_S)
    finally:
        liar.link.close()


def test_a_certificate_of_another_fleet_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    stranger = make_home(tmp_path / "other", broker=fleet.home.read().broker, now=None)
    config = dataclasses.replace(
        fleet.config(OPERATOR),
        cert_file=stranger.operator_certificate,
        key_file=stranger.operator_key,
    )
    assert not fleet.admits(config)


def test_the_brokers_own_certificate_is_no_clients(fleet: Fleet) -> None:
    config = dataclasses.replace(
        fleet.config(A), cert_file=fleet.folder / "broker.pem", key_file=fleet.folder / "broker.key"
    )
    assert not fleet.admits(config)


def test_a_device_cannot_pass_for_the_broker(fleet: Fleet) -> None:
    """Clients check what a certificate is for, and whose name it holds."""
    config = fleet.config(B)
    assert config.cert_file is not None
    assert config.key_file is not None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(config.cert_file, config.key_file)
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    fake = server.wrap_bio(ours, theirs, server_side=True)
    client = fleet.config(A).tls_context().wrap_bio(theirs, ours, server_hostname="127.0.0.1")

    def shake_hands() -> None:
        for side in (client, fake) * 10:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()

    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands()


def test_who_speaks_no_tls_gets_nothing(fleet: Fleet) -> None:
    plain = BrokerConfig(host="127.0.0.1", port=fleet.port, connect_timeout_s=2.0)
    link = MqttLink(plain, "plain", lambda _message: None)
    link.start()
    try:
        with pytest.raises(TransferError):
            link.wait_connected(2.0)
    finally:
        link.close()


def test_a_packet_larger_than_any_message_costs_its_sender_the_connection(fleet: Fleet) -> None:
    watcher, client = fleet.client(OPERATOR), fleet.client(A, "3.1.1")
    topic = fleet.topics.infer_result(A, "big")
    watcher.subscribe(topic)
    client.link.publish(topic, b"f" * (1 << 20))
    client.link.flush(WAIT_S)
    until(lambda: bool(watcher.seen), "1 MiB goes through")
    client.link.publish(topic, b"t" * (2 << 20))
    until(lambda: client.link.stats().connections > 1, "it is thrown out, and comes back")
    assert [len(m.payload) for m in watcher.seen] == [1 << 20]


# Revoking.


def test_a_revoked_certificate_is_refused_once_the_broker_was_reloaded(another: Fleet) -> None:
    """And what stays: the others, and a connection that was there before."""
    connected, context = another.client(B), another.config(B).tls_context()
    session = another.handshake(context)
    assert session is not None
    assert session.has_ticket
    done = revoke_device(another.home, B)
    assert len(done.gone) == 1
    shutil.copyfile(another.home.crl, another.folder / "crl.pem")
    assert another.admits(another.config(B)), "nothing changes before the broker has read it"
    another.broker.reload()
    until(lambda: not another.admits(another.config(B)), "it is refused after the reload")
    # A ticket from before, with which TLS could skip the certificates, does not help.
    assert another.handshake(context, session) is None
    assert another.admits(another.config(A))
    # A reload ends no connection. This is why the page says to restart after a theft.
    connected.fence()
    another.broker.restart()
    with pytest.raises(TransferError):
        connected.link.wait_connected(3.0)
    assert not another.admits(another.config(B))
    assert another.admits(another.config(A))


def test_a_device_that_was_enrolled_again_comes_in_with_its_new_certificate(
    another: Fleet, tmp_path: Path
) -> None:
    old = dataclasses.replace(another.config(A))
    for file in ("device.pem", "device.key"):
        shutil.copyfile(another.home.device(A) / file, tmp_path / file)
    old = dataclasses.replace(
        old, cert_file=tmp_path / "device.pem", key_file=tmp_path / "device.key"
    )
    revoke_device(another.home, A)
    enroll(another.home, A, PROFILE)
    shutil.copyfile(another.home.crl, another.folder / "crl.pem")
    another.broker.reload()
    until(lambda: not another.admits(old), "the old one is refused")
    assert another.admits(another.config(A))


# What is kept.


def test_what_is_retained_survives_a_kill(another: Fleet) -> None:
    author = another.client(OPERATOR)
    chunk, wanted = os.urandom(131072), b"the desired state"
    author.link.publish(another.topics.chunk(SHA), chunk, retain=True)
    author.link.publish(another.topics.device(A, "desired"), wanted, retain=True)
    author.link.flush(WAIT_S)
    device = another.client(A)
    reported = another.topics.device(A, "reported")
    device.link.publish(reported, b"what A says", retain=True)
    device.link.flush(WAIT_S)
    device.link.close()
    author.link.close()
    database = another.folder / "data" / "mosquitto.db"
    until(
        lambda: database.exists() and b"what A says" in database.read_bytes(),
        "autosave has written it",
    )
    another.broker.kill()
    another.broker.start()
    reader, operator = another.client(A), another.client(OPERATOR)
    reader.subscribe(another.topics.device(A, "desired"), another.topics.chunk(SHA))
    operator.subscribe(reported)
    until(lambda: len(reader.seen) == 2 and bool(operator.seen), "all of it comes back")
    assert {m.payload for m in reader.seen} == {chunk, wanted}
    assert all(m.retain for m in reader.seen)


def test_the_configuration_uses_nothing_that_mosquitto_grumbles_about(fleet: Fleet) -> None:
    """A note or warning today is an option that is gone tomorrow. Two warnings are meant so.

    A third is of these tests, where root runs them.
    """
    words = ("Warning", "Error", "deprecated", "recommended", "Unknown")
    lines = [
        line
        for line in fleet.broker.log.read_text("utf-8").splitlines()
        if any(word in line for word in words)
        and "OpenSSL" not in line
        and "should not be run as root" not in line
    ]
    assert [line for line in lines if "does not contain '%c' or '%u'" not in line] == []
