"""The fleet home: where things lie, who may read them, and what fleet.toml may hold."""

from __future__ import annotations

import io
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError, EdgeError, InputError
from edge_runtime.fields import Json
from edge_runtime.fleet.home import (
    Home,
    find_home,
    make_secret_folder,
    read_passphrase,
    write_secret,
)
from edge_runtime.fleet.settings import EXPIRY_DAYS, ROLES, RoleSettings, Settings

KEYID = "ab" * 32
SETTINGS = Settings(
    prefix="site/a",
    broker="mqtts://broker.example",
    roles={
        role: RoleSettings(1, EXPIRY_DAYS[role], {KEYID: f"file:keys/{role}.pem"}) for role in ROLES
    },
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "fleet")
    made.folder.mkdir()
    return made


# Settings.


def test_settings_are_read_as_they_were_written(home: Home) -> None:
    for settings in (SETTINGS, replace(SETTINGS, first_root="0f" * 32)):
        home.write(settings)
        assert home.read() == settings
    text = home.settings_file.read_text()
    assert stat.S_IMODE(home.settings_file.stat().st_mode) == 0o600
    assert text.startswith("# ")
    assert "[roles.timestamp.keys]\n" in text


@pytest.mark.parametrize(
    "odd",
    ["", 'quo"te', "back\\slash", "tab\tnew\nline", "\x7f", "ü ☃", "hsm:2?label=A+B%231", "'"],
)
def test_any_text_survives(odd: str, home: Home) -> None:
    keys = {KEYID: odd, "cd" * 32: "x"}
    changed = Settings(broker=odd, roles={**SETTINGS.roles, "root": RoleSettings(2, 7, keys)})
    home.write(changed)
    assert home.read() == changed


def test_tables_of_other_parts_are_kept(home: Home) -> None:
    more: dict[str, Json] = {
        "ca": {"days": 30, "hosts": ["a", "b"], "on": True, "deep": {"x y": 0.5}, "none": {}}
    }
    home.write(Settings(roles=SETTINGS.roles, more=more))
    assert home.read().more == more


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("threshold = 1", "threshold = 0", "threshold is 0, expected 1..16"),
        ("threshold = 1", 'threshold = "1"', "threshold must be an integer"),
        ("threshold = 1", "treshold = 1", "'treshold' is not known"),
        ("expiry_days = 365", "expiry_days = 100000", "expected 1..3650"),
        ("[roles.root]", "[roles.roots]", "'roots' is no role"),
        ('prefix = "site/a"', 'prefix = "site/#"', "topic prefix"),
        ("format = 1", "format = 2", "format 2, this software reads 1"),
        ("broker =", 'first_root = "x"\nbroker =', "first_root is 'x'"),
        ("broker =", "borker =", "'borker' is not known"),
        (KEYID, "no.id", "'no' is no key id"),
        ("[roles.root]", "[roles.root", "not valid TOML"),
    ],
)
def test_a_fault_is_named(old: str, new: str, says: str, home: Home) -> None:
    home.write(SETTINGS)
    text = home.settings_file.read_text()
    assert old in text
    home.settings_file.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=r"fleet\.toml") as refused:
        home.read()
    assert says in str(refused.value)


def test_all_faults_are_named_at_once(home: Home) -> None:
    home.write(SETTINGS)
    text = home.settings_file.read_text()
    home.settings_file.write_text(
        text.replace("threshold = 1", "threshold = 0").replace("site/a", "site/+")
    )
    with pytest.raises(InputError) as refused:
        home.read()
    assert str(refused.value).count("threshold is 0") == 4
    assert "topic prefix" in str(refused.value)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * 300_000, b"[" * 10_000, b"a = 1\na = 2\n"])
def test_garbage_is_one_error(data: bytes, home: Home) -> None:
    home.settings_file.write_bytes(data)
    with pytest.raises(EdgeError):
        home.read()


def test_a_folder_that_is_no_home_says_how_to_make_one(home: Home) -> None:
    assert not home.exists
    with pytest.raises(InputError, match="edge-fleet init --home") as refused:
        home.read()
    assert "EDGE_FLEET_HOME" in str(refused.value)


# Which home.


def test_an_option_goes_before_the_environment_and_that_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_home(None, {}) is None
    assert find_home(Path("a"), {"EDGE_FLEET_HOME": "b"}) == Home(Path("a"))
    assert find_home(None, {"EDGE_FLEET_HOME": "b"}) == Home(Path("b"))
    Path("fleet").mkdir()
    assert find_home(None, {}) is None
    Home(Path("fleet")).write(SETTINGS)
    assert find_home(None, {}) == Home(Path("fleet"))


def test_a_device_s_folder_stays_inside(home: Home) -> None:
    assert home.device("press-7") == home.folder / "devices" / "press-7"
    for odd in ("..", "a/b", "", "/etc"):
        with pytest.raises(InputError, match="device id"):
            home.device(odd)


def test_two_commands_do_not_change_a_home_at_once(home: Home) -> None:
    with home.hold(), pytest.raises(InputError, match="another edge-fleet"), home.hold(0.0):
        pass
    with home.hold(0.0):
        pass


def test_a_home_that_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be written"), Home(tmp_path / "no").hold():
        pass


# Secrets.


def test_a_secret_is_its_owner_s_from_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(0)
    try:
        folder = tmp_path / "keys"
        make_secret_folder(folder)
        make_secret_folder(folder)
        modes: list[int] = []
        real = os.replace

        def replace(source: str | Path, target: str | Path) -> None:
            modes.append(stat.S_IMODE(os.stat(source).st_mode))
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        (folder / ".key.pem.tmp").write_bytes(b"left by a cut")
        (folder / ".key.pem.tmp").chmod(0o666)
        write_secret(folder / "key.pem", b"secret")
    finally:
        os.umask(old)
    assert modes == [0o600]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["key.pem"]


def test_a_secret_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.pem"
    write_secret(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeviceError, match="No space left"):
        write_secret(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["key.pem"]


# The passphrase.


def test_a_passphrase_is_a_file_s_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pass"
    for data in (b"correct horse", b"correct horse\n", b"correct horse\r\nmore\n"):
        file.write_bytes(data)
        assert read_passphrase(file, {"EDGE_FLEET_PASSPHRASE": "other"}) == "correct horse"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin\nmore")))
    assert read_passphrase(Path("-"), {}) == "from stdin"
    assert read_passphrase(None, {"EDGE_FLEET_PASSPHRASE": "other"}) == "other"
    assert read_passphrase(None, {"EDGE_FLEET_PASSPHRASE": ""}) is None
    assert read_passphrase(None, {}) is None


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe\n", b"x" * 5000, None])
def test_a_passphrase_file_that_holds_none_is_an_error(data: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "pass"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError, match="passphrase file") as refused:
        read_passphrase(file, {"EDGE_FLEET_PASSPHRASE": "is not asked then"})
    assert "xxx" not in str(refused.value)
