"""Enrolling a device and revoking it: the folder to flash, as the device's own agent reads it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from securesystemslib.signer import CryptoSigner

from edge_runtime.agent.config import load_config
from edge_runtime.errors import DeviceError, EdgeError, InputError, UntrustedError
from edge_runtime.fleet import mosquitto
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.cli import main
from edge_runtime.fleet.enroll import enroll, revoke_device
from edge_runtime.fleet.home import Home
from tests.fakes.homes import NOW, make_home, signed_root

PROFILE = "generic-x86_64"
YEAR = timedelta(days=365)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "fleet")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def serial(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "device.pem").read_bytes()).serial_number


def revoked(home: Home) -> set[int]:
    return {e.serial_number for e in x509.load_pem_x509_crl(home.crl.read_bytes())}


# The folder.


def test_the_agent_takes_the_folder_as_it_is(home: Home) -> None:
    made = enroll(home, "press-7", PROFILE, now=NOW)
    folder = home.folder / "devices" / "press-7"
    assert made.folder == folder
    assert set(content(folder)) == {"agent.toml", "root.json", "ca.pem", "device.pem", "device.key"}
    config = load_config(folder / "agent.toml", {})
    assert (config.device_id, config.profile) == ("press-7", PROFILE)
    assert (config.trust, config.root) == ("tuf", folder / "root.json")
    assert config.sources == ("mqtt",)
    assert config.state_dir == Path("/var/lib/edge-agent")
    assert config.prefix == "edge/v1"
    broker = config.broker
    assert broker is not None
    assert (broker.address, broker.tls) == ("broker.example:8883", True)
    assert broker.ca_file == folder / "ca.pem"
    assert (broker.cert_file, broker.key_file) == (folder / "device.pem", folder / "device.key")
    broker.tls_context()


def test_a_setting_that_is_only_explained_has_the_value_shown(home: Home) -> None:
    """Every `# key = value` may have its # taken away, and nothing changes."""
    path = enroll(home, "press-7", PROFILE, now=NOW).folder / "agent.toml"
    before, text = load_config(path, {}), path.read_text()
    shown, count = re.subn(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert count >= 5
    path.write_text(shown)
    assert load_config(path, {}) == before


def test_the_example_of_sources_is_taken(home: Home) -> None:
    path = enroll(home, "press-7", PROFILE, now=NOW).folder / "agent.toml"
    lines = path.read_text().splitlines()
    (example,) = [line for line in lines if line.startswith("#   sources = ")]
    path.write_text("\n".join(example[4:] if x.startswith("sources") else x for x in lines))
    assert len(load_config(path, {}).sources) == 3


def test_only_the_owner_reads_the_key(home: Home) -> None:
    before = os.umask(0)
    try:
        folder = enroll(home, "press-7", PROFILE, now=NOW).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "device.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_devices_start_from_the_newest_root(tmp_path: Path) -> None:
    home = make_home(tmp_path / "fleet")
    settings = home.read()
    (home.metadata / "1.root.json").unlink()
    signer = CryptoSigner.generate_ed25519()
    keys = {signer.public_key.keyid: ""}
    for role in settings.roles.values():
        object.__setattr__(role, "keys", keys)
    home.write(settings)
    for version in range(1, 11):
        newest = signed_root(home, version, signer)
    assert (enroll(home, "press-7", PROFILE, now=NOW).folder / "root.json").read_bytes() == newest


def test_a_root_that_somebody_put_into_the_repository_reaches_no_device(home: Home) -> None:
    signed_root(home, 2, CryptoSigner.generate_ed25519())
    with pytest.raises(UntrustedError, match=r"2\.root\.json"):
        enroll(home, "press-7", PROFILE, now=NOW)
    assert not home.devices.exists()
    assert CertificateAuthority(home).issued().of("device", "press-7") == ()


def test_other_words_stand_in_the_configuration_as_they_were_said(tmp_path: Path) -> None:
    home = make_home(tmp_path / "fleet", broker="mqtts://[fd00::7]:9883", prefix="site/Süd")
    state_dir = '/data/a "quoted" \\ name\x7f'
    out = tmp_path / "stick"
    made = enroll(home, "p_1", PROFILE, state_dir=state_dir, out=out, now=NOW)
    config = load_config(out / "agent.toml", {})
    assert made.folder == out
    assert not home.devices.exists()
    assert config.state_dir == Path(state_dir)
    assert config.prefix == "site/Süd"
    assert config.broker is not None
    assert config.broker.address == "[fd00::7]:9883"


def test_a_profile_of_the_fleets_own_goes_along(home: Home, tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "device_profiles" / f"{PROFILE}.toml"
    own = tmp_path / "mine.toml"
    own.write_text(shipped.read_text().replace(f'name = "{PROFILE}"', 'name = "my-board"', 1))
    folder = enroll(home, "press-7", str(own), now=NOW).folder
    assert (folder / "my-board.toml").read_bytes() == own.read_bytes()
    assert load_config(folder / "agent.toml", {}).profile == str(folder / "my-board.toml")


# What is refused.


@pytest.mark.parametrize(
    ("device", "profile", "words"),
    [
        ("operator", PROFILE, "belongs to the fleet's operator"),
        ("OPERATOR", PROFILE, "belongs to the fleet's operator"),
        ("../press", PROFILE, "device id '../press'"),
        ("press 7", PROFILE, "device id 'press 7'"),
        ("press-7", "raspberry", "'raspberry' is not known; known are android-nnapi"),
        ("press-7", "none.toml", r"none\.toml: cannot be read"),
    ],
)
def test_a_faulty_word_changes_nothing(home: Home, device: str, profile: str, words: str) -> None:
    before = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=words):
        enroll(home, device, profile, now=NOW)
    assert {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("broker", "words"),
    [
        ("", "broker is empty"),
        ("mqtt://broker.example", "is not encrypted"),
        ("mqtts://me@broker.example", "holds a user name"),
        ("https://broker.example", "expected mqtt or mqtts"),
    ],
)
def test_a_broker_that_takes_no_certificates_is_refused(
    tmp_path: Path, broker: str, words: str
) -> None:
    with pytest.raises(InputError, match=rf"fleet\.toml: .*{words}"):
        enroll(make_home(tmp_path / "fleet", broker=broker), "press-7", PROFILE, now=NOW)


def test_a_state_folder_that_no_file_can_hold_changes_nothing(home: Home) -> None:
    with pytest.raises(InputError, match="not valid Unicode"):
        enroll(home, "press-7", PROFILE, state_dir="/data/\udcff", now=NOW)
    assert CertificateAuthority(home).issued().entries[1:] == ()


def test_a_home_without_root_metadata_is_told_to_finish(home: Home) -> None:
    (home.metadata / "1.root.json").unlink()
    with pytest.raises(InputError, match="finish `edge-fleet init"):
        enroll(home, "press-7", PROFILE, now=NOW)


def test_what_is_no_home_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no fleet home"):
        enroll(Home(tmp_path), "press-7", PROFILE, now=NOW)


def test_the_passphrase_of_the_authority_is_needed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "fleet", passphrase="correct horse")
    with pytest.raises(InputError, match="--passphrase-file"):
        enroll(home, "press-7", PROFILE, now=NOW)
    assert enroll(home, "press-7", PROFILE, passphrase="correct horse", now=NOW).replaced is False


