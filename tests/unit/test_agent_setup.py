"""`edge-agent setup` below a folder: what is put where, what is refused, and power cuts on the way.

The service itself, under a real systemd, is tests/system/test_service….py's matter.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import device_profiles
from edge_runtime.agent.cli import main
from edge_runtime.agent.config import load_config
from edge_runtime.agent.setup import first
from edge_runtime.agent.setup import place as placing
from edge_runtime.agent.setup.identity import NAMES, read_identity
from edge_runtime.agent.setup.place import Folder, System, exchange
from edge_runtime.agent.setup.steps import Done, Wishes, setup
from edge_runtime.errors import DeviceError, EdgeError, InputError, UntrustedError
from edge_runtime.fleet.enroll import enroll
from edge_runtime.fleet.home import Home
from edge_runtime.messages.fleet import BundleRef
from edge_runtime.update.journal import Journal
from edge_runtime.update.record import Record
from tests.fakes.enrolling import enrolling
from tests.fakes.homes import NOW, make_home

PROFILE = "generic-x86_64"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = make_home(tmp_path_factory.mktemp("home") / "fleet", now=None)
    for name in ("press-7", "press-8"):
        enroll(made, name, PROFILE)
    return made


@pytest.fixture
def folder(home: Home, tmp_path: Path) -> Path:
    """A device's folder, to spoil."""
    return Path(shutil.copytree(home.device("press-7"), tmp_path / "folder"))


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "root")


def put(folder: Path, system: System, **more: object) -> Done:
    return setup(Wishes(folder=folder, start=False, **more), system)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def own_profile(path: Path) -> Path:
    shipped = Path(device_profiles.__path__[0], f"{PROFILE}.toml").read_text()
    path.write_text(shipped.replace(f'name = "{PROFILE}"', 'name = "my-board"', 1))
    return path


# What is put where.


def test_an_identity_is_put_where_the_service_finds_it_and_only_root_reads_it(
    folder: Path, system: System
) -> None:
    before = os.umask(0)
    try:
        done = put(folder, system)
    finally:
        os.umask(before)
    assert (done.device, done.changed, done.ready) == ("press-7", True, False)
    assert content(system.identity) == content(folder)
    assert stat.S_IMODE(system.identity.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in system.identity.iterdir()} == {0o600}
    assert load_config(system.identity / "agent.toml", {}).device_id == "press-7"
    drop_in = (system.units / "edge-agent.service.d" / "50-board.conf").read_text()
    assert "[Service]" in drop_in
    assert "TasksMax=" in drop_in
    assert stat.S_IMODE((system.units / "edge-agent.service.d").stat().st_mode) == 0o755
    assert not (system.units / "edge-agent.socket.d").exists()
    names = {p.name for p in system.identity.parent.iterdir()}
    assert names == {"edge-agent", "systemd"}


def test_doing_it_again_changes_nothing(folder: Path, system: System) -> None:
    put(folder, system)
    inode = system.identity.stat().st_ino
    assert not put(folder, system).changed
    assert system.identity.stat().st_ino == inode


def test_a_profile_of_ones_own_becomes_profile_toml(
    home: Home, tmp_path: Path, system: System
) -> None:
    enroll(home, "press-9", str(own_profile(tmp_path / "b.toml")), out=tmp_path / "own")
    done = put(tmp_path / "own", system)
    assert done.profile == "my-board"
    assert (system.identity / "profile.toml").read_bytes() == (tmp_path / "b.toml").read_bytes()
    config = load_config(system.identity / "agent.toml", {})
    assert config.profile == str(system.identity / "profile.toml")
    assert not put(tmp_path / "own", system).changed
    # Once more with a profile that ships: the old one's file must not stay.
    assert put(tmp_path / "own", system, profile="raspberry-pi-5").profile == "raspberry-pi-5"
    assert not (system.identity / "profile.toml").exists()
    comment = "# The board: which engines it has"
    assert comment in (system.identity / "agent.toml").read_text()


