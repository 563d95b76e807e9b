"""Updates while clients keep asking: bytes on the wire, seconds, failed requests.

    python -m benchmarks.update_under_load OLD NEW [--swaps 20] [--json]

Starts an embedded broker and a real agent that serves OLD; two clients ask without a pause, one on
a connection that it keeps, one on a new connection for every request. Then NEW and OLD are deployed
in turn. The first deployment of NEW is the head-only update whose bytes are reported.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import Row, at_most, median, show
from examples.demo.processes import DEVICE, Asker, agent, broker, run

FLEET = "edge-fleet"
TEXTS = [
    "A fast and small web server with CGI support.",
    "Puzzle game in which blocks fall from the sky.",
    "Headers and static libraries for development of programs that read TIFF images.",
]


def measure(old: Path, new: Path, swaps: int, profile: str) -> list[Row]:
    """Rows of `swaps` deployments in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            broker(folder / "broker.log") as url,
            agent(folder / "device", url, old, profile=profile) as device,
        ):
            releases = [run(FLEET, "publish", str(path), "--broker", url) for path in (new, old)]
            askers = [
                Asker(device.port, releases[0]["name"], TEXTS, pause_s=0.0, reuse=reuse)
                for reuse in (True, False)
            ]
            for asker in askers:
                asker.start()
            seconds, fetched = [], []
            for turn in range(swaps):
                release = releases[turn % 2]
                target = f"{release['name']}=={release['version']}"
                words = ("deploy", target, "--device", DEVICE, "--broker", url, "--wait", "120")
                begin = time.monotonic()
                (reported,) = run(FLEET, *words)["devices"]
                seconds.append(time.monotonic() - begin)
                fetched.append(int(reported["fetched_bytes"]))
            for asker in askers:
                asker.finish()
            sent = sum(asker.sent for asker in askers)
            failures = [failure for asker in askers for failure in asker.failures]
            for failure in failures[:10]:
                print(failure, file=sys.stderr)
            size = releases[0]["size_bytes"]
            latencies = [ms for asker in askers for ms in asker.latencies_ms]
            return [
                Row("bundle size", size / 1e6, "MB"),
                Row("head-only update, chunks fetched", fetched[0] / 1e6, "MB"),
                at_most("head-only update, of the bundle", 100 * fetched[0] / size, "%", 10),
                Row("desired to serving, median", median(seconds), "s"),
                Row("desired to serving, worst", max(seconds), "s"),
                Row("swaps", swaps, ""),
                Row("requests during the swaps", sent, ""),
                at_most("failed requests", len(failures), "", 0),
                Row("request latency during the swaps, median", median(latencies), "ms"),
            ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--profile", default="generic-x86_64")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.old, options.new, options.swaps, options.profile)
    show("updates under load", rows, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
