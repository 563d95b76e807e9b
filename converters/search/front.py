"""Which candidates are worth having: the Pareto front, the choice on it, and what is nearest. Pure.

A candidate is on the front where no other is at least as good in every figure and better in one.
The choice among those within the budget is the most accurate one where the budget bounds a cost,
since being cheaper than asked is worth nothing; where only the drop is bounded it is the fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from converters.search.budget import Budget, Cost, bound_words

AXES = ("latency_ms", "size_bytes", "drop")


def front(
    costs: Mapping[str, Cost], *, over: Sequence[str] = ("latency_ms", "size_bytes", "drop")
) -> list[str]:
    """Names of the candidates that no other one dominates, the fastest first."""

    def figures(name: str) -> tuple[float, ...]:
        return tuple(getattr(costs[name], one) for one in over)

    def dominated(name: str) -> bool:
        mine = figures(name)
        return any(
            theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))
            for theirs in map(figures, costs)
        )

    kept = [name for name in costs if not dominated(name)]
    return sorted(kept, key=lambda name: (astuple(costs[name]), name))


def choose(costs: Mapping[str, Cost], budget: Budget) -> str | None:
    """The best candidate within the budget, or None."""
    within = [name for name in costs if not budget.broken(costs[name])]
    if not within:
        return None
    bounded = budget.latency_ms or budget.size_bytes or budget.ram_bytes
    key = _most_accurate if bounded else _fastest
    return min(within, key=lambda name: (*key(costs[name]), name))


def _most_accurate(cost: Cost) -> tuple[float, ...]:
    return cost.drop, cost.latency_ms, cost.size_bytes


def _fastest(cost: Cost) -> tuple[float, ...]:
    return cost.latency_ms, cost.size_bytes, cost.drop


def nearest(costs: Mapping[str, Cost], budget: Budget) -> str:
    """The candidate whose worst bound is broken by the least."""
    return min(costs, key=lambda name: (max(budget.broken(costs[name]).values(), default=0), name))


def refusal(costs: Mapping[str, Cost], budget: Budget) -> str:
    """What to tell of a budget that no candidate meets: the nearest, and which bound binds."""
    name = nearest(costs, budget)
    cost = costs[name]
    broken = budget.broken(cost)
    binding = max(broken, key=lambda bound: broken[bound])
    figures = ", ".join(bound_words(one, getattr(cost, one)) for one in
                        ("latency_ms", "size_bytes", "ram_bytes", "drop"))  # fmt: skip
    side = "least" if binding == "golden" else "most"
    return (
        f"budget ({budget.words()}): no candidate meets it; the nearest is {name} with {figures}; "
        f"what binds is {bound_words(binding, getattr(cost, binding))}, expected "
        f"{bound_words(binding, getattr(budget, binding))} at {side}"
    )
