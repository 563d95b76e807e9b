"""Run a command that may not outlive us: whatever ends us, it and all that it started ends too.

A guard stands between: it reads a pipe whose other end is ours alone, and once that is closed, be
it by SIGKILL, it ends its session. Meanwhile it holds a descriptor of ours, so that a lock that we
took is free only when nothing of the command is left.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import IO

END_S = 10.0
GUARD = """
import os, signal, subprocess, sys, threading

def watch():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
os._exit(code if code >= 0 else 128 - code)
"""


def run(command: Sequence[str], log: IO[bytes], limit_s: float, *, held: int) -> int:
    """The exit code of `command`, whose both outputs go to `log`; 128 + n where signal n ended it.

    Args:
        held: a descriptor that is ours until the command and its children have ended.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit_s`, and was ended.
    """
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GUARD, *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=(held,),
        start_new_session=True,  # so that its group is the command's, and a Ctrl-C is ours
    )
    assert guard.stdin is not None
    try:
        return guard.wait(limit_s)
    finally:
        guard.stdin.close()
        guard.wait(END_S)
