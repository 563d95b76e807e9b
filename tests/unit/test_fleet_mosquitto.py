"""The broker's folder as `edge-fleet broker` writes it. What a broker makes of it: tests/system."""

from __future__ import annotations

import os
import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edge_runtime.errors import InputError
from edge_runtime.fleet import identity_options, mosquitto
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.certificates import Role
from edge_runtime.fleet.cli import main
from edge_runtime.fleet.enroll import STATE_DIR, enroll, revoke_device
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.mosquitto import RIGHTS, write
from edge_runtime.link.topics import check_filter
from edge_runtime.messages.topics import DELIVERY, Topics
from tests.fakes.homes import NOW, make_home

PAGE = Path(__file__).parents[2] / "docs" / "broker.md"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "fleet")


def settings(config: Path) -> dict[str, str]:
    """Of a mosquitto.conf, which mosquitto reads in the same way; no setting stands twice."""
    lines = [
        line for line in config.read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
    found = dict(line.split(" ", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def certificate(home: Home) -> x509.Certificate:
    return x509.load_pem_x509_certificate((home.broker / "broker.pem").read_bytes())


def hosts(home: Home) -> list[str]:
    found = certificate(home).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def test_everything_that_a_mosquitto_needs_lies_in_one_folder(home: Home) -> None:
    made = write(home, now=NOW)
    names = {path.name for path in home.broker.iterdir()}
    assert names == {
        *("mosquitto.conf", "acl", "ca.pem", "crl.pem", "broker.pem", "broker.key", "data"),
    }
    found = settings(home.broker / "mosquitto.conf")
    for key in ("acl_file", "cafile", "crlfile", "certfile", "keyfile"):
        assert Path(found[key]).is_file()
        assert Path(found[key]).parent == home.broker
    assert Path(found["persistence_location"]).is_dir()
    assert (made.folder, made.start) == (home.broker, str(home.broker / "mosquitto.conf"))
    assert found["listener"] == "8883"
    assert found["allow_anonymous"] == "false"
    assert found["require_certificate"] == found["use_identity_as_username"] == "true"


def test_the_brokers_key_and_rights_are_its_owners_alone(home: Home) -> None:
    write(home, now=NOW)
    for name in ("broker.key", "acl"):
        assert stat.S_IMODE((home.broker / name).stat().st_mode) == 0o600
    for folder in (home.broker, home.broker / "data"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_where_root_starts_it_in_place_it_becomes_the_user_who_can_read_the_files(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, now=NOW)
    owner = (home.broker / "acl").owner()
    assert settings(home.broker / "mosquitto.conf")["user"] == owner
    write(home, installed="/etc/mosquitto", now=NOW)
    assert "user" not in settings(home.broker / "mosquitto.conf"), "the package's own, mosquitto"
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
    write(home, now=NOW)
    assert "user" not in settings(home.broker / "mosquitto.conf"), "mosquitto wants a name"


def test_the_command_that_starts_it_needs_no_path_of_roots(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["broker", "--home", str(home.folder)]) == 0
    start = f"start it with /usr/sbin/mosquitto -c {home.broker / 'mosquitto.conf'}"
    assert start in capsys.readouterr().out
    assert f"#     {start.removeprefix('start it with ')}" in (
        home.broker / "mosquitto.conf"
    ).read_text("utf-8")


@pytest.mark.parametrize("page", ["broker.md", "raspberry-pi.md"])
def test_the_pages_start_it_as_a_user_and_in_a_terminal_of_its_own(page: str) -> None:
    text = (PAGE.parent / page).read_text("utf-8")
    assert "\n```sh\n/usr/sbin/mosquitto -c fleet/broker/mosquitto.conf\n```\n" in text
    assert "sudo mosquitto" not in text


def test_the_folder_may_lie_elsewhere_on_the_brokers_machine(home: Home) -> None:
    made = write(home, installed="/etc/mosquitto", data="/var/lib/mosquitto/", now=NOW)
    found = settings(home.broker / "mosquitto.conf")
    assert made.start == "/etc/mosquitto/mosquitto.conf"
    assert found["acl_file"] == "/etc/mosquitto/acl"
    assert found["keyfile"] == "/etc/mosquitto/broker.key"
    assert found["persistence_location"] == "/var/lib/mosquitto"
    assert not (home.broker / "data").exists()


@pytest.mark.parametrize("place", ["etc/mosquitto", "", "/etc/mosquitto\nuser root", "/etc "])
def test_a_place_that_mosquitto_would_misread_is_refused(home: Home, place: str) -> None:
    with pytest.raises(InputError, match="expected an absolute path"):
        mosquitto.configuration(place, "/data", 8883, 30)
    assert not home.broker.exists()


@pytest.mark.parametrize(("port", "autosave_s"), [(0, 30), (65536, 30), (8883, 0), (8883, 10**6)])
def test_a_number_out_of_range_changes_nothing(home: Home, port: int, autosave_s: int) -> None:
    with pytest.raises(InputError, match="expected 1"):
        write(home, port=port, autosave_s=autosave_s, now=NOW)
    assert not home.broker.exists()


def test_the_command_line_has_the_defaults_that_the_code_has() -> None:
    assert identity_options.AUTOSAVE_S == mosquitto.AUTOSAVE_S
    assert identity_options.MAX_AUTOSAVE_S == mosquitto.MAX_AUTOSAVE_S
    assert identity_options.STATE_DIR == STATE_DIR


# Its certificate.


def test_the_broker_is_known_by_the_name_that_devices_use_and_by_others(home: Home) -> None:
    write(home, hosts=["10.0.0.7", "localhost", "broker.example"], now=NOW)
    assert hosts(home) == ["broker.example", "10.0.0.7", "localhost"]


def test_the_port_is_that_of_the_url_or_the_one_that_is_said(tmp_path: Path) -> None:
    home = make_home(tmp_path / "fleet", broker="mqtts://broker.example:9883")
    assert write(home, now=NOW).port == 9883
    assert write(home, port=1884, now=NOW).port == 1884
    assert settings(home.broker / "mosquitto.conf")["listener"] == "1884"


def test_writing_it_again_keeps_the_certificate_and_needs_no_passphrase(tmp_path: Path) -> None:
    home = make_home(tmp_path / "fleet", passphrase="correct horse")
    with pytest.raises(InputError, match="--passphrase-file"):
        write(home, now=NOW)
    assert write(home, passphrase="correct horse", now=NOW).entry is not None
    before = certificate(home)
    (home.broker / "acl").write_text("changed by hand")
    again = write(home, now=NOW + timedelta(days=300))
    assert again.entry is None
    assert again.operator is None
    assert certificate(home) == before
    assert "changed" not in (home.broker / "acl").read_text()


@pytest.mark.parametrize("change", ["another host", "half a year left", "lost key", "another key"])
def test_a_certificate_that_no_longer_serves_is_issued_anew(home: Home, change: str) -> None:
    write(home, now=NOW)
    old, now, more = certificate(home), NOW, []
    if change == "another host":
        more = ["backup.example"]
    elif change == "half a year left":
        now = NOW + timedelta(days=560)
    elif change == "lost key":
        (home.broker / "broker.key").unlink()
    else:
        other = CertificateAuthority(home).issue(Role.DEVICE, "press-7", now=NOW)
        (home.broker / "broker.key").write_bytes(other.key)
    made = write(home, hosts=more, now=now)
    assert made.entry is not None
    assert certificate(home).serial_number == made.entry.serial != old.serial_number
    assert (made.operator is not None) == (change == "half a year left")


def test_the_revocation_list_for_the_broker_follows_every_change(home: Home) -> None:
    write(home, now=NOW)
    copy = home.broker / "crl.pem"
    assert copy.read_bytes() == home.crl.read_bytes()
    enroll(home, "press-7", "generic-x86_64", now=NOW)
    done = revoke_device(home, "press-7", now=NOW)
    assert done.broker_crl == copy
    assert copy.read_bytes() == home.crl.read_bytes()
    enroll(home, "press-7", "generic-x86_64", now=NOW)
    enroll(home, "press-7", "generic-x86_64", force=True, now=NOW)
    assert copy.read_bytes() == home.crl.read_bytes()
    assert len(x509.load_pem_x509_crl(copy.read_bytes())) == 2


# Rights.


def test_the_rights_of_a_prefix_of_its_own_stand_under_it(tmp_path: Path) -> None:
    home = make_home(tmp_path / "fleet", prefix="site/Süd/v1")
    write(home, now=NOW)
    text = (home.broker / "acl").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "pattern read site/Süd/v1/device/%u/desired" in lines
    assert lines[-3:] == ["user operator", "topic readwrite site/Süd/v1/#", "topic read $SYS/#"]
    for line in lines:
        if not line.startswith("user "):
            check_filter(line.split(" ")[2].replace("%u", "press-7"))


def test_a_prefix_that_mosquitto_would_fill_in_is_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path / "fleet", prefix="edge/%u")
    with pytest.raises(InputError, match="cannot hold a %"):
        write(home, now=NOW)
    assert not home.broker.exists()


def test_every_topic_of_a_device_has_its_right_and_no_right_is_for_both() -> None:
    """A topic that both sides may write would let a device speak for the operator."""
    topics = Topics()
    own = {topic: right for role, right, topic in RIGHTS if role is Role.DEVICE}
    assert len(own) == len([1 for role, _, _ in RIGHTS if role is Role.DEVICE])
    assert set(own.values()) == {"read", "write"}
    named = {
        "desired": topics.device("+", "desired"),
        "reported": topics.device("+", "reported"),
        "online": topics.device("+", "online"),
        "telemetry": topics.device("+", "telemetry"),
        "event": topics.device("+", "event"),
        "command": topics.device("+", "command"),
        "command/result": topics.device("+", "command/result"),
        "infer": topics.infer("+"),
        "infer/result": topics.infer_result("+"),
        "metadata": f"{topics.prefix}/repo/metadata/#",
        "chunk": f"{topics.prefix}/repo/chunk/#",
    }
    assert set(named) | {"fence"} == set(DELIVERY)
    assert {f"{topics.prefix}/{topic.replace('<id>', '+')}" for topic in own} == set(named.values())


def test_the_page_shows_the_very_rights() -> None:
    rows = re.findall(
        r"^\| (device|operator) \| (\w+) \| `([^`]+)` \|", PAGE.read_text("utf-8"), re.M
    )
    assert [(role.value, right, topic) for role, right, topic in RIGHTS] == rows
