"""`python -m edge_runtime.agent.upgrade`: the helper, as `edge-agent-upgrade.service` starts it.

Root's, from the package's own tree, never from one that came by an update: what is updated does not
decide about its own update.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.agent import logs
from edge_runtime.agent.upgrade.helper import Bounds, Helper
from edge_runtime.agent.upgrade.places import Places
from edge_runtime.agent.upgrade.service import Systemd
from edge_runtime.errors import DeviceError, EdgeError, exit_code
from edge_runtime.text import MAX_ERROR, plain

PROG = "python -m edge_runtime.agent.upgrade"
EPILOG = """\
examples:
  systemctl start edge-agent-upgrade.service
      take up what the agent asks, watch a trial that is open, and end; systemd starts it by itself
  python3 -m edge_runtime.agent.upgrade --json
      the same in the foreground, and then where the agent's update stands

exit codes: 0 nothing is left to do, 1 the disk stands in the way
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=PROG,
        description="The root's half of the agent's own update: verify what the agent has fetched, "
        "unpack it, start it, and go back where it is not healthy in time.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    b = Bounds()
    made.add_argument("--prefix", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    made.add_argument("--systemctl", default="systemctl", help=argparse.SUPPRESS)
    made.add_argument(
        "--trial",
        type=float,
        default=b.trial_s,
        metavar="SECONDS",
        help=f"a new agent must be healthy within so long (default: {b.trial_s:g})",
    )
    made.add_argument(
        "--crashes",
        type=int,
        default=b.max_crashes,
        metavar="N",
        help=f"a new agent that ends by itself so often is no good (default: {b.max_crashes})",
    )
    made.add_argument("--look", type=float, default=b.look_s, help=argparse.SUPPRESS)
    made.add_argument("--json", action="store_true", help="the journal on stdout, at the end")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """One run of the helper."""
    a = parser().parse_args(argv)
    logs.configure("info", process="upgrade")
    os.umask(0o022)
    places = Places.under(Path(os.path.abspath(a.prefix)))
    bounds = Bounds(trial_s=a.trial, max_crashes=a.crashes, look_s=a.look)
    try:
        helper = Helper(places, Systemd(a.systemctl), bounds)
        with _alone(places):
            helper.run()
    except EdgeError as error:
        print(f"{PROG}: {plain(str(error), MAX_ERROR)}", file=sys.stderr)
        return exit_code(error)
    if a.json:
        from edge_runtime.agent.upgrade.record import to_bytes

        sys.stdout.buffer.write(to_bytes(helper.record))
    return 0


class _alone:
    """Two helpers would undo each other's work. Raises DeviceError: another one runs."""

    def __init__(self, places: Places) -> None:
        self._path = places.releases / ".lock"

    def __enter__(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeviceError(f"{self._path}: another helper runs") from None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


if __name__ == "__main__":
    sys.exit(main())
