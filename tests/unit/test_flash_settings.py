"""What flash puts into an image: names and keys, Wi-Fi, the package, the identity."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import timedelta
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
from edge_runtime.fleet.flash.target import demand_target, ended_cleanly, making, scratch
from edge_runtime.fleet.flash.wifi import Wifi, keyfile, netplan
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.settings import EXPIRY_DAYS
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


def test_nobody_may_log_in_as_root() -> None:
    with pytest.raises(InputError, match="--user root: is the system's own user"):
        Person("press-7", "root", (KEY,))


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


def test_the_character_that_no_passphrase_has_is_counted_and_not_quoted() -> None:
    with pytest.raises(InputError, match="character 5 of the passphrase") as why:
        Wifi("Hall", "secrößt12345", "DE")
    assert not re.search("secr|ö|ß|12345", str(why.value))


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


@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_a_package_that_is_cut_off_is_refused_wherever_it_is_cut(
    tmp_path: Path, part: float
) -> None:
    path = deb(tmp_path, payload=os.urandom(20_000))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=r"^package .*\.deb: is cut off"):
        find_package(path, "deb12", "arm64")
    with pytest.raises(InputError, match="is cut off"):
        find_package(None, "deb12", "arm64", tmp_path)


def test_a_package_whose_files_are_damaged_is_refused(tmp_path: Path) -> None:
    path = deb(tmp_path, payload=os.urandom(20_000))
    data = bytearray(path.read_bytes())
    data[-9_000:-8_000] = bytes(1000)
    data[-19_000:-18_990] = b"\xff" * 10
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^package .*: is damaged"):
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
    found = find_identity(home, "press-7", NOW)
    assert (found.profile, found.arch) == (PROFILE, "x86_64")
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
        find_identity(home, "press-7", NOW)


def test_a_folder_without_its_key_is_refused(home: Home) -> None:
    (enroll(home, "press-7", PROFILE, now=NOW).folder / "device.key").unlink()
    with pytest.raises(InputError, match=r"lacks device\.key"):
        find_identity(home, "press-7", NOW)


def _of_another(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder.parent / "press-8" / name, folder / name)


def _holds(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def _of_another_fleet(folder: Path) -> None:
    other = make_home(folder.parent / "other")
    shutil.copy(other.ca_certificate, folder / "ca.pem")


def _without_signature(folder: Path) -> None:
    text = (folder / "root.json").read_text()
    (folder / "root.json").write_text(re.sub(r'"sig": *"..', '"sig": "00', text))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_holds("device.key", b""), "device.key: not usable", id="no key"),
        pytest.param(_holds("device.key", b"x" * 99), "device.key: not usable", id="garbage"),
        pytest.param(_of_another("device.key"), "device.key: not usable", id="another's key"),
        pytest.param(_holds("device.pem", b"x"), "device.pem: no certificate", id="no certificate"),
        pytest.param(_holds("ca.pem", b""), "ca.pem: no certificate", id="no authority"),
        pytest.param(_of_another_fleet, "is not of the authority", id="another authority"),
        pytest.param(_holds("root.json", b""), "root.json: no metadata", id="no root"),
        pytest.param(_holds("root.json", b"{}"), "root.json: no metadata", id="no root in it"),
        pytest.param(_without_signature, "root.json: is not signed", id="unsigned root"),
    ],
)
def test_an_identity_that_a_board_would_refuse_is_not_flashed(
    home: Home, spoil: Callable[[Path], object], words: str
) -> None:
    folder = enroll(home, "press-7", PROFILE, now=NOW).folder
    enroll(home, "press-8", PROFILE, now=NOW)
    spoil(folder)
    with pytest.raises(InputError, match=f"{words}.*; enrol it anew: edge-fleet enroll press-7"):
        find_identity(home, "press-7", NOW)


def test_the_certificate_of_another_board_or_another_time_is_not_flashed(home: Home) -> None:
    folder = enroll(home, "press-7", PROFILE, now=NOW).folder
    with pytest.raises(InputError, match=r"device\.pem: is good from 1970-.* to 2031-"):
        find_identity(home, "press-7", NOW + timedelta(days=6 * 365))
    other = enroll(home, "press-8", PROFILE, now=NOW).folder
    for name in ("device.pem", "device.key"):
        shutil.copy(other / name, folder / name)
    with pytest.raises(InputError, match=r"device\.pem: is of press-8, expected press-7"):
        find_identity(home, "press-7", NOW)


# The file that is made.


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("/", "/: is a folder"), (".", r"\.: is a folder"), ("", r"\.: is a folder"),
        ("/dev/null", "/dev/null: is a device or a pipe"), ("x" * 300, "x: cannot be made"),
        ("a.img", r"a\.img: is the image that is read"), ("link.img", "is the image that is read"),
        ("a.img/b.img", r"a\.img/b\.img: cannot be made \(Not a directory\)"),
    ],
)  # fmt: skip
def test_what_is_no_file_or_the_image_itself_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.img").write_bytes(b"image")
    Path("link.img").symlink_to("a.img")
    with pytest.raises(InputError, match=words):
        demand_target(Path(out), tmp_path / "a.img", force=True)
    assert Path("a.img").read_bytes() == b"image"


def test_a_file_that_is_there_is_replaced_with_force_only(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="exists; --force replaces it"):
        demand_target(tmp_path / "out", tmp_path / "a.img", force=False)
    demand_target(tmp_path / "out", tmp_path / "a.img", force=True)
    demand_target(tmp_path / "new", tmp_path / "a.img", force=False)


def test_a_name_or_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    long = "x" * 252  # There is room for the name, and none for that of the part.
    with pytest.raises(DeviceError, match=f"{long}: cannot be made .File name too long"):
        making(tmp_path / long).__enter__()
    with pytest.raises(DeviceError, match=r"^/nope: no folder can be made in it .*TMPDIR"):
        scratch("/nope").__enter__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_lost_session_leaves_no_key_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outside = signal.signal(number, signal.SIG_DFL)  # The tests may run under nohup.

    def work() -> None:
        with ended_cleanly(), making(tmp_path / "a.img") as (part, folder):
            for path in (part, folder / "in-1"):
                path.write_text("secret")
            os.kill(os.getpid(), number)

    try:
        with pytest.raises(SystemExit) as end:
            work()
        assert end.value.code == 128 + number
        assert list(tmp_path.iterdir()) == []
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)


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


def test_a_bundle_for_another_board_is_told_from_one_that_is_not_signed(tmp_path: Path) -> None:
    home = new_home(tmp_path / "fleet")
    sign(home, bundle(tmp_path / "b"))
    with pytest.raises(InputError, match=r"demo==1\.0\.0 for imx93: is signed for generic-x86_64"):
        find_bundle(home, "demo==1.0.0", "imx93", SIGNED)


def test_where_the_offline_keys_are_needed_the_advice_says_so(tmp_path: Path) -> None:
    home = new_home(tmp_path / "fleet")
    sign(home, bundle(tmp_path / "b"))
    with pytest.raises(InputError, match=r"refresh --home \S+$"):
        find_bundle(home, "demo==1.0.0", PROFILE, SIGNED + 31 * DAY)
    with pytest.raises(InputError, match=r"refresh --home \S+ --passphrase-file FILE$"):
        find_bundle(home, "demo==1.0.0", PROFILE, SIGNED + (EXPIRY_DAYS["targets"] + 1) * DAY)


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