def test_an_api_on_another_address_is_told_to_the_socket(folder: Path, system: System) -> None:
    config = folder / "agent.toml"
    config.write_text(config.read_text().replace('# host = "127.0.0.1"', 'host = "0.0.0.0"'))
    put(folder, system)
    path = system.units / "edge-agent.socket.d" / "50-board.conf"
    assert path.read_text().endswith("[Socket]\nListenStream=\nListenStream=0.0.0.0:8080\n")
    shutil.copyfile(folder / "agent.toml", folder / "x")
    config.write_text(config.read_text().replace('host = "0.0.0.0"', ""))
    assert put(folder, system).changed
    assert not path.exists()


def test_files_that_an_administrator_put_there_go_along(folder: Path, system: System) -> None:
    put(folder, system)
    (system.identity / "my-token").write_bytes(b"kept")
    put(folder, system, profile="raspberry-pi-5")
    assert (system.identity / "my-token").read_bytes() == b"kept"


# A first bundle.


def repository(folder: Path) -> None:
    (folder / "repository" / "metadata").mkdir(parents=True)
    (folder / "repository" / "metadata" / "timestamp.json").write_text("{}")
    (folder / "repository" / "chunks" / "ab").mkdir(parents=True)
    (folder / "repository" / "chunks" / "ab" / "abc").write_bytes(b"chunk")
    (folder / "repository" / "evil").symlink_to("/etc/shadow")


def test_a_first_bundle_is_shown_to_the_service_and_to_nobody_else(
    folder: Path, system: System
) -> None:
    repository(folder)
    before = os.umask(0o077)
    try:
        assert put(folder, system).changed
    finally:
        os.umask(before)
    assert stat.S_IMODE(system.first.stat().st_mode) == 0o700
    inside = system.first / "bundle" / "repository"
    assert (inside / "chunks" / "ab" / "abc").read_bytes() == b"chunk"
    shown = system.first / "bundle"
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (shown, *shown.rglob("*"))}
    assert modes == {0o755, 0o644}
    assert not os.path.lexists(inside / "evil")
    lines = first.drop_in(system).read_text().splitlines()
    assert lines[1:] == [
        "[Service]",
        "BindReadOnlyPaths=-/var/lib/edge-agent-first/bundle:/run/edge-agent-first",
        "Environment=EDGE_AGENT_FIRST_BUNDLE=/run/edge-agent-first/repository",
    ]
    assert not put(folder, system).changed
    assert first.forget(system)
    assert not first.forget(system)
    assert not system.first.exists()


def test_a_device_that_has_a_bundle_is_brought_none(folder: Path, system: System) -> None:
    (folder / "first.edge").write_bytes(b"a bundle")
    system.state.mkdir(parents=True)
    Journal(system.state / "journal.json").save(
        Record(active=BundleRef("tiny", "1.0.0", "ab" * 32))
    )
    put(folder, system)
    assert not system.first.exists()


# What is refused, before anything is written.


def spoil(folder: Path, name: str, before: str = "", after: str = "") -> None:
    path = folder / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1) if before else after)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda f: (f / "agent.toml").unlink(), "is no identity, it has no agent.toml"),
        (lambda f: (f / "device.key").unlink(), "key file .* does not exist"),
        (lambda f: (f / "root.json").unlink(), "root.json"),
        (lambda f: (f / "ca.pem").unlink(), "CA file .* does not exist"),
        (lambda f: spoil(f, "device.key", after="x"), "not usable"),
        (lambda f: spoil(f, "root.json", after="{}"), "root.json"),
        (lambda f: spoil(f, "agent.toml", after="device_id = 5"), "device_id must be a string"),
        (
            lambda f: spoil(f, "agent.toml", '"press-7"', '"press-9"'),
            "is of press-7, but device_id",
        ),
        (lambda f: spoil(f, "agent.toml", f'"{PROFILE}"', '"pi-9"'), "'pi-9' is not known"),
        (lambda f: spoil(f, "agent.toml", '"/var/lib/edge-agent"', '"state"'), "state_dir is"),
        (
            lambda f: [
                (f / "ca.pem").rename(f / "our-ca.pem"),
                (f / "agent.toml").write_text(
                    (f / "agent.toml").read_text().replace('"ca.pem"', '"our-ca.pem"')
                ),
            ],
            "ca is our-ca.pem, which the service is not handed",
        ),
        (
            lambda f: spoil(f, "agent.toml", '"device.key"', f'"{f.parent}/folder/../k"'),
            "does not exist",
        ),
    ],
)
def test_a_folder_that_is_not_whole_changes_nothing(
    folder: Path, system: System, how: Callable[[Path], object], words: str
) -> None:
    how(folder)
    with pytest.raises(InputError, match=words):
        put(folder, system)
    assert not system.identity.exists()
    assert not system.units.exists()


