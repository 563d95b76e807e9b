"""`edge-fleet`: publish bundles, say what each device should run, see what the devices say.

Results go to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not to be trusted.
What came from the broker passes `text.plain` before a person sees it; JSON escapes it. The command
line is in `options`, what it does in `verbs`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

USAGE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    # Ours are imported here: Ctrl-C during imports, which take a while, ends as it does later.
    from edge_runtime.errors import EdgeError, exit_code
    from edge_runtime.fleet.options import parser

    _never_fail_to_print()
    arguments = parser().parse_args(argv)
    try:
        from edge_runtime.fleet import verbs
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] != "rich":
            raise
        return _failed("needs the package rich; install edge-runtime[fleet]", 1)
    try:
        return verbs.run(arguments)
    except verbs.UsageError as error:
        return _failed(str(error), USAGE)
    except EdgeError as error:
        return _failed(str(error), exit_code(error))
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _failed(why: str, code: int) -> int:
    from edge_runtime.fleet.options import PROG
    from edge_runtime.text import MAX_ERROR, plain

    print(f"{PROG}: {plain(why, MAX_ERROR)}", file=sys.stderr)
    return code


def _never_fail_to_print() -> None:
    """A terminal without Unicode shows escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def entry() -> None:
    """Console command."""
    try:
        code = main()
    except KeyboardInterrupt:  # Between two statements of ours.
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    entry()
