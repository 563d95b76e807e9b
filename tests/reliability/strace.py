"""System calls of the small device, counted and made to fail, by strace's injection.

A traced run lists the calls that touch the state folder; another run is killed before exactly one
of them, or has it fail. Whether the right call was hit is read from its trace and never assumed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.fields import Json
from tests.fakes.brokers import ROOT

TIMEOUT_S = 120.0
KILLED = -9
_LINE = re.compile(r"\d+ +(\w+)\((.*)")
_CHANGING = ("write", "rename", "unlink", "mkdir", "utimensat", "truncate", "link", "symlink")


def obstacle() -> str:
    """Why there can be no sweep here, in a sentence, or nothing."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian: apt-get install strace)"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    if done.returncode != 0:
        return f"strace may not trace here: {done.stderr.strip()[:200]}"
    return ""


@dataclass(frozen=True, slots=True)
class Call:
    """A system call on some paths, `STATE` for the folder; the `number`-th of its name on them.

    Counted so, it is the same in every run, whatever an interpreter reads before its program.
    """

    name: str
    number: int
    text: str
    paths: frozenset[str]

    @property
    def changes(self) -> bool:
        """Whether it changes something on the disk."""
        if self.name == "openat":
            return "O_CREAT" in self.text or "O_TRUNC" in self.text
        return self.name.startswith(_CHANGING)

    @property
    def journal(self) -> bool:
        """Whether it belongs to a write of the journal."""
        return "STATE/.journal.json.tmp" in self.paths or self.paths == {"STATE"}

    def same(self, other: Call | None) -> bool:
        """Whether `other`, perhaps cut short by the signal, is this call in another run."""
        return other is not None and (self.name, self.paths) == (other.name, other.paths)

    def __str__(self) -> str:
        return f"{self.name}({self.text}) #{self.number}"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a call: `signal=KILL`, `error=EIO`. `lasting`: and to all after it."""

    text: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """How a device ended: exit code or minus the signal, what it said, its log, calls it made."""

    code: int
    said: tuple[dict[str, Json], ...]
    log: str
    calls: tuple[Call, ...] = ()
    hit: Call | None = None

    @property
    def end(self) -> dict[str, Json]:
        """Its last status; empty where it had none."""
        return next((line for line in reversed(self.said) if "end" in line), {})

    def refused(self, manifest_sha256: str) -> bool:
        """Whether it refused this bundle."""
        found = self.end.get("refused")
        return isinstance(found, list) and manifest_sha256 in found

    def serving(self) -> list[Json]:
        """What served, one after another; None: nothing."""
        return [line["serving"] for line in self.said if "serving" in line and "end" not in line]

    def served_offline(self) -> Json:
        """What served in the end of its time without a network."""
        serving: Json = None
        for line in self.said:
            if "phase" in line:
                break
            serving = line.get("serving", serving)
        return serving


def device(state: Path, repository: Path, desired: Path, *options: str) -> Run:
    """An ordinary run."""
    return _run([], state, repository, desired, options)


def traced(state: Path, repository: Path, desired: Path, *options: str) -> Run:
    """The same, with the calls that touch `state`."""
    trace = state.with_suffix(".trace")
    wrapper = _strace(trace, "trace=%file,%desc")
    run = _run(wrapper, state, repository, desired, options)
    return Run(run.code, run.said, run.log, tuple(_calls(trace.read_text(), state)))


def injected(
    call: Call, fault: Fault, state: Path, repository: Path, desired: Path, *options: str
) -> Run:
    """The same, with `fault` at `call`; `hit` is the call that was hit."""
    trace = state.with_suffix(".trace")
    when = f"{call.number}+" if fault.lasting else str(call.number)
    wrapper = _strace(trace, f"trace={call.name}", f"inject={call.name}:{fault.text}:when={when}")
    for path in sorted(call.paths):
        wrapper += ["-P", path.replace("STATE", str(state), 1)]
    run = _run(wrapper, state, repository, desired, options)
    made = _calls(trace.read_text(), state)
    hit = made[call.number - 1] if len(made) >= call.number else None
    return Run(run.code, run.said, run.log, (), hit)


def _strace(trace: Path, *expressions: str) -> list[str]:
    words = ["strace", "-f", "-y", "-qq", "-s", "0", "-o", str(trace)]
    return words + [word for expression in expressions for word in ("-e", expression)]


def _run(
    wrapper: list[str], state: Path, repository: Path, desired: Path, options: Sequence[str]
) -> Run:
    command = [sys.executable, "-m", "tests.reliability.device"]
    command += [str(state), str(repository), str(desired), *options]
    # Sets are walked in the same order in every run, and so calls come in the same order.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        wrapper + command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=TIMEOUT_S,
    )
    # The tracer ends as what it traces: killed by the same signal.
    code = KILLED if done.returncode in (KILLED, 128 + 9) else done.returncode
    return Run(code, tuple(map(json.loads, done.stdout.splitlines())), done.stderr)


def _calls(trace: str, state: Path) -> list[Call]:
    """Calls in `trace` that touch `state`."""
    found: list[Call] = []
    for line in trace.splitlines():
        matched = _LINE.match(line)
        if matched is None or str(state) not in matched[2]:
            continue
        text = _normal(matched[2], state)
        paths = frozenset(re.findall(r"(?<=[<\"])STATE[^\"<>]*(?=[>\"])", text))
        before = sum(c.name == matched[1] and bool(c.paths & paths) for c in found)
        found.append(Call(matched[1], before + 1, text, paths))
    return found


def _normal(rest: str, state: Path) -> str:
    """Arguments without results, addresses, and the folder's own name."""
    text = re.split(r"\) += (?=[-?\d])| *<unfinished", rest)[0]
    text = text.replace(str(state), "STATE").replace(f"AT_FDCWD<{ROOT}>, ", "")
    return re.sub(r"0x[0-9a-f]+|\{[^}]*\}?", "…", text)
