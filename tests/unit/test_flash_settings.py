"""What flash puts into an image: names and keys, Wi-Fi, the package, the identity."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.cli import main
from edge_runtime.fleet.enroll import enroll, revoke_device
from edge_runtime.fleet.flash.first_bundle import find_bundle
from edge_runtime.fleet.flash.identity import find_identity
from edge_runtime.fleet.flash.package import find_package, read_package
from edge_runtime.fleet.flash.person import (
    Person,
    custom_toml,
    host_of,
    is_customised,
    own_files,
    read_keys,
    user_data,
)
from edge_runtime.fleet.flash.wifi import Wifi, keyfile, netplan
from edge_runtime.fleet.home import Home
from edge_runtime.profile.toml import load_toml
from tests.fakes.homes import NOW, make_home
from tests.fakes.images import STOCK_USER_DATA, deb
from tests.fakes.trusted import DAY, bundle, new_home, sign
from tests.fakes.trusted import NOW as SIGNED

KEY = "ssh-ed25519 " + "A" * 68 + ' me "and" you'
PROFILE = "generic-x86_64"


# Names and keys.


def test_each_flavour_gets_the_same_person_in_its_own_words() -> None:
    person = Person("press-7", "ops", (KEY,))
    said = load_toml(custom_toml(person), 4096, "x")
    assert said == {
        "config_version": 1,
        "system": {"hostname": "press-7"},
        "user": {"name": "ops"},
        "ssh": {"enabled": True, "password_authentication": False, "authorized_keys": [KEY]},
    }
    lines = user_data(person).decode().splitlines()
    assert lines[:2] == ["#cloud-config", 'hostname: "press-7"']
    assert "  lock_passwd: true" in lines
    assert '  - "ssh-ed25519 ' + "A" * 68 + ' me \\"and\\" you"' in lines
    assert own_files(person)["authorized_keys"] == f"{KEY}\n".encode()


def test_without_a_user_only_the_name_is_said() -> None:
    person = Person("press-7")
    assert set(load_toml(custom_toml(person), 4096, "x")) == {"config_version", "system"}
    assert b"users" not in user_data(person)
    assert set(own_files(person)) == {"hostname"}


@pytest.mark.parametrize(
    ("device", "host"), [("press_7", "press-7"), ("-a-", "a"), ("_", "edge"), ("x" * 64, "x" * 63)]
)
def test_a_device_id_becomes_a_host_name(device: str, host: str) -> None:
    assert host_of(device) == host


def test_settings_of_somebody_else_are_noticed() -> None:
    assert not is_customised(STOCK_USER_DATA.encode())
    assert is_customised(STOCK_USER_DATA.encode() + b"users:\n- name: me\n")


def test_a_private_key_is_refused_and_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n")
    with pytest.raises(InputError, match=r"private key, expected the public one, .*id\.pub") as why:
        read_keys(path)
    assert "c2VjcmV0" not in str(why.value)


@pytest.mark.parametrize("text", ["", "# none\n", "hello\n", f"{KEY}\nssh-dss AAAA\n"])
def test_what_is_no_public_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(InputError, match=r"no public key|holds 0 keys"):
        read_keys(tmp_path / "k")


# Wi-Fi.


def test_a_passphrase_is_escaped_as_a_key_file_wants_it() -> None:
    text = keyfile(Wifi("Hall", "  a\\b;c#d= ", "DE")).decode()
    assert "\nssid=Hall\n" in text
    assert "\npsk=\\s\\sa\\\\b;c#d= \n" in text


def test_a_name_that_means_something_in_a_key_file_is_written_as_bytes() -> None:
    assert "\nssid=195;156;59;\n" in keyfile(Wifi("Ü;", "12345678", "DE")).decode()
    assert '        "\\u00dc;":\n' in netplan(Wifi("Ü;", "12345678", "DE")).decode()


@pytest.mark.parametrize(
    ("ssid", "passphrase", "country"),
    [("", "12345678", "DE"), ("x" * 33, "12345678", "DE"), ("x", "1234567", "DE"),
     ("x", "ä" * 8, "DE"), ("x", "g" * 64, "DE"), ("x", "1234\n567", "DE"), ("x", "12345678", "d")],
)  # fmt: skip
def test_what_no_radio_could_use_is_refused_without_the_secret(
    ssid: str, passphrase: str, country: str
) -> None:
    with pytest.raises(InputError, match="expected") as why:
        Wifi(ssid, passphrase, country)
    assert passphrase not in str(why.value)


# The package.


def test_the_newest_package_that_fits_is_taken(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.10.0", "0.10.0~rc1"):
        deb(tmp_path, version=version)
    deb(tmp_path, "deb13", version="2.0.0")
    deb(tmp_path, arch="amd64", version="3.0.0")
    found = find_package(None, "deb12", "arm64", tmp_path)
    assert found.version == "0.10.0+deb12"
    assert (found.size_bytes, found.installed_bytes) == (found.path.stat().st_size, 64 << 10)


def test_without_a_package_it_is_said_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no package .*\+jammy_arm64\.deb .*make deb.*--package"):
        find_package(None, "jammy", "arm64", tmp_path)


def test_a_package_for_another_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"0\.1\.0\+deb13 for arm64, the image needs one for deb12"
    ):
        find_package(deb(tmp_path, "deb13"), "deb12", "arm64")
    with pytest.raises(InputError, match="is other, expected edge-agent"):
        find_package(deb(tmp_path, name="other"), "deb12", "arm64")


@pytest.mark.parametrize(
    "spoil",
    [lambda d: d[:70], lambda d: b"!<arch>\n" + bytes(200), lambda d: b"text", lambda d: b"",
     lambda d: d[:150] + b"\0" + d[151:], lambda d: d.replace(b"l.tar.gz", b"l.tar.xz")],
    ids=["cut", "zeros", "text", "empty", "flipped", "other packing"],
)  # fmt: skip
def test_a_damaged_package_is_refused(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    path = deb(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match="package "):
        read_package(path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_the_packages_of_these_tests_are_packages(tmp_path: Path) -> None:
    said = subprocess.run(["dpkg-deb", "-f", deb(tmp_path), "Version"], capture_output=True)
    assert said.stdout == b"0.1.0+deb12\n"


# The identity.


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "fleet")


def test_the_identity_is_the_enrolled_folder(home: Home) -> None:
    enroll(home, "press-7", PROFILE, now=NOW)
    found = find_identity(home, "press-7")
    assert found.profile == PROFILE
    assert {path.name for path in found.files} == {
        "agent.toml", "root.json", "ca.pem", "device.pem", "device.key"
    }  # fmt: skip


def test_a_device_that_is_not_enrolled_is_refused(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["flash", "x.img", "--device", "press-8", "--home", str(home.folder)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "press-8: is not enrolled" in said
    assert "edge-fleet enroll press-8" in said


def test_a_revoked_device_is_refused(home: Home) -> None:
    enroll(home, "press-7", PROFILE, now=NOW)
    revoke_device(home, "press-7", now=NOW)
    with pytest.raises(InputError, match=r"was revoked; enrol it anew: edge-fleet enroll press-7"):
        find_identity(home, "press-7")


def test_a_folder_without_its_key_is_refused(home: Home) -> None:
    (enroll(home, "press-7", PROFILE, now=NOW).folder / "device.key").unlink()
    with pytest.raises(InputError, match=r"lacks device\.key"):
        find_identity(home, "press-7")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--wifi", "x"], "need each other"),
        (["--user", "ops"], "need each other"),
        (["--country", "de"], "no country"),
        (["--hostname", "x-"], "no host name"),
        (["--user", "Root!"], "no user name"),
        (["--out", "a", "--to", "b"], "not allowed with"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(
    home: Home, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    command = ["flash", "x.img", "--device", "press-7", "--home", str(home.folder), *options]
    try:
        code = main(command)
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2
    assert words in capsys.readouterr().err


# The first bundle.


def test_the_first_bundle_is_a_signed_release(tmp_path: Path) -> None:
    home = new_home(tmp_path / "fleet")
    made = sign(home, bundle(tmp_path / "b")).release
    found = find_bundle(home, "demo==1.0.0", PROFILE, SIGNED)
    assert found.release == made
    names = [name for name, _ in found.files()]
    assert names[:3] == ["metadata/1.root.json", "metadata/2.targets.json",
                         "metadata/2.snapshot.json"]  # fmt: skip
    assert {"metadata/timestamp.json", f"metadata/{made.file}"} <= set(names)
    again = find_bundle(home, str(tmp_path / "b" / "1.0.0"), PROFILE, SIGNED)
    assert again.release == made


def test_a_bundle_that_is_not_signed_is_refused(tmp_path: Path) -> None:
    home = new_home(tmp_path / "fleet")
    sign(home, bundle(tmp_path / "b"))
    with pytest.raises(InputError, match=r"is not signed .*there are demo==1\.0\.0.*publish FILE"):
        find_bundle(home, "demo==2.0.0", PROFILE, SIGNED)
    other = bundle(tmp_path / "c", task="embed")
    with pytest.raises(InputError, match=r"another bundle than release demo==1\.0\.0"):
        find_bundle(home, str(other), PROFILE, SIGNED)
    with pytest.raises(InputError, match=r"nothing\.edge"):
        find_bundle(home, "nothing.edge", PROFILE, SIGNED)


def test_metadata_that_has_expired_is_refused(tmp_path: Path) -> None:
    home = new_home(tmp_path / "fleet")
    sign(home, bundle(tmp_path / "b"))
    with pytest.raises(InputError, match=r"expired at .* edge-fleet refresh"):
        find_bundle(home, "demo==1.0.0", PROFILE, SIGNED + 31 * DAY)


def test_a_damaged_chunk_is_told_before_it_is_flashed(tmp_path: Path) -> None:
    home = new_home(tmp_path / "fleet")
    made = sign(home, bundle(tmp_path / "b")).release
    digest = made.manifest.chunks[0].sha256
    (home.chunks / digest[:2] / digest).write_bytes(b"spoiled")
    with pytest.raises(DeviceError, match=digest):
        list(find_bundle(home, "demo==1.0.0", PROFILE, SIGNED).files())
