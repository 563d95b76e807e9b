from __future__ import annotations

from collections.abc import Mapping

import pytest

from edge_runtime.agent.config import WorkerConfig
from edge_runtime.agent.variants import MAX_BUNDLES, Variants
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Accelerator
from tests.fakes.reports import ready, report

CONFIG = WorkerConfig(max_crashes=2, crash_window_s=100.0, recheck_s=10.0, recheck_max_s=40.0)
CPU = Accelerator("cpu", "litert: cpu", "litert 2.3: cpu")


class Fleet:
    """Hears the events."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.details: list[Mapping[str, Json]] = []

    def tell(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        self.heard.append((kind, text))
        self.details.append(details)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def variants(fleet: Fleet) -> Variants:
    return Variants(CONFIG, fleet.tell, lambda: 0.5)  # No spread.


def degraded(variants: Variants, *failed: str, served: str = "cpu", now_s: float = 0.0) -> None:
    """The bundle "a" serves on `served`, after the `failed`."""
    for variant in failed:
        variants.tried("a", report(variant, "crash"))
    variants.serves("a", ready(served, *failed), now_s)


def test_what_was_never_tried_is_tried_whole(variants: Variants) -> None:
    assert variants.to_try("a") == ()
    assert variants.due_s("a") is None


def test_the_best_variant_is_no_degradation(variants: Variants, fleet: Fleet) -> None:
    degraded(variants, served="npu")
    assert variants.truth("a", CPU) == CPU
    assert variants.due_s("a") is None
    assert fleet.heard == []


def test_what_was_passed_over_is_the_truth_and_is_told_with_its_numbers(
    variants: Variants, fleet: Fleet
) -> None:
    degraded(variants, "npu", "gpu")
    truth = variants.truth("a", CPU)
    assert truth.requested == "litert: libnpu.so"
    assert truth.actual == "litert 2.3: cpu"
    assert truth.degraded == "npu: npu has the fault crash; gpu: gpu has the fault crash"
    assert fleet.heard == [
        ("variant-refused", "npu: npu has the fault crash"),
        ("variant-refused", "gpu: gpu has the fault crash"),
    ]
    assert fleet.details[0]["fault"] == "crash"
    assert fleet.details[0]["floor"] == 0.99


def test_a_refusal_is_told_again_only_when_the_fault_is_another(
    variants: Variants, fleet: Fleet
) -> None:
    for fault in ("hang", "hang", "numbers", "hang"):
        variants.tried("a", report("npu", fault))
    assert [text.rpartition(" ")[2] for _, text in fleet.heard] == ["hang", "numbers", "hang"]


def test_a_worker_that_starts_again_does_not_wait_for_the_same_hang(variants: Variants) -> None:
    degraded(variants, "npu", "gpu")
    assert variants.to_try("a") == ("cpu",)
    assert variants.to_try("b") == ()


def test_where_nothing_passed_all_are_tried_again(variants: Variants) -> None:
    degraded(variants, "npu")
    variants.gave_up("a")
    assert variants.to_try("a") == ()


def test_the_preferred_are_proved_again_ever_more_seldom(variants: Variants) -> None:
    degraded(variants, "npu", "gpu")
    now_s = 0.0
    waits = []
    for _ in range(4):
        due_s = variants.due_s("a")
        assert due_s is not None
        waits.append(due_s - now_s)
        now_s = due_s
        assert variants.again("a") == ("npu", "gpu")
        assert variants.due_s("a") is None
        variants.not_better("a", now_s)
    assert waits == [10.0, 20.0, 40.0, 40.0]


def test_the_accelerator_that_comes_back_is_told(variants: Variants, fleet: Fleet) -> None:
    degraded(variants, "npu", "gpu")
    variants.again("a")
    variants.serves("a", ready("gpu", "npu"), 10.0)
    assert fleet.heard[-1] == ("accelerator-recovered", "gpu serves instead of cpu")
    assert variants.truth("a", CPU).degraded == "npu: npu has the fault crash"
    variants.serves("a", ready("npu"), 20.0)
    assert fleet.heard[-1] == ("accelerator-recovered", "npu serves instead of gpu")
    assert variants.truth("a", CPU).degraded == ""
    assert variants.due_s("a") is None


def test_crashes_in_service_go_on_with_the_next_variant_after_so_many(
    variants: Variants, fleet: Fleet
) -> None:
    degraded(variants, served="npu")
    for now_s in (1.0, 2.0):
        assert variants.crashed("a", "SIGSEGV", now_s)
        assert variants.to_try("a") == ()
        variants.serves("a", ready("npu"), now_s)
    assert variants.crashed("a", "SIGSEGV", 3.0)
    assert variants.to_try("a") == ("gpu", "cpu")
    variants.serves("a", ready("gpu"), 4.0)
    kind, text = fleet.heard[-1]
    assert kind == "accelerator-lost"
    assert text == ("gpu serves instead of npu: crashed 3 times within 100 s, the last: SIGSEGV")
    assert variants.truth("a", CPU).degraded.startswith("npu: crashed 3 times within 100 s")


def test_crashes_long_ago_do_not_count(variants: Variants) -> None:
    degraded(variants, served="npu")
    for now_s in (0.0, 60.0, 120.0, 180.0, 240.0):
        assert variants.crashed("a", "SIGSEGV", now_s)
        assert variants.to_try("a") == ()


def test_one_that_passes_its_proof_and_crashes_again_is_left_alone_for_longer(
    variants: Variants,
) -> None:
    degraded(variants, served="npu")
    waits = []
    for begin_s in (0.0, 20.0, 40.0):
        for now_s in (begin_s, begin_s + 1, begin_s + 2):
            variants.crashed("a", "SIGSEGV", now_s)
        variants.serves("a", ready("gpu"), begin_s + 2)
        waits.append((variants.due_s("a") or 0.0) - begin_s - 2)
        variants.again("a")
        variants.serves("a", ready("npu"), begin_s + 10)
    assert waits == [20.0, 40.0, 40.0]


def test_a_crash_on_the_cpu_is_the_bundles(variants: Variants) -> None:
    degraded(variants, "npu", "gpu")
    assert not variants.crashed("a", "SIGSEGV", 1.0)
    assert not variants.crashed("never served", "SIGSEGV", 1.0)


def test_a_crash_where_no_other_variant_is_left_is_the_bundles(variants: Variants) -> None:
    variants.serves("a", ready("npu", fitting=("npu",)), 0.0)
    assert not variants.crashed("a", "SIGSEGV", 1.0)


def test_after_a_change_of_drivers_what_is_accelerated_is_proved_whole(
    variants: Variants, fleet: Fleet
) -> None:
    degraded(variants, served="npu")
    variants.changed("a", 5.0)
    assert variants.due_s("a") == 5.0
    assert variants.again("a") == ("npu", "gpu", "cpu")
    variants.tried("a", report("npu", "numbers"))
    variants.serves("a", ready("gpu", "npu"), 6.0)
    assert [kind for kind, _ in fleet.heard] == ["variant-refused", "accelerator-lost"]
    assert variants.due_s("a") == 16.0


def test_after_a_change_of_drivers_the_cpu_needs_no_new_proof(variants: Variants) -> None:
    degraded(variants, "npu", "gpu")
    variants.changed("a", 5.0)
    assert variants.again("a") == ("npu", "gpu")
    only_cpu = ready("cpu", fitting=("cpu",))
    variants.serves("b", only_cpu, 0.0)
    variants.changed("b", 5.0)
    assert variants.due_s("b") is None


def test_what_is_put_off_is_not_forgotten(variants: Variants) -> None:
    degraded(variants, served="npu")
    variants.changed("a", 5.0)
    variants.again("a")
    variants.put_off("a", 6.0)
    assert variants.due_s("a") == 16.0
    assert variants.again("a") == ("npu", "gpu", "cpu")


def test_a_variant_that_ends_the_worker_after_its_proof_is_told(
    variants: Variants, fleet: Fleet
) -> None:
    variants.died_loading("a", report("npu"), "signal SIGSEGV")
    assert fleet.heard == [
        ("variant-refused", "npu: passed its proof, then ended the worker: signal SIGSEGV")
    ]


def test_only_the_last_bundles_are_remembered(variants: Variants) -> None:
    degraded(variants, "npu")
    for number in range(MAX_BUNDLES):
        variants.to_try(str(number))
    assert variants.to_try("a") == ()
