"""What holds for every test: no vendor's telemetry, no download, the same examples on every run.

A test skips where what it needs is not installed: a device has one engine, and no toolchain. Where
everything is (`EDGE_ALL_HERE=1`, set by `make test` for the host's Python) a skip is a failure,
unless its reason is one of `ALLOWED`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

# Before any test module imports an engine or the Hugging Face libraries.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A job in the background of a shell ignores interrupts, and so would all that it starts; some tests
# send one and wait for what it does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

SYSTEM_TESTS = Path(__file__).parent / "system"
ALL_HERE = os.environ.get("EDGE_ALL_HERE") == "1"
FULL = os.environ.get("EDGE_SYSTEM") == "1"
ALLOWED = (
    "tflite-runtime is not installed",  # it wants an older numpy: an environment of its own
    "ONNX files have no signatures",
    "strace is not installed",  # where the set-up may install nothing
    "strace may not trace here",  # some containers forbid it
    "espeak-ng is not installed",  # as strace
    "qemu-x86_64-static is not installed",  # 300 MB of every emulator there is
    "curl is not installed",  # as strace
    "libcurl-gnutls is not installed",
    "systemd-analyze is not installed",  # as strace
    "gpg is not installed",  # as strace
    "lintian is not installed",  # 100 MB of Perl that only the packages' own test wants
    "none of the example's fonts is installed",
    "only by make test-system",
    "no tree of a distribution can be had",  # where no server of packages is reached
    "no machine in a container",
    "rknn is not set up",  # 1.5 GB that `make test` leaves out; make test TARGETS="… rknn"
)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture
def instant_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that stop the program, not the disk: what is written counts as kept."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/system carries the marker `system`; what is `full` may be left out."""
    left_out = pytest.mark.skipif(not FULL, reason="only by make test-system")
    for item in items:
        if item.path.is_relative_to(SYSTEM_TESTS):
            item.add_marker(pytest.mark.system)
        if item.get_closest_marker("full"):
            item.add_marker(left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip fails where nothing is missing."""
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips as a whole."""
    report = yield
    _judge(report)
    return report


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if ALL_HERE and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(allowed in reason for allowed in ALLOWED):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be missing: {reason}"
