"""What `edge-convert` prints of bundles from anybody is harmless on a terminal."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

import pytest

from converters.cli import main
from converters.package import open_verified
from converters.show import bundle_text, self_tests_text, table
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.profile import load_profile
from tests.fakes.bundles import manifest_json, write_bundle
from tests.fakes.operators import ESCAPES, clean

FORGED = f"{ESCAPES}\n  quality   accuracy 1.0000"
REPORT = SelfTestReport(
    variant="v", passed=False, reason=FORGED, metric="cosine", value=0.5, floor=0.9, cases=1,
    latency_p95_ms=1.0, rss_bytes=1, accelerator=Accelerator("v", FORGED, FORGED, FORGED),
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A valid bundle, every free text of which attacks who reads it."""
    made = manifest_json()
    for variant in made["variants"]:
        variant["precision"] = FORGED
    made["provenance"] |= {"source": FORGED, "licence": FORGED}
    return write_bundle(
        tmp_path, variants=made["variants"], provenance=made["provenance"]
    )[0]  # fmt: skip


def test_inspect_of_a_hostile_bundle_is_harmless_and_forges_no_line(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(hostile)]) == 0
    out = capsys.readouterr().out
    assert clean(out)
    assert "pwned" in out
    assert sum(line.startswith("  quality ") for line in out.splitlines()) <= 1
    assert not any(line.startswith("  quality   accuracy 1.0000") for line in out.splitlines())
    assert main(["inspect", str(hostile), "--json"]) == 0
    out = capsys.readouterr().out
    assert clean(out.replace("\x7f", ""))
    assert json.loads(out)["manifest"]["provenance"]["licence"] == FORGED


def test_a_self_test_s_reason_is_harmless(hostile: Path) -> None:
    shown = self_tests_text(open_verified(hostile), [REPORT])
    assert clean(shown)
    assert len(shown.splitlines()) == len(
        self_tests_text(
            open_verified(hostile),
            [dataclasses.replace(REPORT, reason="x", accelerator=Accelerator("v", "a", "a", ""))],
        ).splitlines()
    )


def test_what_a_self_test_says_fits_a_terminal(hostile: Path) -> None:
    engine = Accelerator("v", "a", "onnxruntime 1.30.1: CPUExecutionProvider")
    report = dataclasses.replace(
        REPORT, variant="ort-cpu-smooth-dynamic-w8-channel", passed=True, reason="",
        latency_p95_ms=12345.6, accelerator=engine,
    )  # fmt: skip
    shown = self_tests_text(open_verified(hostile), [report]).splitlines()
    assert max(map(len, shown)) <= 80
    profile = load_profile("generic-x86_64")
    told = self_tests_text(open_verified(hostile), [report], profile)
    assert ("budget of 250 ms" in told) == (platform.machine() == profile.arch)


def test_columns_are_as_wide_as_what_is_shown() -> None:
    shown = table(("a", "b"), [("x\x1b", "1"), ("long" * 200, "22")])
    assert clean(shown)
    assert len({len(line) for line in shown.splitlines()}) == 1


def test_an_error_that_quotes_a_stranger_is_one_plain_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / f"x{ESCAPES}.edge")]) == 1
    said = capsys.readouterr()
    assert (clean(said.err), said.err.count("\n"), said.out) == (True, 1, "")


def test_a_bundle_is_shown_with_its_sizes(hostile: Path) -> None:
    assert " kB in 5 files, " in bundle_text(open_verified(hostile))
