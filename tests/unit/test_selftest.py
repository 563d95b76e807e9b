from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from edge_runtime.errors import UntrustedError
from edge_runtime.inference.backend import BACKENDS, share_floor
from edge_runtime.inference.golden import cosine, load_golden
from edge_runtime.inference.memory import growth_bytes, rss_bytes
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import CONFIRMED, confirm, first_passing, self_test
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.profile import Budget, Engine
from tests.fakes.engine import BACKEND, FakeBackend, fake_bundle, fake_golden, fake_variant
from tests.fakes.tiny import TEXTS, tiny_bundle, variant_json


@pytest.fixture(autouse=True)
def _fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "fake", BACKEND)
    monkeypatch.setattr(FakeBackend, "sessions", [])


def prove(folder: Path, budget: Budget | None = None, **options: Any) -> SelfTestReport:
    bundle = fake_bundle(folder, [fake_variant(**options)])
    return self_test(bundle, Pipeline.open(bundle, bundle.manifest.variants[0]), budget)


def test_a_right_engine_passes_and_is_measured(tmp_path: Path) -> None:
    report = prove(tmp_path, Budget(latency_ms=1000, ram_bytes=1 << 34), lengths=[16, 64, 128])
    assert report.passed
    assert report.reason == ""
    assert report.metric == "cosine"
    assert report.value == pytest.approx(1)
    assert report.cases == len(TEXTS)
    assert report.latency_p95_ms > 0
    assert report.rss_bytes > 1 << 20
    assert report.accelerator.actual == "fake: chip"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("leaks", r"leak: every inference keeps 1[0-9]{5} bytes or more"),
        ("nan", "golden case 0: logits holds NaN or infinity"),
        ("shape", r"golden case 0: logits has the shape \[1, 3\], expected \[1, 4\]"),
        ("sign", "cosine -1.0000 to the float reference, at least 0.97 is needed"),
        ("size", "golden case 0: logits has the norm .*, expected about"),
        ("fails", "the fake engine failed"),
        ("degraded", "the chip is gone; the CPU runs instead"),
    ],
)
def test_a_wrong_engine_is_refused_with_the_reason(tmp_path: Path, fault: str, reason: str) -> None:
    report = prove(tmp_path, fault=fault)
    assert not report.passed
    assert re.search(reason, report.reason)


def test_an_engine_over_the_latency_budget_is_refused(tmp_path: Path) -> None:
    report = prove(tmp_path, Budget(latency_ms=5, ram_bytes=0), fault="slow")
    assert not report.passed
    assert report.latency_p95_ms >= 20
    assert "ms, the budget allows 5 ms" in report.reason


def test_a_process_over_the_memory_budget_is_refused(tmp_path: Path) -> None:
    report = prove(tmp_path, Budget(latency_ms=0, ram_bytes=1 << 20))
    assert not report.passed
    assert report.reason.endswith("the budget allows 1048576")


def test_without_a_budget_latency_and_memory_are_only_measured(tmp_path: Path) -> None:
    report = prove(tmp_path, fault="slow")
    assert report.passed
    assert report.latency_p95_ms >= 20


def test_a_tokenizer_that_gives_other_ids_is_refused(tmp_path: Path) -> None:
    raw = ["server mail", *TEXTS[1:]]
    golden = {"file": "golden.safetensors", "cases": len(raw), "raw": raw}
    bundle = fake_bundle(tmp_path, golden=golden)
    report = self_test(bundle, Pipeline.open(bundle, bundle.manifest.variants[0]))
    assert not report.passed
    assert report.reason.startswith("golden case 0: the tokenizer gives 4 tokens [2, ")


def test_golden_vectors_without_texts_are_enough(tmp_path: Path) -> None:
    golden = {"file": "golden.safetensors", "cases": 3, "raw": []}
    bundle = fake_bundle(tmp_path, golden=golden)
    report = self_test(bundle, Pipeline.open(bundle, bundle.manifest.variants[0]))
    assert report.passed
    assert report.cases == 3


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "is not a safetensors file"),
        (b"\xff" * 64, "is not a safetensors file"),
        (save({k: v for k, v in fake_golden().items() if k != "3.logits"}), "tensor 3.logits is"),
        (save(fake_golden() | {"1.logits": np.full((1, 4), np.nan, np.float32)}), "holds NaN"),
    ],
    ids=["empty", "noise", "a tensor missing", "a reference that is not finite"],
)
def test_golden_vectors_that_cannot_be_read_are_not_believed(
    tmp_path: Path, file: bytes, message: str
) -> None:
    replace = {"fake.bin": b"fake", "golden.safetensors": file}
    bundle = tiny_bundle(tmp_path, [fake_variant()], replace)
    with pytest.raises(UntrustedError, match=message):
        load_golden(bundle)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2], [2, 4], 1),
        ([1, 0], [0, 1], 0),
        ([1, 1], [-1, -1], -1),
        ([0, 0], [0, 0], 1),
        ([0, 0], [1, 0], 0),
        ([3e38, 3e38], [1e-38, 1e-38], 1),
    ],
)
def test_cosine_of_any_two_vectors(a: list[float], b: list[float], expected: float) -> None:
    found = cosine(np.array([a], np.float32), np.array([b], np.float32))
    assert found == pytest.approx(expected)


