"""What toolchains print is held back, given back where it is evidence, and breaks nothing later."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest

from converters.quiet import quiet
from edge_runtime.errors import InputError


def chatter(ending: BaseException | None = None) -> None:
    """Every way that a toolchain has, and how it ends."""
    print("python stdout")
    print("python stderr", file=sys.stderr)
    os.write(2, b"native stderr\n")
    if ending is not None:
        raise ending


def test_nothing_is_seen_of_a_block_that_ends_well(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet(), quiet():
        chatter()
    assert capfd.readouterr() == ("", "")


def test_what_a_failure_left_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="deep inside"), quiet():
        chatter(ValueError("deep inside"))
    assert set(capfd.readouterr().err.splitlines()) == {
        "python stdout", "python stderr", "native stderr",
    }  # fmt: skip


@pytest.mark.parametrize("ending", [InputError("told"), KeyboardInterrupt()])
def test_our_own_errors_and_interrupts_give_nothing_back(
    ending: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(ending)), quiet():
        chatter(ending)
    assert capfd.readouterr() == ("", "")


def test_a_log_handler_that_was_made_in_a_block_works_after_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As transformers makes its own, when it is first imported."""
    log = logging.getLogger("tests.converters.quiet")
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "handlers", [])
    with quiet():
        handler = logging.StreamHandler()
        handler.flush = sys.stderr.flush  # type: ignore[method-assign]
        log.addHandler(handler)
        log.warning("held back")
    log.warning("after the block")
    assert capfd.readouterr().err == "after the block\n"
    with quiet():
        log.warning("held back again")
    assert capfd.readouterr().err == ""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.warning("on another stderr")
    assert stream.getvalue() == "on another stderr\n"


def test_a_stream_that_was_kept_as_stderr_itself_does_not_call_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with quiet():
        kept = sys.stderr
    monkeypatch.setattr(sys, "stderr", kept)
    kept.write("somewhere")
    kept.flush()
