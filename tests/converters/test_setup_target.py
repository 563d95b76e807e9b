"""Environments of vendors' tools: real ones, from an index of two small packages of the test's."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from converters.cli import main
from converters.placement.environments import (
    STAMP,
    find_python,
    interpreter,
    process,
    set_up,
    targets_folder,
    tool_of,
)
from converters.progress import Silent
from edge_runtime.errors import DeviceError, InputError

Edge = Callable[..., tuple[int, str, str]]


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A pure wheel, as pip installs it."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in (contents | {f"{info}/RECORD": record}).items():
            archive.writestr(path, text)


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of targets, and an index that has what `vela` needs, by name at least."""
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "flatbuffers", "25.12.19", {"flatbuffers.py": ""})
    wheel(
        index, "ethos-u-vela", "5.2.0",
        {"ethosu/__init__.py": "", "ethosu/vela/__init__.py": "",
         "ethosu/vela/vela.py": "def main(words):\n    return 1\n"},
    )  # fmt: skip
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path / "targets"))
    monkeypatch.setenv("PIP_ARGS", f"--no-index --find-links '{index}'")
    return tmp_path / "targets"


@pytest.fixture
def edge(capfd: pytest.CaptureFixture[str]) -> Edge:
    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(words))
        return code, *capfd.readouterr()

    return run


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_target_is_set_up_once_and_again_for_a_release_that_wants_others(
    targets: Path, edge: Edge
) -> None:
    with pytest.raises(InputError, match="is not set up: type `edge-convert setup-target vela`"):
        interpreter("vela")
    # Two at once make one environment.
    ears = [Heard(), Heard()]
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda ear: set_up("vela", ear), ears))
    assert sorted(one.fresh for one in made) == [False, True]
    assert {one.tool for one in made} == {"ethos-u-vela 5.2.0"}
    said = [line for ear in ears for line in ear.lines]
    steps = [line for line in said if "another process is at it" not in line]
    assert [line.split()[0] for line in steps] == ["target", "1/3", "2/3", "3/3"]
    assert len(said) - len(steps) == 1
    assert interpreter("vela") == targets / "vela" / "bin" / "python"
    assert "pip install" in (targets / "vela.log").read_text()

    stamp = targets / "vela" / STAMP
    before, before_text = stamp.stat().st_mtime_ns, stamp.read_text()
    code, out, _ = edge("setup-target", "vela", "--json")
    (told,) = json.loads(out)
    assert code == 0
    assert (told["target"], told["tool"], told["made"]) == ("vela", "ethos-u-vela 5.2.0", False)
    assert told["size_bytes"] > 10_000
    assert stamp.stat().st_mtime_ns == before
    states = {one["target"]: one["tool"] for one in json.loads(edge("setup-target", "--json")[1])}
    assert (states["vela"], states["qnn"]) == ("ethos-u-vela 5.2.0", None)
    assert "ethos-u-vela 5.2.0" in edge("setup-target", "--list")[1]
    check_spoiled(targets, edge)

    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"wanted": "others"}))
    with pytest.raises(InputError, match="set up by another release"):
        interpreter("vela")
    assert tool_of("vela") is None
    assert "of another" in edge("setup-target", "--list")[1]
    (targets / "vela" / "bin" / "python").unlink()
    stamp.write_text(before_text)
    states = {one["target"]: one["state"] for one in json.loads(edge("setup-target", "--json")[1])}
    assert (states["vela"], states["qnn"]) == ("its Python is gone", "no")


