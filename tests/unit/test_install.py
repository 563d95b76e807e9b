"""Local installs: nothing that a person hands over ends the agent, and who asked is told."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import stat
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edge_runtime.agent import install as installing
from edge_runtime.agent.cli import main
from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.given import look_through
from edge_runtime.agent.install import install
from edge_runtime.agent.installer import REQUEST, RESULT, Installer, Request, Result
from edge_runtime.agent.state_folder import LOCK, Hold, owner
from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import (
    DeviceError,
    EdgeError,
    InputError,
    MetadataError,
    TransferError,
    UntrustedError,
)
from edge_runtime.fields import encode_json
from edge_runtime.link import BrokerConfig
from edge_runtime.messages.fleet import Desired, Release
from edge_runtime.profile import DeviceProfile
from edge_runtime.update.journal import Journal
from edge_runtime.update.lifecycle import State
from edge_runtime.update.record import Record
from tests.fakes.bundles import FILES, noise, write_bundle, write_for_boards
from tests.fakes.fleet import PI, PROFILE, Device, Fleet

TOO_LONG = Path("/" + "x" * 300)
LATIN = os.fsdecode(b"caf\xe9")
"""A name that is not UTF-8, as sticks from old machines have them."""
NOBODY = 65534


def stick(folder: Path, made: Path) -> Path:
    """A repository with that bundle, unsigned."""
    reader = FolderReader(made)
    data = (made / MANIFEST_NAME).read_bytes()
    manifest, entry = Manifest.from_bytes(data), file_entry(MANIFEST_NAME, data)
    release = Release(manifest.name, manifest.version, manifest.profile, manifest.size_bytes, entry)
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata" / release.file).write_bytes(release.to_bytes())
    contents = [(entry, data), *((f, reader.read(f.path, f.size_bytes)) for f in manifest.files)]
    for file, content in contents:
        for chunk, piece in file.cut(content):
            path = folder / "chunks" / chunk.sha256[:2] / chunk.sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(piece)
    return folder


def release_of(made: Path) -> Release:
    data = (made / MANIFEST_NAME).read_bytes()
    m = Manifest.from_bytes(data)
    return Release(m.name, m.version, m.profile, m.size_bytes, file_entry(MANIFEST_NAME, data))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")[0]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """An agent's insides: driver, reports, a broker in memory."""
    fleet = Fleet(tmp_path)
    fleet.now_s = time.monotonic()
    found = fleet.add("d")
    fleet.settle()
    return found


def config_of(device: Device, first: Path | None = None) -> AgentConfig:
    return AgentConfig(
        "d", PROFILE.name, device.state, "none",
        first_bundle=first, broker=BrokerConfig("memory", 1883),
    )  # fmt: skip


def installer(device: Device, first: Path | None = None) -> Installer:
    return Installer(
        config_of(device, first),
        PROFILE,
        device.driver,
        lambda _url: None,
        lambda kind, text: device.host.event(kind, text, {}),
    )


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Root may enter every folder: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# What is handed over.


def test_a_folder_that_may_not_be_entered_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir(mode=0)
    with nobody(), pytest.raises(DeviceError, match=r"cannot be read \(Permission denied\)"):
        look_through(folder / "x.edge", None, PROFILE, ChunkStore(tmp_path))


@pytest.mark.parametrize("release", [None, "tiny==1.0.0"])
@pytest.mark.parametrize(
    "path", [TOO_LONG, Path("/a\0b"), Path("x" * 5000)], ids=["long name", "NUL", "long path"]
)
def test_a_name_that_no_disk_can_have_is_an_error_with_a_sentence(
    tmp_path: Path, path: Path, release: str | None
) -> None:
    with pytest.raises(EdgeError) as caught:
        look_through(path, release, PROFILE, ChunkStore(tmp_path))
    assert "cannot be" in str(caught.value)


