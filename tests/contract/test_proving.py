"""Variants are proved in a process of their own, on a real delegate that may do anything."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent import proving
from edge_runtime.agent.opening import own_cores, pin
from edge_runtime.agent.worker import Loaded, load
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.errors import UntrustedError
from edge_runtime.messages.worker import SelfTestReport, Tried
from edge_runtime.profile import Engine
from tests.fakes import delegates, stored
from tests.fakes.tiny import TEXTS, tiny_folder, variant_json

pytest.importorskip("ai_edge_litert", reason='pip install "edge-runtime[litert]"')


def found(
    tmp_path: Path,
    flavour: str,
    *,
    variants: list[dict[str, Any]] | None = None,
    replace: dict[str, bytes] | None = None,
    tried: list[Tried] | None = None,
    limit_s: float = 60.0,
    **board: Any,
) -> Loaded:
    """What a worker loads on a board whose delegate is of that flavour."""
    folder = tiny_folder(
        tmp_path / "bundle",
        variants or [delegates.accelerated(), delegates.on_cpu()],
        replace or {},
    )
    digest = stored.store(FolderReader(folder), tmp_path / "state")
    profile = delegates.board(tmp_path, {"flavour": flavour}, **board)
    order = stored.order(tmp_path / "state", digest, profile, prove_timeout_s=limit_s)
    loaded = load(order, (tried if tried is not None else []).append)
    if loaded.pipeline is not None:
        loaded.pipeline([TEXTS[0]])
        loaded.pipeline.close()
    return loaded


def served(loaded: Loaded) -> str:
    return loaded.pipeline.variant.id if loaded.pipeline is not None else ""


def test_a_delegate_that_is_right_is_proved_with_the_share_that_it_really_took(
    tmp_path: Path,
) -> None:
    tried: list[Tried] = []
    loaded = found(tmp_path, "correct", tried=tried)
    assert served(loaded) == "npu"
    assert loaded.accelerated
    assert loaded.fitting == ("npu", "cpu")
    (report,) = loaded.reports
    assert report.passed, report.reason
    assert report.fault == ""
    assert report.share == pytest.approx(delegates.SHARE)
    assert report.share_floor == pytest.approx(delegates.SHARE - 0.05)
    assert "RESHAPE x" in " ".join(report.off)
    assert not any(kind.startswith(("ADD", "MUL", "SUB", "FULLY_CONNECTED")) for kind in report.off)
    assert report.cases == len(TEXTS)
    assert report.value > 0.9999
    assert report.growth_bytes == 0
    assert str(delegates.library()) in report.accelerator.actual
    assert [(t.report.variant, t.report.passed, t.left) for t in tried] == [("npu", True, ("cpu",))]


@pytest.mark.parametrize(
    ("flavour", "fault", "sentence"),
    [
        ("wrong", "numbers", "golden case [0-9]: cosine .* at least 0.9999 is needed"),
        ("crash", "crash", "the delegate crashed: SIGSEGV in its first inference"),
        ("crash-load", "crash", "the delegate crashed: SIGSEGV while loading"),
        ("abort", "crash", "the delegate crashed: SIGABRT while loading"),
        ("refuse", "placement", "did not start .*; the CPU runs instead"),
        (
            "half",
            "placement",
            r"16 of 80 operators ran on the accelerator \(20%\), at least 34% is needed",
        ),
        ("none", "placement", r"placement: 0 of 80 operators ran on the accelerator \(0%\)"),
        ("leak", "leak", "leak: every inference keeps [0-9]{6,7} bytes or more"),
    ],
)
def test_a_delegate_with_a_fault_is_passed_over_and_told(
    tmp_path: Path, flavour: str, fault: str, sentence: str
) -> None:
    loaded = found(tmp_path, flavour)
    assert served(loaded) == "cpu"
    assert not loaded.accelerated
    refused, passed = loaded.reports
    assert (refused.variant, refused.passed, refused.fault) == ("npu", False, fault)
    assert_says(refused, sentence)
    assert (passed.variant, passed.passed) == ("cpu", True)


def assert_says(report: SelfTestReport, sentence: str) -> None:
    assert re.search(sentence, report.reason), report.reason


def test_a_delegate_that_hangs_is_ended_within_the_limit_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    before = children()
    loaded = found(tmp_path, "hang", limit_s=3.0)
    assert served(loaded) == "cpu"
    hung = loaded.reports[0]
    assert hung.fault == "hang"
    assert hung.reason == "the delegate hung: no end within 3 s, in its first inference"
    assert 3.0 <= hung.took_s < 8.0
    assert children() == before


def test_a_delegate_that_takes_all_memory_is_ended_before_it_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The budget is held against this process, too, which has run many tests.
    monkeypatch.setattr(proving, "PEAK", 1)
    loaded = found(tmp_path, "grab", ram_bytes=1 << 30)
    assert served(loaded) == "cpu", loaded.reports
    report = loaded.reports[0]
    assert report.fault == "memory"
    assert "memory: the process held" in report.reason
    assert f"at most {1 << 30} are allowed" in report.reason


def test_a_delegate_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    loaded = found(tmp_path, "correct", path=tmp_path / "libnpu.so")
    assert served(loaded) == "cpu"
    assert loaded.reports[0].fault == "placement"
    assert "libnpu.so did not start" in loaded.reports[0].reason


def test_where_the_board_takes_fewer_operators_than_the_evidence_promised_it_is_passed_over(
    tmp_path: Path,
) -> None:
    promised = delegates.accelerated()
    promised["placement"]["share"]["value"] = 0.9
    loaded = found(tmp_path, "correct", variants=[promised, delegates.on_cpu()], coverage=0.0)
    assert served(loaded) == "cpu"
    assert "31 of 80 operators ran on the accelerator (39%), at least 85% is needed" in (
        loaded.reports[0].reason
    )


def test_where_nobody_promises_a_share_all_operators_must_run_there(tmp_path: Path) -> None:
    unknown = delegates.accelerated()
    unknown["placement"]["share"] = {"value": None, "evidence": "unknown", "where": ""}
    loaded = found(tmp_path, "correct", variants=[unknown, delegates.on_cpu()], coverage=0.0)
    assert served(loaded) == "cpu"
    assert loaded.reports[0].share_floor == 1.0


def test_a_bundle_that_lies_ends_the_choice(tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match="safetensors"):
        found(tmp_path, "correct", replace={"golden.safetensors": b"evil"})


def children() -> list[str]:
    pid = os.getpid()
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_what_a_proof_wrote_goes_with_it_however_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delegates.library()  # Compiled elsewhere.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert served(found(tmp_path, "crash")) == "cpu"
    assert list(scratch.iterdir()) == []


def test_only_the_variants_of_the_order_are_tried(tmp_path: Path) -> None:
    folder = tiny_folder(
        tmp_path / "bundle",
        [delegates.accelerated(), variant_json("other", "model.tflite"), delegates.on_cpu()],
    )
    digest = stored.store(FolderReader(folder), tmp_path / "state")
    profile = delegates.board(tmp_path, {"flavour": "crash"})
    order = stored.order(tmp_path / "state", digest, profile)
    loaded = load(dataclasses.replace(order, variants=("npu", "cpu")))
    assert [report.variant for report in loaded.reports] == ["npu", "cpu"]
    assert loaded.fitting == ("npu", "other", "cpu")
    assert loaded.pipeline is not None
    loaded.pipeline.close()


def test_an_order_survives_its_way_to_another_process(tmp_path: Path) -> None:
    order = dataclasses.replace(stored.order(tmp_path, "ab" * 32, "p"), variants=("a", "b"))
    assert type(order).from_argument(order.to_argument()) == order
    assert json.loads(order.to_argument())["variants"] == ["a", "b"]


def test_the_cores_of_an_engine_are_kept_and_given_back() -> None:
    cores = own_cores()
    if len(cores) < 2:
        pytest.skip("one core is no choice")
    one = Engine("litert", "", (), 1, {}, affinity=(min(cores), 1000))
    try:
        pin(one, cores)
        assert own_cores() == {min(cores)}
        pin(dataclasses.replace(one, affinity=(1000,)), cores)
        assert own_cores() == cores
        pin(one, cores)
        pin(None, cores)
        assert own_cores() == cores
    finally:
        os.sched_setaffinity(0, cores)