def test_a_key_of_another_device_is_refused(home: Home, folder: Path, system: System) -> None:
    shutil.copyfile(home.device("press-8") / "device.key", folder / "device.key")
    with pytest.raises(InputError, match="not usable"):
        put(folder, system)


def test_a_certificate_of_another_authority_is_not_to_be_trusted(
    folder: Path, system: System, tmp_path: Path
) -> None:
    other = make_home(tmp_path / "other", now=None)
    shutil.copyfile(other.ca_certificate, folder / "ca.pem")
    with pytest.raises(UntrustedError, match=r"device\.pem: is not of the authority"):
        put(folder, system)


def test_a_board_becomes_another_device_only_by_force(
    home: Home, folder: Path, system: System
) -> None:
    put(folder, system)
    before = content(system.identity)
    with pytest.raises(InputError, match="this machine is press-7, and would become press-8"):
        put(home.device("press-8"), system)
    assert content(system.identity) == before
    assert put(home.device("press-8"), system, force=True).device == "press-8"


def test_two_set_ups_at_once_do_not_mix(folder: Path, system: System) -> None:
    with system.hold(), pytest.raises(DeviceError, match="another edge-agent setup is at work"):
        put(folder, system)


# Power cuts.

CALLS = ("mkdir", "rename", "replace", "fsync", "unlink", "open")


class Cut(BaseException):
    """The power is gone: nothing of ours runs any more."""


@pytest.mark.parametrize("steps", [False, True], ids=["exchange", "in steps"])
def test_a_power_cut_at_any_call_leaves_the_old_identity_or_the_new_one(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: bool
) -> None:
    """And another try ends well. `steps`: a file system that cannot exchange two names."""
    old, new = (content(home.device(name)) for name in ("press-7", "press-8"))
    if steps:
        monkeypatch.setattr(placing, "RENAME_EXCHANGE", 1 << 20)  # EINVAL
    cuts = 0
    for at in range(1, 200):
        place = Folder(tmp_path / str(at) / "edge-agent")
        place.put(old, NAMES)
        place.settle()
        seen = 0

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*words: object, **more: object) -> object:
                nonlocal seen
                seen += 1
                if seen == at:  # noqa: B023 - called in this turn
                    raise Cut
                return real(*words, **more)

            return call

        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                place.put(new, NAMES)
                break
            except Cut:
                cuts += 1
        found = content(place.path)
        if found not in (old, new):
            assert steps
            assert found == {}
            place.recover()
            assert content(place.path) in (old, new)
        place.put(new, NAMES)
        assert content(place.path) == new
        assert place.back() or found == new
    assert cuts > 10


def test_what_worked_is_put_back_and_what_never_worked_is_not_kept(
    home: Home, tmp_path: Path
) -> None:
    place = Folder(tmp_path / "etc" / "edge-agent")
    files = {n: content(home.device(n)) for n in ("press-7", "press-8")}
    place.put(files["press-7"], NAMES)
    assert not place.unproven
    place.settle()
    place.put(files["press-8"], NAMES)
    assert place.unproven
    place.put({**files["press-8"], "password": b"x"}, NAMES)
    assert place.back()
    assert content(place.path) == files["press-7"]
    assert [p.name for p in place.path.parent.iterdir()] == ["edge-agent"]
    assert not place.back()


def test_a_full_disk_is_a_sentence_and_what_was_there_stays(
    home: Home, folder: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, system)
    before = content(system.identity)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DeviceError, match="No space left on device"):
            put(home.device("press-8"), system, force=True)
    assert content(system.identity) == before
    assert put(home.device("press-8"), system, force=True).device == "press-8"


