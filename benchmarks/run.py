"""Every benchmark, one after the other, on the bundles of the example: `make bench`.

    python -m benchmarks.run [--quick] [--only NAME] [--json]

Converts both versions of the example first (from the cache, where that was done before). Prints
the tables and writes them to `build/bench/results.json`. A figure that misses its goal is told,
and is no failure: exit code 0.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks import (
    agent_footprint,
    conversion,
    http_overhead,
    inference_overhead,
    update_under_load,
)
from benchmarks.tables import Row, show
from converters.pipeline import Conversion
from converters.progress import Terminal

PROFILE = "generic-x86_64"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure against the numbers to reach. Pass options as BENCH_ARGS.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows and repetitions")
    parser.add_argument(
        "--only", choices=sorted(BENCHMARKS), action="append", help="this one; repeatable"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    progress = Terminal()
    old, new = (
        conversion.converted(recipe, PROFILE, options.out / version, progress, quick=options.quick)
        for recipe, version in (("recipe.toml", "v1"), ("recipe-v2.toml", "v2"))
    )
    results: dict[str, list[Row]] = {}
    for name, measure in BENCHMARKS.items():
        if options.only and name not in options.only:
            continue
        progress.say(f"benchmark: {name}")
        results[name] = measure(old, new, options.quick)
        if not options.json:
            show(name, results[name], as_json=False)
    written = {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "quick": options.quick,
        "results": {name: [asdict(row) for row in rows] for name, rows in results.items()},
    }
    text = json.dumps(written, indent=1) + "\n"
    (options.out / "results.json").write_text(text)
    if options.json:
        sys.stdout.write(text)
    return 0


def _bundle(done: Conversion) -> Path:
    assert done.model.bundle is not None
    return done.model.bundle


def _conversion(old: Conversion, _: Conversion, quick: bool) -> list[Row]:
    return conversion.measure(old, 20 if quick else 100, Terminal())


def _inference(old: Conversion, _: Conversion, quick: bool) -> list[Row]:
    return inference_overhead.measure(_bundle(old), 50 if quick else 200)


def _http(old: Conversion, _: Conversion, quick: bool) -> list[Row]:
    return http_overhead.measure(_bundle(old), 100 if quick else 300, PROFILE)


def _footprint(old: Conversion, _: Conversion, quick: bool) -> list[Row]:
    seconds = 10.0 if quick else 30.0
    return agent_footprint.measure(_bundle(old), old.recipe.name, seconds, PROFILE)


def _updates(old: Conversion, new: Conversion, quick: bool) -> list[Row]:
    return update_under_load.measure(_bundle(old), _bundle(new), 4 if quick else 20, PROFILE)


BENCHMARKS: Mapping[str, Callable[[Conversion, Conversion, bool], list[Row]]] = {
    "conversion": _conversion,
    "inference-overhead": _inference,
    "http-overhead": _http,
    "agent-footprint": _footprint,
    "update-under-load": _updates,
}


if __name__ == "__main__":
    raise SystemExit(main())
