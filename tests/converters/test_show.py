"""What `edge-convert` prints of bundles from anybody is harmless on a terminal."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest

from converters.cli import main
from converters.package import open_verified
from converters.proofs import Proof, prove
from converters.show import bundle_text, proofs_text, table
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.profile import load_profile
from tests.fakes.bundles import manifest_json, write_bundle
from tests.fakes.operators import ESCAPES, clean
from tests.fakes.tiny import tiny_folder, variant_json

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


def proof_of(report: SelfTestReport) -> Proof:
    if report.passed:
        return Proof(report.variant, "cpu", "here", report=report)
    return Proof(report.variant, "cpu", "no", report.reason, report)


def test_a_self_test_s_reason_is_harmless(hostile: Path) -> None:
    shown = proofs_text(open_verified(hostile), [proof_of(REPORT), Proof("v", "npu", "no", FORGED)])
    assert clean(shown)
    harmless = dataclasses.replace(REPORT, reason="x", accelerator=Accelerator("v", "a", "a", ""))
    told = proofs_text(open_verified(hostile), [proof_of(harmless), Proof("v", "npu", "no", "x")])
    assert len(shown.splitlines()) == len(told.splitlines())


def test_what_a_self_test_says_fits_a_terminal(hostile: Path) -> None:
    engine = Accelerator("v", "a", "onnxruntime 1.30.1: CPUExecutionProvider")
    report = dataclasses.replace(
        REPORT, variant="ort-cpu-smooth-dynamic-w8-channel", passed=True, reason="",
        latency_p95_ms=12345.6, accelerator=engine,
    )  # fmt: skip
    shown = proofs_text(open_verified(hostile), [proof_of(report)]).splitlines()
    assert max(map(len, shown)) <= 80
    profile = load_profile("generic-x86_64")
    told = proofs_text(open_verified(hostile), [proof_of(report)], profile)
    assert ("budget of 250 ms" in told) == (platform.machine() == profile.arch)


def on(accelerator: str, id: str, file: str, **changed: Any) -> dict[str, Any]:
    share = {"value": 0.5, "evidence": "vendor-compiled", "where": "a tool 1.0"}
    off = [["/mul", "a reason"], ["\u2026", "and 3 more"]]
    placement = {"accelerator": accelerator, "share": share, "off": off}
    return variant_json(id, file, placement=placement) | changed


@pytest.fixture
def accelerated(tmp_path: Path) -> Path:
    """A bundle for three accelerators and the CPU; one file is compiled, one is foreign."""
    variants = [
        on("hexagon", "npu", "model.onnx"),
        on("rknpu", "chip", "model.rknn", backend="rknn", signatures=[], providers=[]),
        on("ethos-u65", "foreign", "foreign.tflite"),
        variant_json("cpu", "model.onnx"),
    ]
    files = {"model.rknn": b"RKNN" + bytes(60), "foreign.tflite": b"MZ" + bytes(60)}
    return tiny_folder(tmp_path, variants, files)


def test_what_only_the_board_can_prove_is_not_said_to_have_passed(
    accelerated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(accelerated)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1] for line in lines if re.match("  [a-z]", line)}
    assert rows == {"variant": "cosine", "npu": "numbers", "chip": "not", "foreign": "not",
                    "cpu": "passed"}  # fmt: skip
    said = [line.strip() for line in lines]
    assert "numbers passed on this CPU; on hexagon only the board can prove it" in said
    assert "not provable here: compiled for rknpu" in said
    assert any(
        line.startswith("not provable here: variant foreign") and "TFL3 is missing" in line
        for line in said
    )
    assert main(["verify", str(accelerated), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True
    proved = {one["variant"]: (one["proved"], one["passed"]) for one in told["variants"]}
    assert proved == {"npu": ("numbers", True), "chip": ("no", None), "foreign": ("no", None),
                      "cpu": ("here", True)}  # fmt: skip
    assert "compiled for rknpu" in told["variants"][1]["why"]


def test_a_variant_for_an_accelerator_whose_numbers_are_wrong_fails(tmp_path: Path) -> None:
    wrong = on("hexagon", "npu", "model-int8.onnx", tolerance={"metric": "cosine", "floor": 1.0})
    (proof,) = prove(open_verified(tiny_folder(tmp_path, [wrong])))
    assert (proof.failed, proof.proved) == (True, "no")
    assert "at least 1 is needed" in proof.why


def test_inspect_shows_where_each_variant_runs(
    accelerated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(accelerated)]) == 0
    out = capsys.readouterr().out
    assert (
        "      on hexagon: 50 % of its operators, vendor-compiled (a tool 1.0), 4 left to the CPU\n"
        in out
    )
    assert "      on cpu: 100 % of its operators, " in out
    assert main(["inspect", str(accelerated), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["placements"][0]
    assert first == {"variant": "npu", "accelerator": "hexagon", "share": 0.5,
                     "evidence": "vendor-compiled", "tool": "a tool 1.0", "off": 4}  # fmt: skip


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
