"""Ctrl-C ends a run, whatever a toolchain makes of it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.cache import Cache
from converters.interrupt import interrupted, remembered_interrupts, stop_if_interrupted
from converters.quiet import quiet


def press() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def swallowing(then: Callable[[], object] = lambda: None) -> None:
    """An exporter with a bare except."""
    try:
        press()
    except BaseException:
        then()


def complain() -> None:
    print("[START] Convert")
    fail()


def fail() -> None:
    raise RuntimeError("the graph has no end")


@pytest.mark.parametrize("work", [press, swallowing, lambda: swallowing(fail)])
def test_an_interrupt_ends_the_block_as_an_interrupt(work: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), remembered_interrupts():
        work()
    assert signal.getsignal(signal.SIGINT) is before
    assert not interrupted()


def test_without_an_interrupt_errors_are_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="no end"), remembered_interrupts():
        fail()
    with remembered_interrupts():
        stop_if_interrupted()


def test_what_an_interrupted_toolchain_made_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt), remembered_interrupts():
        cache.folder("export", {}, lambda made: swallowing())
    assert not cache.holds("export", {})


def test_what_a_toolchain_printed_before_it_is_no_evidence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyboardInterrupt), remembered_interrupts(), quiet():
        swallowing(complain)
    assert capfd.readouterr() == ("", "")


def test_an_import_is_finished_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Native modules abort the whole process when one is raised while they are loaded."""
    (tmp_path / "native_toolchain.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nloaded = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def work() -> None:
        importlib.import_module("native_toolchain")
        time.sleep(30)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), remembered_interrupts():
        work()
    assert time.monotonic() - began < 10
    assert sys.modules.pop("native_toolchain").loaded


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As for a command behind nohup."""
    code = (
        "import os, signal\n"
        "from converters.interrupt import remembered_interrupts\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with remembered_interrupts(): os.kill(os.getpid(), signal.SIGINT)\n"
        "print('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "went on\n"
