"""The self-test: is this variant right, on this engine, in this process, within its budget?

One function for the host that makes a bundle and the device that is about to serve it. It tries,
in this order, and stops at the first that fails:

1. accelerator: what was asked for is what runs;
2. steps: the raw golden inputs give the golden tensors, and no more tokens than a text may have;
3. placement: by the engine's own account of a run, enough operators ran on the accelerator;
4. numbers: every golden case is finite, of the right shape, and at or above the tolerance's floor;
5. latency: the 95th percentile of whole answers is within the budget;
6. leak: answering the same again and again, the process does not keep more and more memory;
7. memory: the resident set of this process is within the budget.

An engine that crashes or hangs takes the process along: a device runs this in one made for it, see
`agent.proving`. The process that serves then needs only `confirm`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.bundle.manifest import Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import EdgeError, UntrustedError
from edge_runtime.inference.backend import Account, share_floor
from edge_runtime.inference.golden import Case, load_golden, mismatch, size_differs, worst
from edge_runtime.inference.memory import growth_bytes, rss_bytes, trim
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.profile import Budget, Engine

WARM_UPS = 2
RUNS = 100
MIN_RUNS = 5
MAX_STEP_GAP = 0.02
"""Mean difference of what the steps make from the host's, in standard deviations."""
MAX_REASON = 2000
TIMING_S = 1.5
"""Timing ends after RUNS answers, or after this long once there are MIN_RUNS."""
LEAK_RUNS = 100
LEAK_S = 1.0
LEAK_ROUNDS = 3
"""A leak is still there when it is looked for again; an engine that fills its caches is done."""
CONFIRMED = 4
"""Golden cases that are answered once more in the process that will serve."""


def _quiet(_stage: str) -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class _Found:
    """What the checks have measured so far; the report is made of it, however they end."""

    value: float = 0.0
    cases: int = 0
    latency_p95_ms: float = 0.0
    rss_bytes: int = field(default_factory=rss_bytes)
    account: Account | None = None
    growth_bytes: int = 0


def self_test(
    bundle: VerifiedBundle,
    pipeline: Pipeline,
    budget: Budget | None = None,
    engine: Engine | None = None,
    at: Callable[[str], None] = _quiet,
) -> SelfTestReport:
    """Prove `pipeline` on the golden vectors of `bundle`; without a budget, 5 and 7 only measure.

    Args:
        engine: what the profile says of it, for the floor of 3.
        at: is told what is done next.

    Raises:
        UntrustedError: the golden vectors themselves cannot be read.
    """
    began_s = time.monotonic()
    cases = load_golden(bundle)
    found = _Found()
    variant = pipeline.variant
    try:
        fault, reason = _check(pipeline, cases, budget, engine, found, at)
    except EdgeError as error:
        fault, reason = "engine", str(error)
    return SelfTestReport(
        variant=variant.id,
        passed=not reason,
        reason=reason[:MAX_REASON],
        metric=variant.tolerance.metric,
        value=found.value,
        floor=variant.tolerance.floor,
        cases=found.cases,
        latency_p95_ms=found.latency_p95_ms,
        rss_bytes=found.rss_bytes,
        accelerator=pipeline.accelerator,
        fault=fault if reason else "",
        share=found.account.share if found.account else None,
        share_floor=share_floor(variant, engine) if found.account else 0.0,
        off=found.account.most if found.account else (),
        growth_bytes=found.growth_bytes,
        took_s=time.monotonic() - began_s,
    )


def _check(
    pipeline: Pipeline,
    cases: Sequence[Case],
    budget: Budget | None,
    engine: Engine | None,
    found: _Found,
    at: Callable[[str], None],
) -> tuple[str, str]:
    """Steps 1 to 7; in a word and in a sentence why the variant fails, or nothing."""
    # 1. accelerator
    if pipeline.accelerator.degraded:
        return "placement", pipeline.accelerator.degraded
    # 2. steps
    for index, case in enumerate(cases):
        if reason := _too_long(pipeline, case):
            return "steps", f"golden case {index}: {reason}"
        if case.raw is not None and (reason := _steps_differ(pipeline, case)):
            return "steps", f"golden case {index}: {reason}"
    # 3. placement
    at("its first inference")
    pipeline.run(cases[0].inputs)
    found.account = pipeline.account()
    if found.account and (reason := _too_few(found.account, share_floor(pipeline.variant, engine))):
        return "placement", reason
    # 4. numbers
    at("the golden vectors")
    if reason := _numbers(pipeline, cases, found):
        return "numbers", reason
    # 5. latency
    at("timing")
    found.latency_p95_ms = _p95_ms(pipeline, cases)
    if budget and 0 < budget.latency_ms < found.latency_p95_ms:
        return "latency", (
            f"latency: the 95th percentile is {found.latency_p95_ms:.1f} ms, "
            f"the budget allows {budget.latency_ms:g} ms"
        )
    # 6. leak
    at("looking for a leak")
    longest = max(cases, key=lambda case: sum(tensor.size for tensor in case.inputs.values()))
    for _ in range(LEAK_ROUNDS):
        found.growth_bytes = growth_bytes(lambda: pipeline.run(longest.inputs), LEAK_RUNS, LEAK_S)
        if not found.growth_bytes:
            break
    if found.growth_bytes:
        return "leak", (
            f"leak: every inference keeps {found.growth_bytes} bytes or more, and does not stop to"
        )
    # 7. memory
    return "memory", _too_large(budget, found)


