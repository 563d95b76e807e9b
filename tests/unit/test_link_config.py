"""A broker's address and secrets: every fault at once, and no secret in any text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.link import BrokerConfig


def test_url_gives_host_port_and_encryption() -> None:
    plain = BrokerConfig.parse("mqtt://broker.example")
    assert (plain.host, plain.port, plain.tls) == ("broker.example", 1883, False)
    secure = BrokerConfig.parse("mqtts://broker.example:9000/")
    assert (secure.host, secure.port, secure.tls) == ("broker.example", 9000, True)


@pytest.mark.parametrize("scheme", ["MQTTS", "mqttS", " mqtts", "\tmqtts", "\n mqtts"])
def test_encryption_hangs_on_the_scheme_however_it_is_written(scheme: str) -> None:
    config = BrokerConfig.parse(f"{scheme}://fleet:s3cret@h ")
    assert (config.host, config.port, config.tls) == ("h", 8883, True)


@pytest.mark.parametrize("scheme", ["MQTT", " mqtt"])
def test_a_plain_scheme_stays_plain_however_it_is_written(scheme: str) -> None:
    config = BrokerConfig.parse(f"{scheme}://h")
    assert (config.port, config.tls) == (1883, False)


def test_ipv6_host_is_shown_in_brackets() -> None:
    assert BrokerConfig.parse("mqtt://[::1]:1884").address == "[::1]:1884"


def test_user_and_password_are_decoded_from_the_url() -> None:
    config = BrokerConfig.parse("mqtt://fl%40eet:s%3Acret@h")
    assert (config.username, config.password) == ("fl@eet", "s:cret")


def test_password_comes_from_its_file_without_the_newline(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    config = BrokerConfig.parse("mqtt://h", username="fleet", password_file=secret)
    assert config.password == "hunter2"


def test_repr_holds_no_password() -> None:
    assert "s3cret" not in repr(BrokerConfig.parse("mqtt://fleet:s3cret@h"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", "expected mqtt or mqtts"),
        ("h:1883", "expected mqtt or mqtts"),
        ("", "no scheme"),
        ("mqtt://", "names no host"),
        ("mqtt://h:0", "port is 0"),
        ("mqtt://h:99999", "malformed"),
        ("mqtt://h:port", "malformed"),
        ("mqtt://[::1", "malformed"),
        ("mqtt://h/prefix", "after host and port"),
        ("mqtt://h?x=1", "after host and port"),
        ("mqtt://:pw@h", "no user name"),
    ],
)
def test_bad_url_is_explained(url: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        BrokerConfig.parse(url)


def test_password_in_a_bad_url_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        BrokerConfig.parse("mqtt://fleet:s3cret@h:port/x")
    assert "s3cret" not in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        BrokerConfig.parse(
            "mqtt://a:b@h/x",
            username="c",
            password_file=tmp_path / "none",
            ca_file=tmp_path / "ca",
            cert_file=tmp_path / "cert",
            version="4",
        )
    text = str(caught.value)
    for fault in (
        "after host and port",
        "user name is given twice",
        "password is given twice",
        "only a mqtts:// URL is encrypted",
        "certificate is given without its key",
        "CA file",
        "version is '4'",
    ):
        assert fault in text


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 5000])
def test_unusable_password_file_is_named(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content)
    with pytest.raises(InputError, match=str(secret)):
        BrokerConfig.parse("mqtt://h", username="u", password_file=secret)


def test_password_file_without_a_user_name_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("x")
    with pytest.raises(InputError, match="no user name"):
        BrokerConfig.parse("mqtt://h", password_file=secret)


def test_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("not a certificate")
    with pytest.raises(InputError, match=r"CA file .*ca\.pem: not usable"):
        BrokerConfig.parse("mqtts://h", ca_file=ca)


def test_key_with_a_passphrase_is_refused_instead_of_asked_for(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-passout",
        "pass:geheim",
        "-subj",
        "/CN=x",
        "-days",
        "1",
    ]
    subprocess.run(
        [*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60
    )
    with pytest.raises(InputError, match="not usable"):
        BrokerConfig.parse("mqtts://h", cert_file=cert, key_file=key)
