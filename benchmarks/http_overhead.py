"""What HTTP adds to an inference: the local API against the same bundle in this process.

    python -m benchmarks.http_overhead BUNDLE [--rounds 300] [--json]

Starts a real agent that serves BUNDLE, loads BUNDLE here as well, with the same profile, and asks
both in turn, so that whatever else the machine does hits both alike. The client is Python's own,
on one connection; its time counts.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from pathlib import Path

import edge_runtime
from benchmarks.tables import Row, at_most, median, show
from edge_runtime.inference.tasks.results import Classification
from examples.demo.processes import agent, broker, exchange, text_request

TEXTS = [
    "web server",
    "A fast and small web server with CGI support and a configuration in one file.",
    "Headers and static libraries for development of programs that read TIFF images. " * 3,
]
WARM_UPS = 20


def measure(bundle: Path, rounds: int, profile: str) -> list[Row]:
    """Rows of `rounds` pairs."""
    here_ms: list[float] = []
    there_ms: list[float] = []
    with tempfile.TemporaryDirectory() as name, edge_runtime.load(bundle, profile=profile) as model:
        folder = Path(name)
        path = f"/v2/models/{model.manifest.name}/infer"
        with (
            broker(folder / "broker.log") as url,
            agent(folder / "device", url, bundle, profile=profile) as device,
        ):
            connection = http.client.HTTPConnection("127.0.0.1", device.port, timeout=30)
            for turn in range(WARM_UPS + rounds):
                text = TEXTS[turn % len(TEXTS)]
                request = text_request(text)
                begin = time.perf_counter()
                result = model(text)
                middle = time.perf_counter()
                status, answer = exchange(connection, "POST", path, request)
                end = time.perf_counter()
                if status != 200:
                    raise SystemExit(f"HTTP {status}: {json.dumps(answer)}")
                if isinstance(result, Classification):
                    same = answer["outputs"][0]["data"][0] == result.label
                    if not same:
                        raise SystemExit(f"HTTP answers otherwise than the bundle: {answer}")
                if turn >= WARM_UPS:
                    here_ms.append(1000 * (middle - begin))
                    there_ms.append(1000 * (end - middle))
            connection.close()
    added = [there - here for here, there in zip(here_ms, there_ms, strict=True)]
    return [
        Row("in this process, median", median(here_ms), "ms"),
        Row("over HTTP, median", median(there_ms), "ms"),
        Row("ratio of the medians", median(there_ms) / median(here_ms), "x"),
        at_most("HTTP adds, median of the pairs", median(added), "ms", 1.5),
    ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--profile", default="generic-x86_64")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.bundle, options.rounds, options.profile)
    show("HTTP overhead", rows, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