def test_names_change_places_in_one_call(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "1").touch()
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "1").exists()
    with pytest.raises(OSError, match="No such file"):
        exchange(tmp_path / "a", tmp_path / "none")


# By a token, and on the command line.


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["setup", *map(str, words), "--root", str(tmp_path / "root")])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_token_sets_a_board_up_and_pasting_it_again_changes_nothing(
    tmp_path: Path, run: Run, system: System
) -> None:
    home = make_home(tmp_path / "fleet", now=None)
    with enrolling(home) as served:
        token = served.token()
        code, out, err = run("--token", token.text, "--json")
        done = json.loads(out)
        assert (code, done["device"], done["changed"], done["ready"]) == (0, "press-7", True, False)
        assert token.secret not in out + err
        before = content(system.identity)
        assert "token.sha256" in before
        assert not system.enrolling.exists()
        assert run("--token", token.text)[0] == 0
        assert len(served.told) == 1
    # Without a server, too: nothing is left to ask.
    assert run("--token", token.text)[0] == 0
    assert content(system.identity) == before
    assert read_identity(system.identity).config.device_id == "press-7"


def test_a_set_up_by_token_that_was_cut_goes_on_with_the_same_key(
    tmp_path: Path, run: Run, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "fleet", now=None)
    with enrolling(home) as served:
        token = served.token()
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "put", _gone)
            with pytest.raises(Cut):
                run("--token", token.text)
        key = (system.enrolling / "device.key").read_bytes()
        assert run("--token", token.text)[0] == 0
        assert (system.identity / "device.key").read_bytes() == key
        assert len(served.told) == 1


def _gone(*_: object) -> None:
    raise Cut


def test_a_token_that_is_not_good_ends_with_3_and_one_sentence(
    tmp_path: Path, run: Run, system: System
) -> None:
    home = make_home(tmp_path / "fleet", now=None)
    with enrolling(home) as served:
        token = served.token()
        served.token()  # Another one for the same device.
        code, out, err = run("--token", token.text)
    assert (code, out) == (3, "")
    assert "edge-agent: the token is not known to this fleet" in err
    assert token.secret not in err
    assert not system.identity.exists()


def test_a_token_for_another_device_is_not_used_up(tmp_path: Path, run: Run, folder: Path) -> None:
    home = make_home(tmp_path / "fleet", now=None)
    assert run(folder)[0] == 0
    with enrolling(home) as served:
        token = served.token("press-9")
        code, _, err = run("--token", token.text)
        assert (code, served.told) == (1, [])
        assert "this machine is press-7, and would become press-9" in err
        assert run("--token", token.text, "--force")[0] == 0


@pytest.mark.parametrize("token", ["", "edge1_", "edge1_AAAA", "hello", "x" * 5000])
def test_what_is_no_token_is_one_sentence(run: Run, token: str) -> None:
    code, out, err = run("--token", token)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("edge-agent: token: ")


@pytest.mark.parametrize(
    "words", [(), ("folder", "--token", "edge1_x"), ("folder", "--timeout", "soon")]
)
def test_words_that_cannot_be_are_usage_errors(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "usage: edge-agent setup" in err


def test_without_systemd_or_its_units_it_is_said_what_is_missing(
    folder: Path, system: System
) -> None:
    wishes = Wishes(folder=folder)
    with pytest.raises(EdgeError, match="systemd does not run here"):
        setup(wishes, system)
    (system.root / "run/systemd/system").mkdir(parents=True)
    with pytest.raises(EdgeError, match="install the package edge-agent first"):
        setup(wishes, system)
    assert not system.identity.exists()


def test_an_identity_whose_certificate_ends_is_no_matter_of_the_loader(
    tmp_path: Path, system: System
) -> None:
    """A board's clock may be anything; the doctor says what it thinks of dates."""
    home = make_home(tmp_path / "fleet", now=NOW)
    made = enroll(home, "press-7", PROFILE, now=NOW)
    assert put(made.folder, system).device == "press-7"