# Once more.


def test_who_is_enrolled_is_enrolled_again_only_by_force(home: Home) -> None:
    folder = enroll(home, "press-7", PROFILE, now=NOW).folder
    first = content(folder)
    with pytest.raises(InputError, match="good until 2031-11-05; --force makes a new one"):
        enroll(home, "press-7", PROFILE, now=NOW)
    assert content(folder) == first
    old = serial(folder)
    made = enroll(home, "press-7", PROFILE, force=True, now=NOW)
    assert made.replaced
    assert serial(folder) == made.entry.serial
    assert revoked(home) == {old}
    assert content(folder)["device.key"] != first["device.key"]


def test_enrolling_into_another_folder_is_enrolling_again(home: Home, tmp_path: Path) -> None:
    enroll(home, "press-7", PROFILE, out=tmp_path / "a", now=NOW)
    with pytest.raises(InputError, match="--force"):
        enroll(home, "press-7", PROFILE, out=tmp_path / "b", now=NOW)
    assert not (tmp_path / "b").exists()


def test_a_folder_of_another_device_is_not_overwritten(home: Home, tmp_path: Path) -> None:
    enroll(home, "press-7", PROFILE, out=tmp_path / "a", now=NOW)
    with pytest.raises(InputError, match=r"agent\.toml: exists; --force replaces it"):
        enroll(home, "press-8", PROFILE, out=tmp_path / "a", now=NOW)
    assert load_config(tmp_path / "a" / "agent.toml", {}).device_id == "press-7"


