"""Environments of vendors' tools: where they are, whether they are whole, and making one.

Each is a virtual environment with a Python that the tool has wheels for. They lie in the folder
$EDGE_TARGETS; else in `.venv-targets` of a checkout, where `make setup-targets` made it; else in
`~/.cache/edge-runtime/targets`.

Order of `set_up`: take the lock, return where the stamp is right, else begin anew: remove what is
there, make the environment, install step by step, let the tool say hello, and write the stamp last.
So an environment without a stamp is none, whatever ended its making, and a release with other
requirements makes another.

What makes one does not outlive us (see `guarded`), and holds the lock until it is gone.

pip is asked as everywhere on the machine: its configuration, its variables and $PIP_ARGS hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from converters.placement import guarded
from converters.placement.targets import Target, target
from converters.progress import Progress
from converters.toolchain import ROOT, START_S, Toolchain, shortened
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.text import plain, size

FOLDER = "EDGE_TARGETS"
IN_CHECKOUT = ".venv-targets"
STAMP = "edge-target.json"
GONE = r"ModuleNotFoundError|ImportError"
"""What a tool says when a package of its environment was removed or spoiled."""
PROBE_S = 20.0
STEP_S = 3600.0
HELLO_S = 60.0
"""A tool that was well when it was set up says hello in seconds; what is installed may hang."""
PROBE = (
    "import ensurepip, sys, venv; "
    "print(getattr(sys, '_base_executable', sys.executable) "
    "if '%d.%d' % sys.version_info[:2] == sys.argv[1] else '')"
)
QUIET: Mapping[str, str] = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
"""For every tool: no vendor's telemetry and no download behind your back."""


@dataclass(frozen=True, slots=True)
class Made:
    """An environment that is ready. `fresh` where this call made it."""

    name: str
    folder: Path
    tool: str
    fresh: bool
    seconds: float
    size_bytes: int

    def words(self) -> str:
        """For people."""
        took = f"made in {self.seconds:.0f} s" if self.fresh else "was there"
        return f"{self.name}: {self.tool}, {size(self.size_bytes)} in {self.folder}, {took}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "target": self.name,
            "folder": str(self.folder),
            "tool": self.tool,
            "made": self.fresh,
            "seconds": round(self.seconds, 1),
            "size_bytes": self.size_bytes,
        }


def targets_folder(root: Path = ROOT) -> Path:
    """$EDGE_TARGETS, else that of the checkout at `root`, else under the user's cache."""
    if chosen := os.environ.get(FOLDER):
        return Path(chosen).absolute()
    if (root / IN_CHECKOUT).is_dir():
        return root / IN_CHECKOUT
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edge-runtime" / "targets"


def interpreter(name: str) -> Path:
    """The Python of the environment of `name`.

    Raises:
        InputError: it is not set up, or by a release that wanted other packages; says how to.
    """
    wanted = target(name)
    if not wanted.own_process:
        raise RuntimeError(f"{name} has no environment of its own")
    folder = targets_folder() / name
    python = folder / "bin" / "python"
    how = f"type `edge-convert setup-target {name}`"
    match _state(wanted, folder):
        case "no":
            raise InputError(f"{name} ({wanted.title}) is not set up: {how}")
        case "of another release":
            raise InputError(f"{name} was set up by another release, with other packages: {how}")
        case "its Python is gone":
            raise InputError(f"{name}: {python} cannot be run any more: {how}")
    return python


def state_of(name: str) -> str:
    """Ready, or why not, in words for a table."""
    return _state(target(name), targets_folder() / name)


def _state(wanted: Target, folder: Path) -> str:
    stamp = _stamp(folder)
    if stamp is None:
        return "no"
    if stamp.get("wanted") != _digest(wanted):
        return "of another release"
    if not os.access(folder / "bin" / "python", os.X_OK):  # its base may have been removed
        return "its Python is gone"
    return "ready"


def tool_of(name: str) -> str | None:
    """What the tool said that it is, where it is set up; None where not."""
    with contextlib.suppress(InputError):
        interpreter(name)
        stamp = _stamp(targets_folder() / name) or {}
        return plain(str(stamp.get("tool", "")))
    return None


def process(name: str, python: Callable[[], Path] | None = None) -> Toolchain:
    """A process of the tool, not yet started."""
    return _Tool(name, python)


class _Tool(Toolchain):
    """A vendor's tool in its environment."""

    def __init__(self, name: str, python: Callable[[], Path] | None) -> None:
        super().__init__(
            name, f"the process of {name}", "converters.placement.worker",
            python or (lambda: interpreter(name)),
            arguments=(name,), chatter=r"[Ww]arning|^\s|^I ", prefix=f"edge-{name}-",
            start_s=HELLO_S if python is None else START_S,
        )  # fmt: skip
        self._cure = f"; type `edge-convert setup-target {name} --force`" if python is None else ""
        self._variables = {**QUIET, **target(name).environment}

    def environment(self, folder: Path) -> Mapping[str, str]:
        """The tool's own variables besides."""
        return {**super().environment(folder), **self._variables}

    def start(self) -> dict[str, Any]:
        """As `Toolchain.start`; where it is set up and is not well, says what to type."""
        try:
            return super().start()
        except InputError as reason:
            raise InputError(f"{reason}{self._cure}") from None

    def call(self, job: str, **request: Any) -> dict[str, Any]:
        """As `Toolchain.call`; where a package was removed, says what to type."""
        self.start()
        try:
            return super().call(job, **request)
        except InputError as reason:
            cure = self._cure if re.search(GONE, str(reason)) else ""
            raise InputError(f"{reason}{cure}") from None


