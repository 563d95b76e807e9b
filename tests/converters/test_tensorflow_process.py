"""The contract with TensorFlow's process: whatever the other side does is one clear sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from converters.tensorflow.process import MISSING, TensorFlow, find_python
from edge_runtime.errors import InputError

HELLO = '{"ok": {}}'


def other_side(folder: Path, *lines: str) -> Path:
    """An interpreter of the other side that does what a shell script says."""
    path = folder / "python"
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def refusal(python: Path, *, start_s: float = 20, job_s: float = 20) -> str:
    process = TensorFlow("model m.keras", python=python, start_s=start_s, job_s=job_s)
    with pytest.raises(InputError) as caught:
        process.call("open")
    process.close()
    return str(caught.value)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            ["echo Hello from a library", "sleep 9"],
            "answered 'Hello from a library', expected JSON",
        ),
        (["echo '[1]'", "sleep 9"], "answered '[1]', expected JSON"),
        (["echo '{}'", "sleep 9"], "answered neither ok nor error"),
        (["echo no module >&2", "exit 3"], "ended with exit code 3 (no module)"),
        (["exit 1"], "ended with exit code 1 (it said nothing)"),
        (["echo double free >&2", "kill -ABRT $$"], "was ended by SIGABRT (double free)"),
        (["echo half a line | tr -d '\\n'", "kill -KILL $$"], "was ended by SIGKILL"),
        ([f"echo '{HELLO}'", "read line; read line", "kill -SEGV $$"], "was ended by SIGSEGV"),
    ],
)
def test_what_breaks_the_contract_is_one_sentence(
    tmp_path: Path, lines: list[str], sentence: str
) -> None:
    told = refusal(other_side(tmp_path, *lines))
    assert told.startswith("model m.keras: TensorFlow's process ")
    assert sentence in told


def test_who_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    begin = time.monotonic()
    hangs = other_side(tmp_path, f"echo '{HELLO}'", "exec sleep 60")
    assert "took longer than 1 s for open" in refusal(hangs, job_s=1)
    assert "took longer than 0 s for hello" in refusal(
        other_side(tmp_path, "exec sleep 60"), start_s=0.3
    )
    assert time.monotonic() - begin < 15


def test_a_refused_job_leaves_the_process_and_a_broken_one_does_not(tmp_path: Path) -> None:
    """Two requests are answered after `hello`; each process says which of them it is."""
    answers = ['{"error": "too\\\\nlarge"}', '{"ok": {"pid": %d}}']
    python = other_side(
        tmp_path, "read a", f"echo '{HELLO}'", "read a", f"echo '{answers[0]}'", "read a",
        f"printf '{answers[1]}\\n' $$", "read a", "exit 5",
    )  # fmt: skip
    with TensorFlow("model m.keras", python=python) as process:
        with pytest.raises(InputError, match=r"^model m\.keras: too large$"):
            process.call("open")
        first = process.call("run")["pid"]
        with pytest.raises(InputError, match="exit code 5"):
            process.call("run")
        assert process.holds is None
        with pytest.raises(InputError, match="too large"):
            process.call("open")
        assert process.call("run")["pid"] != first


def test_who_hangs_ends_with_us_whatever_ends_us(tmp_path: Path) -> None:
    """One that is stopped cannot see that its input ended."""
    ours = (
        "import os, signal, sys, time; from pathlib import Path; "
        "from converters.toolchain import Toolchain; "
        "tool = Toolchain('t', 'its process', 'converters.placement.worker', "
        "lambda: Path(sys.executable), arguments=('hailo',)); tool.start(); "
        "pid = tool._process.pid; os.kill(pid, signal.SIGSTOP); print(pid, flush=True); "
        "time.sleep(60)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", ours],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert run.stdout is not None
    stat = Path(f"/proc/{int(run.stdout.readline())}/stat")
    run.kill()
    run.communicate()
    until = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    python = other_side(tmp_path, f"while read a; do echo '{HELLO}'; done")
    process = TensorFlow(python=python)
    process.call("run")
    assert [one.name for one in tmp_path.glob("edge-tensorflow-*")]
    process.close()
    process.close()
    assert not [one.name for one in tmp_path.glob("edge-tensorflow-*")]


def test_the_interpreter_is_the_named_one_else_this_one_else_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_TENSORFLOW_PYTHON", str(tmp_path / "python"))
    with pytest.raises(InputError, match=r"EDGE_TENSORFLOW_PYTHON: .*python is not an interpreter"):
        find_python(tmp_path)
    named = other_side(tmp_path, "exit 0")
    assert find_python(tmp_path) == named
    monkeypatch.delenv("EDGE_TENSORFLOW_PYTHON")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        find_python(tmp_path)
    assert str(caught.value) == MISSING
    checkout = tmp_path / ".venv-tensorflow" / "bin"
    checkout.mkdir(parents=True)
    made = other_side(checkout, "exit 0")
    assert find_python(tmp_path) == made
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert find_python(tmp_path) == Path(sys.executable)