def test_files_that_are_not_ours_stay(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "stick"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"sun")
    enroll(home, "press-7", PROFILE, out=out, now=NOW)
    enroll(home, "press-7", PROFILE, out=out, force=True, now=NOW)
    assert (out / "holiday.jpg").read_bytes() == b"sun"


def test_after_its_certificate_has_run_out_a_device_is_enrolled_without_force(home: Home) -> None:
    enroll(home, "press-7", PROFILE, now=NOW)
    assert not enroll(home, "press-7", PROFILE, now=NOW + 6 * YEAR).replaced


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_folder_with_a_configuration_is_whole(
    home: Home, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """The power goes at each file in turn; another try by force ends well."""
    enroll(home, "press-7", PROFILE, now=NOW)
    real, seen = os.replace, []

    def replace(source: Path, target: Path) -> None:
        seen.append(target)
        if len(seen) == fails_at:
            raise OSError(5, "the power is gone")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(DeviceError):
            enroll(home, "press-7", PROFILE, force=True, now=NOW)
    folder = home.device("press-7")
    if (folder / "agent.toml").exists():
        load_config(folder / "agent.toml", {})
        assert len(seen) <= 2
    made = enroll(home, "press-7", PROFILE, force=True, now=NOW)
    assert load_config(folder / "agent.toml", {}).broker is not None
    good = CertificateAuthority(home).issued().good("device", "press-7", NOW)
    assert [e.serial for e in good] == [made.entry.serial] == [serial(folder)]


# On the command line.

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """(exit code, stdout, stderr) of a command line."""
    for name in ("EDGE_FLEET_HOME", "EDGE_FLEET_PASSPHRASE", "EDGE_FLEET_BROKER"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_from_nothing_to_a_device_in_three_commands(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "pass"
    secret.write_text("correct horse battery\n")
    words = ("--home", tmp_path / "fleet", "--passphrase-file", secret, "--json")
    assert run("init", *words, "--broker", "mqtts://broker.example")[0] == 0
    code, out, _ = run("broker", *words)
    assert code == 0
    config = tmp_path / "fleet" / "broker" / "mosquitto.conf"
    assert json.loads(out)["config"] == str(config)
    code, out, _ = run("enroll", "press-7", "--profile", PROFILE, *words)
    made = json.loads(out)
    assert (code, made["device"], made["replaced"]) == (0, "press-7", False)
    assert load_config(Path(made["folder"], "agent.toml"), {}).trust == "tuf"
    code, out, _ = run("revoke", "press-7", *words)
    assert (code, json.loads(out)["serials"]) == (0, [made["serial"]])
    assert revoked(Home(tmp_path / "fleet")) == {int(made["serial"], 16)}


def test_a_command_tells_people_what_to_do_next(run: Run, home: Home) -> None:
    code, out, err = run("enroll", "press-7", "--profile", PROFILE, "--home", home.folder)
    folder = home.device("press-7")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"enrolled press-7 in {folder}, good until 20\d\d-\d\d-\d\d\n", out)
    _, _, err = run("enroll", "press-7", "--profile", PROFILE, "--home", home.folder, "--force")
    assert f"bring {home.crl} to the broker" in err
    code, out, err = run("enroll", "operator", "--profile", PROFILE, "--home", home.folder)
    assert (code, out) == (1, "")
    assert err == "edge-fleet: device id operator: this name belongs to the fleet's operator\n"


@pytest.mark.parametrize(
    "words",
    [
        ("enroll", "press-7"),
        ("enroll", "press 7", "--profile", PROFILE),
        ("enroll", "press-7", "--profile", PROFILE, "--broker", "mqtt://x"),
        ("broker", "--port", "0"),
        ("broker", "--autosave", "-1"),
        ("broker", "--autosave", "a day"),
    ],
)
def test_a_word_that_cannot_be_is_a_usage_error(run: Run, home: Home, words: list[str]) -> None:
    code, out, err = run(*words, "--home", home.folder)
    assert (code, out) == (2, "")
    assert err.startswith("usage: edge-fleet")
    assert not home.devices.exists()
    assert not home.broker.exists()


def test_commands_at_the_same_time_forget_nobody(home: Home) -> None:
    """Each reads the index, adds its device and writes it back; one at a time."""
    names = [f"press-{number}" for number in range(3)]
    words = ["--profile", PROFILE, "--home", str(home.folder)]
    command = [sys.executable, "-m", "edge_runtime.fleet.cli", "enroll"]
    root = Path(__file__).parents[2]
    running = [subprocess.Popen([*command, name, *words], cwd=root) for name in names]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    issued = CertificateAuthority(home).issued()
    assert {e.name for e in issued if e.role == "device"} == set(names)
    assert {serial(home.device(name)) for name in names} <= {e.serial for e in issued}


def test_a_folder_that_is_no_home_is_told_and_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    for words in (("broker",), ("enroll", "press-7", "--profile", PROFILE)):
        code, out, err = run(*words, "--home", tmp_path)
        assert (code, out) == (1, "")
        assert "is no fleet home" in err
    assert list(tmp_path.iterdir()) == []


# Taking it back.


def test_revoking_says_so_in_the_list_and_in_the_folder(home: Home) -> None:
    folder = enroll(home, "press-7", PROFILE, now=NOW).folder
    enroll(home, "press-8", PROFILE, now=NOW)
    done = revoke_device(home, "press-7", now=NOW)
    assert revoked(home) == {serial(folder)} == {entry.serial for entry in done.gone}
    assert "revoked on 2026-11-05" in (folder / "REVOKED").read_text()
    assert not (home.device("press-8") / "REVOKED").exists()
    again = revoke_device(home, "press-7", now=NOW + YEAR)
    assert again.gone == ()
    assert "2026-11-05" in (folder / "REVOKED").read_text()


def test_a_revoked_device_gets_a_new_certificate_without_force(home: Home) -> None:
    folder = enroll(home, "press-7", PROFILE, now=NOW).folder
    old = serial(folder)
    revoke_device(home, "press-7", now=NOW)
    made = enroll(home, "press-7", PROFILE, now=NOW)
    assert made.entry.serial == serial(folder) != old
    assert revoked(home) == {old}
    assert not (folder / "REVOKED").exists()


def test_a_device_whose_folder_is_elsewhere_can_be_revoked(home: Home, tmp_path: Path) -> None:
    made = enroll(home, "press-7", PROFILE, out=tmp_path / "stick", now=NOW)
    revoke_device(home, "press-7", now=NOW)
    assert revoked(home) == {made.entry.serial}


def test_the_operator_is_told_how_its_certificate_is_replaced(home: Home) -> None:
    old = x509.load_pem_x509_certificate(home.operator_certificate.read_bytes()).serial_number
    with pytest.raises(InputError, match=r"delete .*operator\.pem and run `edge-fleet broker`"):
        revoke_device(home, "operator", now=NOW)
    home.operator_certificate.unlink()
    mosquitto.write(home, hosts=["broker.example"], now=NOW)
    assert revoked(home) == {old}
    assert (home.broker / "crl.pem").read_bytes() == home.crl.read_bytes()


@pytest.mark.parametrize("device", ["press-9", "operator", "../ca"])
def test_what_was_never_enrolled_cannot_be_revoked(home: Home, device: str) -> None:
    before = home.crl.read_bytes()
    with pytest.raises(EdgeError):
        revoke_device(home, device, now=NOW)
    assert home.crl.read_bytes() == before