@pytest.mark.parametrize("release", [None, "tiny==1.0.0"])
def test_a_stick_that_is_not_mounted_is_said_to_be_missing(
    tmp_path: Path, release: str | None
) -> None:
    with pytest.raises(InputError) as caught:
        look_through(tmp_path / "usb" / "edge", release, PROFILE, ChunkStore(tmp_path))
    assert str(caught.value) == f"{tmp_path}/usb/edge: there is nothing at this path"


@pytest.mark.parametrize("shape", ["folder", "file", "repository"])
def test_a_bundle_is_looked_through_a_chunk_at_a_time_and_shows_that_it_gets_on(
    tmp_path: Path, shape: str
) -> None:
    folder, manifest = write_bundle(tmp_path / "b", {**FILES, "model.onnx": noise(4 << 20, 1)})
    path = folder
    if shape == "file":
        path = tmp_path / "b.edge"
        pack(FolderReader(folder), path)
    elif shape == "repository":
        path = stick(tmp_path / "stick", folder)
    peaks: list[int] = []
    for turn in ("first", "second"):  # The lower one counts: threads of other tests allocate, too.
        pulses: list[None] = []
        store = ChunkStore(tmp_path / turn)
        tracemalloc.start()
        try:
            given = look_through(path, None, PROFILE, store, partial(pulses.append, None))
            store.ingest(given.reader, manifest.files)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(pulses) == sum(len(file.chunks) for file in manifest.files) > 40
        assert store.missing(manifest.files) == []
    assert min(peaks) < 1 << 20


@pytest.mark.parametrize("board", [PROFILE, PI], ids=lambda one: one.name)
def test_what_only_other_boards_run_need_not_be_on_the_stick(
    tmp_path: Path, board: DeviceProfile
) -> None:
    folder, manifest = write_for_boards(tmp_path / "b")
    needed = manifest.files_of(manifest.variants_for(board.name))
    for entry in set(manifest.files) - set(needed):
        (folder / entry.path).unlink()
    pulses: list[None] = []
    store = ChunkStore(tmp_path / "chunks")
    given = look_through(folder, None, board, store, lambda: pulses.append(None))
    assert len(pulses) == sum(len(entry.chunks) for entry in needed)
    other = PI if board is PROFILE else PROFILE
    with pytest.raises(UntrustedError, match=r"model.* is missing"):
        look_through(folder, None, other, store)
    store.ingest(given.reader, needed)
    assert store.missing(needed) == []


@pytest.mark.parametrize("shape", ["folder", "repository"])
@pytest.mark.parametrize("how", ["other bytes", "shorter", "longer"])
def test_a_damaged_bundle_is_not_believed(tmp_path: Path, made: Path, shape: str, how: str) -> None:
    path, file = made, made / "model.onnx"
    if shape == "repository":
        path = stick(tmp_path / "stick", made)
        entry = Manifest.from_bytes((made / MANIFEST_NAME).read_bytes()).file(file.name)
        digest = entry.chunks[0].sha256
        file = path / "chunks" / digest[:2] / digest
    data = file.read_bytes()
    bad = {"other bytes": bytes([data[0] ^ 1]) + data[1:], "shorter": data[:-1]}
    file.write_bytes(bad.get(how, data + b"x"))
    with pytest.raises((UntrustedError, MetadataError)):
        look_through(path, None, PROFILE, ChunkStore(tmp_path / "chunks"))


def test_a_damaged_archive_is_not_believed(tmp_path: Path, made: Path) -> None:
    path = tmp_path / "b.edge"
    pack(FolderReader(made), path)
    data = path.read_bytes()
    at = data.index(FILES["model.onnx"])
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(UntrustedError, match=r"'model\.onnx': chunk \w+ has digest"):
        look_through(path, None, PROFILE, ChunkStore(tmp_path / "chunks"))


# What a running agent makes of a request.


def odd_stick(tmp_path: Path) -> Path:
    """A repository of two releases; the name of one is not UTF-8."""
    folder = tmp_path / "odd"
    (folder / "metadata").mkdir(parents=True)
    for name in (LATIN, "tiny"):
        (folder / "metadata" / f"{name}@1.0.0@{PROFILE.name}.json").touch()
    return folder


