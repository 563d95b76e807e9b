"""A tool's process, seen from the measuring side: build once, then serve requests in turn.

Whatever goes wrong in there (it does not start, says something else, crashes, hangs) is a
PeerError with a sentence; nothing of it reaches the other tools.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.compression.environments import ROOT, TAIL, PeerError, settings

CHILD = "benchmarks.compression.peer"
BUILD_LIMIT_S = 1200.0
REPLY_LIMIT_S = 900.0
END_LIMIT_S = 10.0


def command(python: Path, verb: str, module: str, variant: str, *paths: Path) -> list[str]:
    """The command line of the child's side."""
    return [str(python), "-m", CHILD, verb, module, variant, *map(str, paths)]


class PeerProcess:
    """A process that answers one line of JSON with one; its talk goes to the file `log`."""

    def __init__(self, words: Sequence[str], log: Path, limit_s: float = REPLY_LIMIT_S) -> None:
        """Start it.

        Raises:
            PeerError: the interpreter is missing.
        """
        self._log = log
        self._limit_s = limit_s
        self._unread = b""
        with log.open("wb") as talk:
            try:
                self._process = subprocess.Popen(
                    list(words),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=talk,
                    cwd=ROOT,
                    env=settings(),
                )
            except OSError as reason:
                raise PeerError(f"cannot be started ({reason})") from None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its reply.

        Raises:
            PeerError: as for `reply`.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # the pipe is broken, or closed by us
            raise PeerError(self._ended()) from None
        return self.reply()

    def reply(self) -> dict[str, Any]:
        """The next line.

        Raises:
            PeerError: it tells an error, is no JSON, or does not come in time.
        """
        line = self._line()
        try:
            found = json.loads(line)
        except ValueError:
            raise PeerError(f"said {line[:TAIL]!r}, which is no JSON") from None
        if not isinstance(found, dict):
            raise PeerError(f"said {line[:TAIL]!r}, expected an object")
        if "error" in found:
            raise PeerError(str(found["error"]))
        return found

    def _line(self) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        until = time.monotonic() + self._limit_s
        while b"\n" not in self._unread:
            left = until - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                self._process.kill()
                self.close()
                raise PeerError(f"no reply within {self._limit_s:g} s")
            piece = stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not piece:
                raise PeerError(self._ended())
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ended(self) -> str:
        """Why there is nobody to talk to."""
        self.close()
        said = " ".join(self._log.read_text(errors="replace").split())
        return f"ended with code {self._process.returncode} ({said[-TAIL:] or 'said nothing'})"

    def close(self) -> None:
        """End the process: by the end of its stdin, else by force. A second call does nothing."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already
            self._process.stdin.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
