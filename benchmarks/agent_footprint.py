"""What the agent costs while it waits: memory of both processes, CPU of a core when idle.

    python -m benchmarks.agent_footprint BUNDLE [--seconds 30] [--json]

Starts an embedded broker and a real agent that serves BUNDLE, lets it settle, then reads /proc at
the beginning and the end of a quiet stretch in which only heartbeats and telemetry happen.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import Row, at_most, show
from examples.demo.processes import agent, broker, call, text_request

MIB = 1 << 20


def rss_bytes(pid: int) -> int:
    """Resident set of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """User and system seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(bundle: Path, model: str, seconds: float, profile: str) -> list[Row]:
    """Rows of one quiet stretch of `seconds`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            broker(folder / "broker.log") as url,
            agent(folder / "device", url, bundle, profile=profile) as device,
        ):
            for _ in range(20):
                call(device.port, "POST", f"/v2/models/{model}/infer", text_request("a web server"))
            time.sleep(5)
            (worker,) = device.workers()
            before, begin = cpu_s(device.pid) + cpu_s(worker), time.monotonic()
            time.sleep(seconds)
            used = cpu_s(device.pid) + cpu_s(worker) - before
            share = 100 * used / (time.monotonic() - begin)
            return [
                at_most("supervisor RSS", rss_bytes(device.pid) / MIB, "MiB", 45),
                Row("worker RSS", rss_bytes(worker) / MIB, "MiB"),
                at_most("idle CPU, supervisor and worker", share, "% of a core", 1.0),
            ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--model", default="debian-sections", help="the bundle's name")
    parser.add_argument("--profile", default="generic-x86_64")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.bundle, options.model, options.seconds, options.profile)
    show("agent footprint", rows, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
