"""Every attack ends in the error that it deserves, and costs neither memory nor time nor a file.

All run one after the other in the cage, a process of their own; each is a test here.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.hostile.attack import Attack
from tests.hostile.attacks import ATTACKS, BUNDLE_ATTACKS
from tests.hostile.bundles import BundleAttack
from tests.hostile.cage import PROBES, Report, reports
from tests.hostile.parsers import PARSERS

EVERY: tuple[Attack | BundleAttack, ...] = (*ATTACKS, *BUNDLE_ATTACKS)
MAX_GROWN_BYTES = 64 << 20
MAX_GROWN = 32
"""Times its own size, of what may be larger than 2 MiB: a frame, a request."""
MAX_CPU_S = 10.0
"""Of a processor, not of a clock: a busy machine changes nothing. The worst takes half a second."""


@pytest.fixture(scope="module")
def found() -> dict[str, Report]:
    return {report.id: report for report in reports()}


def test_the_cage_runs_to_its_end_and_nothing_in_it_talks(found: dict[str, Report]) -> None:
    assert "the cage" not in found, f"{found['the cage'].flaw}: {found['the cage'].sentence}"


def test_the_cage_would_see_what_an_attack_must_not_do(found: dict[str, Report]) -> None:
    probes = {id.removeprefix("probe: "): report for id, report in found.items() if "probe" in id}
    assert probes.keys() == PROBES.keys()
    for name in ("writes", "reads", "connects", "starts"):
        assert probes[name].touched, name
    assert probes["fills"].grown_bytes > 90 << 20
    assert probes["computes"].cpu_s > 0.005
    assert probes["stumbles"].flaw == "no error of ours"
    assert "not one plain line" in probes["shouts"].flaw


def test_no_two_attacks_share_a_name() -> None:
    counted = Counter(attack.id for attack in EVERY)
    assert [id for id, times in counted.items() if times > 1] == []


def test_every_parser_is_attacked() -> None:
    attacked = {attack.parser for attack in ATTACKS}
    # `test_hostile_bundles` cuts and turns whole archives, of which these two are the reader.
    assert set(PARSERS) - attacked == {"archive", "container"}


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.id)
def test_an_attack_is_refused_and_costs_nothing(
    attack: Attack | BundleAttack, found: dict[str, Report]
) -> None:
    report = found[attack.id]
    assert not report.flaw, f"{report.flaw}: {report.error} {report.sentence}"
    assert report.error == ("" if attack.error is None else attack.error.__name__), report.sentence
    assert attack.says in report.sentence
    assert report.touched == ()
    assert report.cpu_s < MAX_CPU_S
    assert report.grown_bytes < max(MAX_GROWN_BYTES, MAX_GROWN * report.size_bytes)