def _too_few(account: Account, floor: float) -> str:
    """Whether fewer operators ran on the accelerator than had to."""
    on = account.nodes - sum(account.off.values())
    if on and account.share >= floor:
        return ""
    told = f"placement: {on} of {account.nodes} operators ran on the accelerator"
    return f"{told} ({account.share:.0%}), at least {floor:.0%} is needed; on the CPU ran " + (
        ", ".join(account.most) or "nothing"
    )


def _too_large(budget: Budget | None, found: _Found) -> str:
    trim()
    found.rss_bytes = rss_bytes()
    if budget and 0 < budget.ram_bytes < found.rss_bytes:
        return (
            f"memory: the process holds {found.rss_bytes} bytes, "
            f"the budget allows {budget.ram_bytes}"
        )
    return ""


def _too_long(pipeline: Pipeline, case: Case) -> str:
    """Whether a case would cost what no client may ask for: memory grows with the square of it."""
    for spec in pipeline.manifest.inputs:
        shape = case.inputs[spec.name].shape
        if "sequence" in spec.shape and len(shape) == len(spec.shape):
            length = shape[spec.shape.index("sequence")]
            if length > pipeline.max_length:
                return f"{spec.name} has {length} tokens, at most {pipeline.max_length} are read"
    return ""


def _steps_differ(pipeline: Pipeline, case: Case) -> str:
    """How the tensors that the steps make differ from the golden ones, or nothing.

    Whole numbers must be the same; others may differ as decoders of pictures do.
    """
    found = pipeline.read(case.raw)
    for spec in pipeline.manifest.inputs:
        expected = case.inputs[spec.name][0]
        if "sequence" in spec.shape and "attention_mask" in case.inputs:
            expected = expected[case.inputs["attention_mask"][0] != 0]
        made = found.tensors[spec.name]
        if made.shape != expected.shape:
            return f"{spec.name} has the shape {list(made.shape)}, expected {list(expected.shape)}"
        gap = np.abs(made.astype(np.float64) - expected.astype(np.float64))
        if made.dtype.kind != "f" and gap.any():
            return (
                f"the tokenizer gives {made.size} tokens {made[:8].tolist()}…, "
                f"expected {expected[:8].tolist()}…"
            )
        spread = max(float(expected.std()), 1e-6)
        if gap.size and float(gap.mean()) > MAX_STEP_GAP * spread:
            return (
                f"the steps give another {spec.name}: the mean difference is {gap.mean():.3g}, "
                f"at most {MAX_STEP_GAP * spread:.3g} is expected"
            )
    return ""


def _numbers(pipeline: Pipeline, cases: Sequence[Case], found: _Found) -> str:
    """Whether every case comes close enough; the lowest value goes to `found`."""
    floor = pipeline.variant.tolerance.floor
    lowest, at, size = math.inf, 0, ""
    for index, case in enumerate(cases):
        outputs = pipeline.run(case.inputs)
        found.cases = index + 1
        if reason := mismatch(outputs, case):
            return f"golden case {index}: {reason}"
        value = worst(outputs, case)
        if value < lowest:
            lowest, at = value, index
        found.value = lowest
        if not size and (reason := size_differs(outputs, case)):
            size = f"golden case {index}: {reason}"
    if lowest >= floor:
        return size
    metric = pipeline.variant.tolerance.metric
    return (
        f"golden case {at}: {metric} {lowest:.4f} to the float reference, at least {floor:g} "
        f"is needed (the lowest of {len(cases)} cases)"
    )