def test_the_first_variant_that_passes_is_taken_and_the_failed_are_closed(tmp_path: Path) -> None:
    bundle = fake_bundle(
        tmp_path,
        [
            fake_variant("absent", fault="absent"),
            variant_json("unknown", "fake.bin", backend="abacus"),
            fake_variant("wrong", fault="sign"),
            fake_variant("right"),
            fake_variant("never-tried"),
        ],
    )
    pipeline, reports = first_passing(bundle, bundle.manifest.variants, lambda _: None)
    assert pipeline is not None
    assert pipeline.variant.id == "right"
    assert [(report.variant, report.passed) for report in reports] == [
        ("absent", False),
        ("unknown", False),
        ("wrong", False),
        ("right", True),
    ]
    assert reports[0].reason == "variant absent: no fake engine here"
    assert reports[0].accelerator.actual == "none"
    assert "known are onnxruntime, litert" in reports[1].reason
    assert [session.closed for session in FakeBackend.sessions] == [1, 0]


def test_where_none_passes_there_are_reasons_for_each(tmp_path: Path) -> None:
    bundle = fake_bundle(
        tmp_path, [fake_variant("a", fault="nan"), fake_variant("b", fault="absent")]
    )
    pipeline, reports = first_passing(bundle, bundle.manifest.variants, lambda _: None)
    assert pipeline is None
    assert all(report.reason and not report.passed for report in reports)


def test_a_bundle_that_lies_is_not_passed_over_but_refused(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path, [fake_variant("a"), fake_variant("b")])
    (tmp_path / "fake.bin").write_bytes(b"evil")
    with pytest.raises(UntrustedError):
        first_passing(bundle, bundle.manifest.variants, lambda _: None)


def test_growth_that_happens_once_is_no_leak() -> None:
    kept: list[Any] = []

    def work() -> None:
        if not kept:
            kept.append(np.ones(1 << 20))

    assert growth_bytes(work, 40, 1.0) == 0


def test_what_serves_is_confirmed_cheaply_after_its_proof(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path)
    variant = bundle.manifest.variants[0]
    proved = dataclasses.replace(prove(tmp_path / "there"), latency_p95_ms=7.0, rss_bytes=1)
    pipeline, report = confirm(bundle, variant, None, None, proved)
    assert pipeline is not None
    assert report.passed
    assert (report.latency_p95_ms, report.cases) == (7.0, proved.cases)
    assert report.rss_bytes > 1 << 20
    assert len(FakeBackend.sessions[-1].shapes) <= CONFIRMED


@pytest.mark.parametrize(
    ("fault", "kind"), [("sign", "numbers"), ("fails", "engine"), ("degraded", "placement")]
)
def test_what_is_wrong_in_the_process_that_would_serve_is_refused_there(
    tmp_path: Path, fault: str, kind: str
) -> None:
    proved = prove(tmp_path / "there")
    bundle = fake_bundle(tmp_path, [fake_variant(fault=fault)])
    pipeline, report = confirm(bundle, bundle.manifest.variants[0], None, None, proved)
    assert pipeline is None
    assert not report.passed
    assert report.fault == kind
    assert FakeBackend.sessions[-1].closed == 1


@pytest.mark.parametrize(
    ("share", "coverage", "floor"),
    [(None, 0.0, 1.0), (None, 0.9, 0.9), (1.0, 0.0, 0.95), (0.5, 0.9, 0.45), (0.02, 0.0, 0.0)],
)
def test_the_floor_of_placement_is_what_the_evidence_promises_else_the_profiles(
    tmp_path: Path, share: float | None, coverage: float, floor: float
) -> None:
    placement = {"accelerator": "npu", "share": {"value": share, "evidence": "unknown"}, "off": []}
    bundle = fake_bundle(tmp_path, [fake_variant() | {"placement": placement}])
    variant = bundle.manifest.variants[0]
    engine = Engine("fake", "", (), 1, {}, accelerator="npu", coverage=coverage)
    assert share_floor(variant, engine) == pytest.approx(floor)


def test_the_resident_set_is_known_on_linux() -> None:
    assert rss_bytes() > 1 << 20