def test_what_makes_an_environment_ends_with_us_and_holds_the_lock_until_then(
    targets: Path, tmp_path: Path
) -> None:
    """A build that hangs, two processes below us, when somebody ends us by SIGKILL."""
    tree = "import subprocess, sys; subprocess.call([sys.executable, '-c', sys.argv[1]])"
    leaf = f"import os, time; open({str(tmp_path / 'leaf')!r}, 'w').write(str(os.getpid())); "
    leaf += "time.sleep(60)"
    ours = (
        "import sys; from pathlib import Path; from converters.placement import environments as e; "
        "from converters.progress import Silent; lock = Path(sys.argv[1]); "
        "held = e._alone(lock, 'vela', Silent()).__enter__(); "
        "e._run([sys.executable, '-c', *sys.argv[2:]], lock.with_name('log'), 'x', held)"
    )
    lock = tmp_path / "vela.lock"
    run = subprocess.Popen([sys.executable, "-c", ours, lock, tree, leaf])
    until = time.monotonic() + 20
    while not (tmp_path / "leaf").exists() or not (tmp_path / "leaf").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    pid = int((tmp_path / "leaf").read_text())
    run.kill()
    run.wait()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    while alive(pid):
        assert time.monotonic() < until
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether it runs: one that ended and was not fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_stamps_and_arguments_that_are_none_are_one_sentence(
    targets: Path, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    (targets / "vela").mkdir(parents=True)
    (targets / "vela" / STAMP).write_text("[" * 100_000)
    assert tool_of("vela") is None
    (targets / "vela" / STAMP).unlink()
    os.mkfifo(targets / "vela" / STAMP)
    assert tool_of("vela") is None
    monkeypatch.setenv("PIP_ARGS", '"unclosed')
    code, _, err = edge("setup-target", "vela")
    assert code == 1
    assert "PIP_ARGS are no arguments for pip (No closing quotation)" in err


def check_spoiled(targets: Path, edge: Edge) -> None:
    """What is spoiled names its cure, and that cures it."""
    stamp = targets / "vela" / STAMP
    (package,) = (targets / "vela").glob("lib/python*/site-packages/ethosu")
    shutil.rmtree(package)
    with pytest.raises(InputError, match=r"ModuleNotFoundError.*setup-target vela --force`"):
        process("vela").start()
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"tool": "vela \x1b[31m"}))
    assert "\x1b" not in (tool_of("vela") or "")
    assert edge("setup-target", "vela", "--force")[0] == 0
    with process("vela") as tool:
        assert tool.start() == {"tool": "ethos-u-vela 5.2.0"}
    # One that hangs is not waited for as long as one that is set up.
    (package / "vela" / "vela.py").write_text("import time; time.sleep(60)")
    hangs = process("vela")
    assert hangs._start_s == 60
    hangs._start_s = 0.5
    with pytest.raises(InputError, match=r"longer than 0 s for hello; type .* --force`"):
        hangs.start()


def test_what_fails_leaves_no_environment_and_names_its_log(
    targets: Path, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_ARGS", "--no-index")
    code, _, err = edge("setup-target", "vela")
    assert code == 1
    assert "pip install ethos-u-vela==5.2.0 and 1 more failed: ERROR: No matching" in err
    assert str(targets / "vela.log") in err
    assert tool_of("vela") is None
    # What is half there is no environment either, and does not stand in the way.
    (targets / "vela" / STAMP).write_text("{")
    assert tool_of("vela") is None


def test_names_without_an_environment_are_refused(targets: Path, edge: Edge) -> None:
    assert "target tpu: not known" in edge("setup-target", "tpu")[2]
    assert "needs no setting up" in edge("setup-target", "edgetpu")[2]
    assert not targets.exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path / "file" / "targets"))
    with pytest.raises(DeviceError, match=r"target vela: Not a directory"):
        set_up("vela", Silent())


def test_targets_lie_where_it_is_said_else_in_the_checkout_else_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGE_TARGETS", raising=False)
    assert targets_folder(tmp_path) == tmp_path / "cache" / "edge-runtime" / "targets"
    (tmp_path / ".venv-targets").mkdir()
    assert targets_folder(tmp_path) == tmp_path / ".venv-targets"
    monkeypatch.setenv("EDGE_TARGETS", str(tmp_path / "named"))
    assert targets_folder(tmp_path) == tmp_path / "named"


def test_a_python_is_tried_and_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version manager's shim that only prints an error comes first on PATH."""
    shim = tmp_path / "python3.11"
    shim.write_text("#!/bin/sh\necho no such version >&2; exit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = find_python(("3.11", "3.12", "3.13", "3.10"))
    assert found.is_file()
    assert tmp_path not in found.parents
    with pytest.raises(InputError, match=r"no Python 3\.99 with venv was found"):
        find_python(("3.99",))