def set_up(name: str, progress: Progress, *, force: bool = False) -> Made:
    """Make the environment of `name`, unless it is there; with `force`, anew even then.

    Raises:
        InputError: no such tool, none that needs an environment, no Python for it, or $PIP_ARGS
            are no arguments.
        DeviceError: it could not be made; names the log.
    """
    wanted = target(name)
    if not wanted.own_process:
        raise InputError(f"target {name} needs no setting up: it runs in edge-convert itself")
    begin = time.monotonic()
    folder = targets_folder() / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent / f"{name}.lock", name, progress) as held:
            tool = None if force else tool_of(name)
            fresh = tool is None
            if tool is None:
                tool = _make(name, wanted, folder, progress, held)
    except OSError as reason:
        raise DeviceError(f"target {name}: {reason.strerror} ({reason.filename})") from None
    held = sum(one.lstat().st_size for one in folder.rglob("*"))
    return Made(name, folder, tool, fresh, time.monotonic() - begin, held)


def find_python(versions: Sequence[str]) -> Path:
    """An interpreter of the first of `versions` that is found, runs, and can make environments.

    A `python3.10` on PATH may be a version manager's shim that only prints an error, and a
    distribution's python may lack venv: so each candidate is tried, not believed.

    Raises:
        InputError: there is none.
    """
    for version in versions:
        for candidate in _candidates(version):
            if found := _probe(candidate, version):
                return found
    raise InputError(
        f"no Python {' or '.join(versions)} with venv was found on this machine; install one "
        f"(Debian: apt-get install python{versions[0]} python{versions[0]}-venv)"
    )


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for name in (f"python{version}", "python3"):
            path = Path(folder) / name
            if folder and os.access(path, os.X_OK):
                yield str(path)
    yield from sorted(glob(str(Path.home() / f".pyenv/versions/{version}.*/bin/python")))


def _probe(candidate: str, version: str) -> Path | None:
    """The interpreter behind `candidate`, and behind an environment, which may go away."""
    try:
        done = subprocess.run(
            [candidate, "-I", "-c", PROBE, version], capture_output=True, timeout=PROBE_S, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = done.stdout.strip()
    return Path(found) if done.returncode == 0 and found else None


def _make(name: str, wanted: Target, folder: Path, progress: Progress, held: int) -> str:
    """Make it, and return what the tool says that it is; `held` is the lock's descriptor."""
    asked = _pip_arguments()
    python = find_python(wanted.pythons)
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.parent / f"{name}.log"
    log.write_bytes(b"")
    own = folder / "bin" / "python"
    pip = [str(own), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
           *asked]  # fmt: skip
    steps: list[tuple[str, list[str]]] = [
        (f"an environment with {python}", [str(python), "-I", "-m", "venv", str(folder)])
    ]
    for packages in wanted.steps:
        named = [one for one in packages if not one.startswith("-")]
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        steps.append((f"pip install {named[0]}{more}", [*pip, *packages]))
    total = len(steps) + 1
    progress.say(f"target {name}: about {wanted.disk_mb} MB in {folder}")
    for number, (title, command) in enumerate(steps, 1):
        with _step(progress, number, total, title):
            _run(command, log, f"target {name}: {title}", held)
    with _step(progress, total, total, "the tool says hello"), process(name, lambda: own) as tool:
        said = plain(str(tool.start().get("tool", name)))
    _write_stamp(folder, {"wanted": _digest(wanted), "tool": said, "python": str(python)})
    return said


@contextlib.contextmanager
def _step(progress: Progress, number: int, total: int, title: str) -> Iterator[None]:
    """A line for a step, when it is done; a spinner before."""
    begin = time.monotonic()
    with progress.busy(f"{number}/{total} {title}"):
        yield
    progress.say(f"  {number}/{total} {title}, {time.monotonic() - begin:.0f} s")


def _pip_arguments() -> list[str]:
    try:
        return shlex.split(os.environ.get("PIP_ARGS", ""))
    except ValueError as reason:
        raise InputError(f"PIP_ARGS are no arguments for pip ({reason})") from None


def _run(command: Sequence[str], log: Path, what: str, held: int) -> None:
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        try:
            code = guarded.run(command, file, STEP_S, held=held)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{what} took longer than {STEP_S:.0f} s; see {log}") from None
    if code != 0:
        lines = log.read_text(errors="replace").splitlines()
        said = [line for line in lines if "ERROR" in line] or lines[-1:]
        raise DeviceError(f"{what} failed: {shortened(said[-1])}; see {log}")


@contextlib.contextmanager
def _alone(lock: Path, name: str, progress: Progress) -> Iterator[int]:
    """One process at a time; another says that it waits. Yields the lock's descriptor."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"target {name}: another process is at it, waiting for its end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _digest(wanted: Target) -> str:
    return hashlib.sha256(repr(wanted.steps).encode()).hexdigest()


def _stamp(folder: Path) -> dict[str, Any] | None:
    """What the stamp says; None where there is none that can be read."""
    path = folder / STAMP
    try:
        if not path.is_file():  # a pipe would have us wait
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _write_stamp(folder: Path, words: Mapping[str, str]) -> None:
    made = folder / f"{STAMP}.new"
    with made.open("w", encoding="utf-8") as file:
        json.dump(words, file)
        file.flush()
        os.fsync(file.fileno())
    made.replace(folder / STAMP)