def _p95_ms(pipeline: Pipeline, cases: Sequence[Case]) -> float:
    """95th percentile of the time to answer, over all cases in turn."""
    times: list[float] = []
    began = time.perf_counter()
    for turn in range(WARM_UPS + RUNS):
        case = cases[turn % len(cases)]
        start = time.perf_counter()
        if case.raw is None:
            pipeline.run(case.inputs)
        else:
            pipeline([case.raw])
        end = time.perf_counter()
        if turn >= WARM_UPS:
            times.append(1000 * (end - start))
        if len(times) >= MIN_RUNS and end - began > TIMING_S:
            break
    return float(np.percentile(times, 95, method="higher"))


def first_passing(
    bundle: VerifiedBundle,
    variants: Sequence[Variant],
    engine_of: Callable[[Variant], Engine | None],
    budget: Budget | None = None,
) -> tuple[Pipeline | None, tuple[SelfTestReport, ...]]:
    """The first of `variants` that loads and passes, open; and a report on each that was tried.

    All in this process. A variant that fails is closed before the next is loaded: never are two
    models in memory.

    Raises:
        UntrustedError: the bundle's bytes are not to be believed; no other variant helps.
    """
    reports: list[SelfTestReport] = []
    for variant in variants:
        pipeline, report = prove(bundle, variant, engine_of(variant), budget)
        reports.append(report)
        if pipeline is not None:
            return pipeline, tuple(reports)
    return None, tuple(reports)


def prove(
    bundle: VerifiedBundle,
    variant: Variant,
    engine: Engine | None,
    budget: Budget | None = None,
    at: Callable[[str], None] = _quiet,
) -> tuple[Pipeline | None, SelfTestReport]:
    """Load `variant` and test all of it; open where it passed.

    Raises:
        UntrustedError: the bundle's bytes are not to be believed.
    """
    at("loading")
    return _opened(
        bundle, variant, engine, lambda p: self_test(bundle, p, budget, engine, at), watched=True
    )


def confirm(
    bundle: VerifiedBundle,
    variant: Variant,
    engine: Engine | None,
    budget: Budget | None,
    proved: SelfTestReport,
) -> tuple[Pipeline | None, SelfTestReport]:
    """Load `variant`, which was `proved` in another process, to serve it from this one.

    What may differ here is looked at again: what runs, a few golden cases, and memory.

    Raises:
        UntrustedError: the bundle's bytes are not to be believed.
    """
    cases = load_golden(bundle)[:CONFIRMED]

    def again(pipeline: Pipeline) -> SelfTestReport:
        found = _Found()
        fault, reason = "placement", pipeline.accelerator.degraded
        try:
            if not reason:
                fault, reason = "numbers", _numbers(pipeline, cases, found)
            if not reason:
                fault, reason = "memory", _too_large(budget, found)
        except EdgeError as error:
            fault, reason = "engine", str(error)
        return dataclasses.replace(
            proved,
            passed=not reason,
            fault=fault if reason else "",
            reason=reason[:MAX_REASON],
            value=min(proved.value, found.value) if found.cases else proved.value,
            rss_bytes=found.rss_bytes,
            accelerator=pipeline.accelerator,
        )

    return _opened(bundle, variant, engine, again, watched=False)


def _opened(
    bundle: VerifiedBundle,
    variant: Variant,
    engine: Engine | None,
    test: Callable[[Pipeline], SelfTestReport],
    *,
    watched: bool,
) -> tuple[Pipeline | None, SelfTestReport]:
    """The variant, if it passes `test`; closed if not."""
    try:
        pipeline = Pipeline.open(bundle, variant, engine, watched=watched)
    except EdgeError as reason:
        if isinstance(reason, UntrustedError):
            raise
        return None, failed(variant, "engine", str(reason))
    passed = False
    try:
        report = test(pipeline)
        passed = report.passed
    finally:
        if not passed:
            pipeline.close()
    return (pipeline if passed else None), report


def failed(variant: Variant, fault: str, reason: str) -> SelfTestReport:
    """The report on a variant of which nothing could be measured."""
    return SelfTestReport(
        variant=variant.id,
        passed=False,
        reason=reason[:MAX_REASON],
        metric=variant.tolerance.metric,
        value=0.0,
        floor=variant.tolerance.floor,
        cases=0,
        latency_p95_ms=0.0,
        rss_bytes=rss_bytes(),
        accelerator=Accelerator(variant.id, requested=variant.backend, actual="none"),
        fault=fault,
    )