@pytest.mark.parametrize("odd", ["a name on the stick", "too long a path", "no request"])
def test_a_request_that_cannot_be_met_is_told_and_does_not_end_the_agent(
    tmp_path: Path, device: Device, odd: str
) -> None:
    path = odd_stick(tmp_path) if odd == "a name on the stick" else TOO_LONG
    Request(path, None, "t").leave(device.state)
    if odd == "no request":
        (device.state / REQUEST).write_bytes(b"{")
    installer(device).requested()
    ((kind, text),) = device.host.events
    assert kind == "install-failed"
    text.encode()
    assert not (device.state / REQUEST).exists()
    found = Result.find(device.state, "t")
    if odd == "no request":
        assert found is None
    else:
        assert found is not None
        assert found.reason == text
        assert Result.find(device.state, "another") is None
        with pytest.raises(DeviceError):
            found.demand_taken()


def test_a_first_bundle_that_cannot_be_read_waits_for_the_broker(
    tmp_path: Path, device: Device
) -> None:
    for first in (odd_stick(tmp_path), TOO_LONG, Path(f"/{LATIN}")):
        installer(device, first).begin(None)
    assert device.host.kinds() == ["install-failed"] * 3


def test_an_event_may_quote_names_that_are_not_utf8(device: Device) -> None:
    device.reporting.event("odd", f"bundle {LATIN}: no", {})


def test_a_damaged_bundle_is_said_to_be_untrusted(device: Device, made: Path) -> None:
    (made / "model.onnx").write_bytes(b"damaged")
    Request(made, None, "t").leave(device.state)
    installer(device).requested()
    found = Result.find(device.state, "t")
    assert found is not None
    with pytest.raises(UntrustedError, match=r"model\.onnx"):
        found.demand_taken()


def test_a_new_request_removes_the_result_of_the_one_before(device: Device, made: Path) -> None:
    Result("old", "no").leave(device.state)
    Request(made, None, "new").leave(device.state)
    assert not (device.state / RESULT).exists()
    installer(device).requested()
    assert Result.find(device.state, "new") == Result("new")


def test_once_a_request_is_taken_up_the_journal_no_longer_waits_for_the_past(
    device: Device, made: Path
) -> None:
    digest = release_of(made).manifest.sha256
    device.flaws.untrusted[digest] = TransferError("no source")
    Request(made, None, "1").leave(device.state)
    installer(device).requested()
    device.work()
    assert device.status.state == "waiting"
    Request(made, None, "2").leave(device.state)
    installer(device).requested()
    assert Result.find(device.state, "2") == Result("2")
    record = Journal(device.state / "journal.json").load()
    assert record is not None
    assert record.state is not State.WAITING


