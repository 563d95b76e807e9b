"""What only a real broker can say: encryption, logins, forbidden topics, lost floods."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import TransferError
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.mqtt import MqttLink
from tests.fakes.brokers import mosquitto

pytestmark = pytest.mark.system
WAIT_S = 15.0


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[MqttLink, list[Message]]]]:
    links = []

    def make(config: BrokerConfig, name: str) -> tuple[MqttLink, list[Message]]:
        seen: list[Message] = []
        config = dataclasses.replace(config, backoff_base_s=0.05, backoff_cap_s=0.5)
        link = MqttLink(config, name, seen.append)
        links.append(link)
        link.start()
        return link, seen

    yield make
    for link in links:
        link.close()


Connect = Callable[..., tuple[MqttLink, list[Message]]]


def until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


def certificate(folder: Path, name: str, ca: Path) -> tuple[Path, Path]:
    """(certificate, key) for 127.0.0.1, signed by `ca` (its key lies beside it)."""
    cert, key, request = (folder / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key,
            "-out", request)  # fmt: skip
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca.with_suffix(".key"),
            "-CAcreateserial", "-days", 2, "-extfile", extensions, "-out", cert)  # fmt: skip
    return cert, key


def authority(folder: Path, name: str) -> Path:
    cert = folder / f"{name}.crt"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days", 2,
            "-keyout", folder / f"{name}.key", "-out", cert)  # fmt: skip
    return cert


def test_mutual_tls_is_verified_on_both_sides(tmp_path: Path, connect: Connect) -> None:
    ca, stranger = authority(tmp_path, "ca"), authority(tmp_path, "stranger")
    server_cert, server_key = certificate(tmp_path, "server", ca)
    cert, key = certificate(tmp_path, "device", ca)
    lines = [f"cafile {ca}", f"certfile {server_cert}", f"keyfile {server_key}",
             "require_certificate true"]  # fmt: skip
    with mosquitto(lines) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        good = BrokerConfig.parse(url, ca_file=ca, cert_file=cert, key_file=key)
        link, seen = connect(good, "good")
        link.wait_connected(WAIT_S)
        payload = os.urandom(128 << 10)
        link.subscribe(["t"])
        link.publish("t", payload, retain=True)
        until(lambda: [m.payload for m in seen] == [payload])

        other = BrokerConfig.parse(url, ca_file=stranger, cert_file=cert, key_file=key)
        link, _ = connect(other, "stranger")
        with pytest.raises(TransferError, match="certificate verify failed"):
            link.wait_connected(1)

        link, _ = connect(BrokerConfig.parse(url, ca_file=ca), "bare")
        with pytest.raises(TransferError, match="not connected within"):
            link.wait_connected(1)

        name = dataclasses.replace(good, host="localhost")
        link, _ = connect(name, "wrong-name")
        with pytest.raises(TransferError, match="certificate verify failed"):
            link.wait_connected(1)


def test_wrong_password_is_refused_and_the_right_one_is_not(
    tmp_path: Path, connect: Connect
) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords = tmp_path / "passwords"
    subprocess.run([program, "-b", "-c", passwords, "fleet", "right"], check=True, timeout=30)
    secret = tmp_path / "secret"
    with mosquitto([f"password_file {passwords}", "allow_anonymous false"]) as broker:
        secret.write_text("right\n")
        config = BrokerConfig.parse(broker.url, username="fleet", password_file=secret)
        connect(config, "good")[0].wait_connected(WAIT_S)
        secret.write_text("wrong\n")
        config = BrokerConfig.parse(broker.url, username="fleet", password_file=secret)
        with pytest.raises(TransferError, match="refused: Not authorized"):
            connect(config, "bad")[0].wait_connected(1)


def test_forbidden_publish_fails_the_flush_on_mqtt_5(tmp_path: Path, connect: Connect) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    with mosquitto([f"acl_file {acl}"]) as broker:
        link, _ = connect(BrokerConfig.parse(broker.url), "writer")
        link.publish("open/a", b"x")
        link.publish("closed/a", b"x")
        with pytest.raises(TransferError, match="refused to accept closed/a"):
            link.flush(WAIT_S)
        assert (link.stats().sent, link.stats().refused) == (1, 1)
        link.publish("open/b", b"x")
        link.flush(WAIT_S)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_broker_of_either_version_carries_the_same_messages(version: str, connect: Connect) -> None:
    with mosquitto() as broker:
        config = BrokerConfig.parse(broker.url, version=version)
        link, seen = connect(config, "a")
        link.subscribe(["t"])
        link.publish("t", b"x", retain=True)
        until(lambda: len(seen) >= 1)
        assert seen[0].payload == b"x"


def test_killed_broker_loses_no_message_that_was_accepted(connect: Connect) -> None:
    with mosquitto() as broker:
        link, _ = connect(BrokerConfig.parse(broker.url), "writer")
        link.wait_connected(WAIT_S)
        broker.kill()
        for number in range(200):
            assert link.publish(f"t/{number}", b"%d" % number, retain=True)
        broker.start()
        link.flush(WAIT_S)
        reader, seen = connect(BrokerConfig.parse(broker.url), "reader")
        reader.subscribe(["t/#"])
        until(lambda: len({m.topic for m in seen}) == 200)
