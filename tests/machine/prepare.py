"""Make what machines of a suite start from, so that no test waits for it.

Run as `python -m tests.machine.prepare deb12 deb13`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tests.machine import host
from tests.machine.package import FIRST, SECOND, package
from tests.machine.tree import SUITES, tree


def main(argv: Sequence[str]) -> int:
    """A tree and both packages of each suite. Where machines cannot be, there is nothing to do."""
    reason = host.missing()
    if reason:
        print(f"prepare: nothing, {reason}", file=sys.stderr)
        return 0
    for name in argv or ("deb12",):
        if name not in SUITES:
            print(f"prepare: suite {name!r} is unknown, there are {', '.join(SUITES)}",
                  file=sys.stderr)  # fmt: skip
            return 2
        begin_s = time.monotonic()
        try:
            made = tree(name)
            for version in (FIRST, SECOND):
                package(name, version)
        except RuntimeError as reason_:
            print(f"prepare: {reason_}", file=sys.stderr)
            return 1
        print(f"prepare: {name}: {made}, {time.monotonic() - begin_s:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