def test_what_is_no_text_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="UTF-8"):
        Request(Path(LATIN)).leave(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Who asks.


class Script:
    """The agent's side: this process holds the folder and hears the knock; then, each time that
    the asker pauses, the next step.
    """

    def __init__(self, state: Path, *steps: Callable[[str], None]) -> None:
        self._state = state
        self._steps = list(steps)
        self._token = ""

    def knocked(self, *_: object) -> None:
        request = Request.take(self._state)
        assert request is not None
        self._token = request.token

    def next(self, _s: float) -> None:
        assert self._steps, "the asker waits for nothing"
        self._steps.pop(0)(self._token)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    hold = Hold(tmp_path / "state")
    before = signal.getsignal(signal.SIGUSR1)
    yield tmp_path / "state"
    signal.signal(signal.SIGUSR1, before)
    hold.close()


def ask(
    state: Path, made: Path, script: Script, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> installing.Installed:
    signal.signal(signal.SIGUSR1, script.knocked)
    monkeypatch.setattr(time, "sleep", script.next)
    config = AgentConfig("d", PROFILE.name, state, "none")
    return install(config, made, None, "1", 60.0, said.append)


def test_who_asks_hears_nothing_of_the_past(
    state: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = release_of(made)
    journal = Journal(state / "journal.json")
    past = Record(State.WAITING, Desired(0, release), local=True, reason="no stick")
    past = replace(past, candidate=release.ref)
    journal.save(past)

    def taken(token: str) -> None:
        journal.save(replace(past, state=State.TESTING, reason=""))
        Result(token).leave(state)

    def served(_token: str) -> None:
        journal.save(replace(past, state=State.IDLE, active=release.ref, candidate=None))

    said: list[str] = []
    script = Script(state, lambda _: None, taken, served)
    done = ask(state, made, script, monkeypatch, said)
    assert (done.bundle, done.running, said) == (release.ref, True, ["testing", "idle"])


@pytest.mark.parametrize("untrusted", [True, False])
def test_who_asks_hears_that_the_agent_refused_it(
    state: Path, made: Path, monkeypatch: pytest.MonkeyPatch, untrusted: bool
) -> None:
    script = Script(
        state,
        lambda _: Result("another", "not this").leave(state),
        lambda token: Result(token, "it lacks room", untrusted).leave(state),
    )
    with pytest.raises(UntrustedError if untrusted else DeviceError, match=r"^it lacks room$"):
        ask(state, made, script, monkeypatch, [])


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "soon"])
def test_a_timeout_that_is_no_time_is_a_usage_error(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["install", "--config", "agent.toml", "x.edge", f"--timeout={text}"])
    assert caught.value.code == 2
    assert f"{text!r} is no number of seconds above 0" in capsys.readouterr().err


@pytest.mark.parametrize("path", [str(TOO_LONG), f"/{LATIN}", "odd"])
def test_a_path_that_cannot_be_installed_costs_one_sentence(
    tmp_path: Path, state: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text(
        f'device_id = "d"\nprofile = "{PROFILE.name}"\nstate_dir = "state"\ntrust = "none"\n'
        "[api]\nport = 0\n"
    )
    if path == "odd":  # It is there, and its name cannot be told to the agent that runs.
        path = str(write_bundle(tmp_path / LATIN)[0])
    code = main(["install", "--config", str(tmp_path / "agent.toml"), path])
    said = capsys.readouterr().err.splitlines()
    assert (code, len(said)) == (1, 1)
    assert said[0].startswith("edge-agent: ")


# Whose state folder it is.


def test_the_state_folder_of_another_user_is_left_alone(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: state.stat().st_uid + 1)
    user = pwd.getpwuid(state.stat().st_uid).pw_name
    with pytest.raises(InputError) as caught:
        install(AgentConfig("d", PROFILE.name, state, "none"), made, None, "1", 1.0)
    assert str(caught.value) == (
        f"state folder {state} belongs to user {user}; run it as that user: "
        f"sudo -u {user} edge-agent install …"
    )
    assert list(state.iterdir()) == []


def test_an_owner_without_a_name_is_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owner(tmp_path) is owner(tmp_path / "none") is None

    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    assert owner(tmp_path) == f"#{tmp_path.stat().st_uid}"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_lock_what_the_agent_locks(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Hold(tmp_path / "new" / "state").close()
        old = tmp_path / "old"
        old.mkdir(mode=0o750)
        (old / LOCK).touch(mode=0o644)
        Hold(old).close()
    finally:
        os.umask(before)
    assert mode(tmp_path / "new" / "state") == 0o700
    assert mode(tmp_path / "new" / "state" / LOCK) == mode(old / LOCK) == 0o600
    assert mode(old) == 0o750


def test_a_lock_that_may_not_be_opened_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two agents, one with the file and one with the folder, would undo each other's work."""
    opened: Callable[..., int] = os.open

    def others(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == LOCK:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", others)
    with pytest.raises(DeviceError, match=r"cannot be opened \(Permission denied\)"):
        Hold(tmp_path)


def test_a_result_that_is_none_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_bytes(encode_json(["what"]))
    with pytest.raises(InputError, match="expected an object"):
        Result.find(tmp_path, "t")
