"""Our bundles against the numbers to reach, each from this very run.

A rival is a tool's quantized model. The best one is the fastest of those whose score is not
significantly below the most accurate one's: nobody would choose a faster one that is worse.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.compression.catalogue import BASE
from benchmarks.compression.measure import Contender, better, slower
from benchmarks.compression.reference import CLASSIFICATION
from benchmarks.tables import Row, at_least

SIGNIFICANT = 0.05
FASTER = {True: 8.0, False: 5.0}
"""By whether it is a classifier: times faster than float ONNX Runtime."""
SMALLER = 10.0
KEPT = 0.98
"""Share of the float model's accuracy."""
RECALL = 0.90
FASTER_THAN_BEST = 2.0


def verdict(contenders: Sequence[Contender], task: str, length: int) -> list[Row]:
    """Rows for each of ours; `length` is the token count at which latencies are compared."""
    ours = [one for one in contenders if one.built.ours and not one.error]
    base = next((one for one in contenders if one.built.id == BASE and not one.error), None)
    rivals = [
        one
        for one in contenders
        if one.built.quantized and not one.built.ours and not one.error and one.scores is not None
    ]
    rows = []
    for one in ours:
        rows += _against_base(one, base, task, length) if base else []
        rows += _against_rivals(one, rivals, length) if rivals else []
    return rows


def _against_base(one: Contender, base: Contender, task: str, length: int) -> list[Row]:
    name, classifier = one.built.id, task == CLASSIFICATION
    score, reference = one.score(), base.score()
    rows = []
    if score is not None and reference:
        rows.append(
            at_least(f"{name}: accuracy / float", score / reference, "x", KEPT)
            if classifier
            else at_least(f"{name}: recall@10", score, "", RECALL)
        )
    ratio = slower(base, one, length)
    if ratio is not None:
        rows.append(at_least(f"{name}: faster than {BASE}", ratio, "x", FASTER[classifier]))
    smaller = base.built.size_bytes / one.built.size_bytes
    what = f"{name}: smaller than {BASE}"
    return [*rows, at_least(what, smaller, "x", SMALLER) if classifier else Row(what, smaller, "x")]


def _against_rivals(one: Contender, rivals: Sequence[Contender], length: int) -> list[Row]:
    name = one.built.id
    rows = []
    leader = max(rivals, key=lambda rival: rival.score() or 0.0)
    gap = better(one, leader)
    if gap is not None:
        what = f"{name}: score − the most accurate tool's ({leader.built.id})"
        # Not worse: zero is within the interval of the paired rows, or below it.
        interval = f"interval {100 * gap.low:+.2f} .. {100 * gap.high:+.2f}, above 0 at its end"
        rows.append(Row(what, 100 * gap.mean, "points", interval, gap.high >= 0))
    for what, rival, goal in (
        ("fastest tool", _fastest(rivals, length), 1.0),
        ("best tool", best(rivals, length), FASTER_THAN_BEST),
    ):
        ratio = slower(rival, one, length) if rival else None
        if rival and ratio is not None:
            rows.append(
                at_least(f"{name}: faster than the {what} ({rival.built.id})", ratio, "x", goal)
            )
    return rows


def best(rivals: Sequence[Contender], length: int) -> Contender | None:
    """The fastest of those that are not significantly worse than the most accurate one."""
    leader = max(rivals, key=lambda rival: rival.score() or 0.0)
    return _fastest([one for one in rivals if one is leader or not _worse(one, leader)], length)


def _worse(one: Contender, leader: Contender) -> bool:
    gap = better(one, leader)
    if gap is None:
        return True
    return gap.high < 0 if gap.p is None else gap.mean < 0 and gap.p < SIGNIFICANT


def _fastest(rivals: Sequence[Contender], length: int) -> Contender | None:
    timed = [(p50, one) for one in rivals for p50 in (one.p50_ms(length),) if p50 is not None]
    return min(timed, key=lambda pair: pair[0])[1] if timed else None
