"""What this host can prove of each variant of a bundle, and why not more.

A variant for the CPU is proved here as on the device. Of one for an accelerator only the numbers
are, by this CPU: its speed, and whether the accelerator takes it, only the board can tell. A file
that a vendor's compiler has made for its chip cannot be run here at all. No variant is left out in
silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from converters.draft import on_this_host
from converters.placement.targets import TARGETS
from converters.quiet import quiet
from edge_runtime.bundle.manifest import Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import DeviceError, IncompatibleError
from edge_runtime.inference.golden import load_golden
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.rknn import MAGIC as RKNN
from edge_runtime.inference.selftest import self_test
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.profile import CPU

Proved: TypeAlias = Literal["here", "numbers", "no"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What is proved of one variant; `why` not everything. No report where nothing could run it."""

    variant: str
    accelerator: str
    proved: Proved
    why: str = ""
    report: SelfTestReport | None = None

    @property
    def failed(self) -> bool:
        """Whether it ran and was found wrong."""
        return self.report is not None and not self.report.passed


def prove(bundle: VerifiedBundle, variants: Sequence[Variant] | None = None) -> list[Proof]:
    """The device's self-test of each variant, on this host's CPU, without a budget.

    What the manifest says of the outputs is held against what the reference gave; the self-test
    itself holds what each engine gives against the reference.

    Args:
        variants: of the bundle's; all of them where none are given.

    Raises:
        IncompatibleError: the engine of a variant for the CPU is not installed or cannot load it.
    """
    promised = _promise_broken(bundle)
    return [
        _prove(bundle, variant, promised)
        for variant in (bundle.manifest.variants if variants is None else variants)
    ]


def _prove(bundle: VerifiedBundle, variant: Variant, promised: str) -> Proof:
    accelerator = variant.placement.accelerator
    here = accelerator == CPU
    with quiet():  # engines greet when they load, or at the first run
        try:
            pipeline = Pipeline.open(bundle, variant if here else on_this_host(variant))
        except IncompatibleError as reason:
            if here:
                raise
            return _not_here(bundle, variant, str(reason))
        try:
            if not here and (stopped := _stopped(bundle, pipeline)):
                return _not_here(bundle, variant, stopped)
            report = self_test(bundle, pipeline)
        finally:
            pipeline.close()
    if report.passed and promised:
        report = replace(report, passed=False, reason=promised)
    if not report.passed:
        return Proof(variant.id, accelerator, "no", report.reason, report)
    if here:
        return Proof(variant.id, accelerator, "here", report=report)
    why = f"numbers passed on this CPU; on {accelerator} only the board can prove it"
    return Proof(variant.id, accelerator, "numbers", why, report)


def _not_here(bundle: VerifiedBundle, variant: Variant, reason: str) -> Proof:
    """For what is compiled the chip is the reason, for any other file what the engine says."""
    accelerator = variant.placement.accelerator
    if _is_compiled(bundle, variant, reason):
        reason = f"compiled for {accelerator}"
    return Proof(variant.id, accelerator, "no", f"not provable here: {reason}")


def _is_compiled(bundle: VerifiedBundle, variant: Variant, reason: str) -> bool:
    """Whether the engine stumbled over a vendor's operator, or the file is of a vendor's format."""
    if variant.backend == "rknn":
        return bundle.read(variant.file)[: len(RKNN)] == RKNN
    return any(one.custom and one.custom in reason for one in TARGETS.values())


def _stopped(bundle: VerifiedBundle, pipeline: Pipeline) -> str:
    """Why this host's engine cannot run the file, or nothing: a compiled one it cannot."""
    try:
        pipeline.run(load_golden(bundle)[0].inputs)
    except DeviceError as reason:
        return str(reason)
    return ""


def _promise_broken(bundle: VerifiedBundle) -> str:
    """How a golden output differs from the shape that the manifest gives it, or nothing."""
    for index, case in enumerate(load_golden(bundle)):
        for spec in bundle.manifest.outputs:
            found = case.outputs[spec.name].shape
            if len(found) != len(spec.shape) or any(
                isinstance(dim, int) and dim != size
                for dim, size in zip(spec.shape, found, strict=True)
            ):
                return (
                    f"the manifest gives output {spec.name} the shape "
                    f"[{', '.join(map(str, spec.shape))}], in golden case {index} it is "
                    f"[{', '.join(map(str, found))}]"
                )
    return ""
