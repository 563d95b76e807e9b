"""What a search found, as values that are shown, compared and written as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.model import Evidence
from converters.pipeline import Conversion
from converters.search.budget import Budget, Cost

ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Tried:
    """A shape that was trained, and how far: `loss` is what it is ranked by, lower is better.

    `rungs` are the steps of each training; `seconds` what they took when they were run.
    """

    name: str
    rungs: tuple[int, ...]
    loss: float
    seconds: float
    estimated_ms: float
    estimated_bytes: float
    held_out: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finalist:
    """A variant that was measured on the test rows, on its own engine.

    `candidate` is the shape it comes from, or `ORIGINAL`; `backend` its engine. `ready` is whether
    it may be chosen: a quantized one may, and the float model of what is only quantized.
    """

    name: str
    candidate: str
    backend: str
    evidence: Evidence
    cost: Cost
    quantized: bool
    float_ready: bool = False

    @property
    def ready(self) -> bool:
        return self.quantized or self.float_ready

    @property
    def id(self) -> str:
        return f"{self.candidate}/{self.name}"


def float_model(finalists: Sequence[Finalist]) -> Finalist:
    """What ratios are taken of: the original's float model, on ONNX Runtime where it is there."""
    floats = [one for one in finalists if not one.quantized] or list(finalists)
    return next((one for one in floats if one.backend == "onnxruntime"), floats[0])


@dataclass(frozen=True, slots=True)
class Found:
    """The result: everything tried, the front, the choice and its recipe.

    `conversions` has, for each candidate that was measured, the passes that made it and their
    figures; `stopped` says why the search ended before its plan, or nothing; `notes` what it left
    out, a sentence each.
    """

    budget: Budget
    minutes: float
    seconds: float
    tried: tuple[Tried, ...]
    finalists: tuple[Finalist, ...]
    front: tuple[str, ...]
    choice: str | None
    recipe: Path | None
    conversions: Mapping[str, Conversion]
    chosen: Conversion | None
    stopped: str
    peak_rss_bytes: int
    notes: tuple[str, ...] = ()

    def finalist(self, id: str) -> Finalist:
        """The one with this id."""
        return next(one for one in self.finalists if one.id == id)

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "budget": asdict(self.budget),
            "minutes": self.minutes,
            "seconds": round(self.seconds, 1),
            "peak_rss_bytes": self.peak_rss_bytes,
            "stopped": self.stopped,
            "notes": list(self.notes),
            "tried": [asdict(one) for one in self.tried],
            "finalists": [
                {
                    "id": one.id,
                    "candidate": one.candidate,
                    "variant": one.name,
                    **asdict(one.cost),
                    "metric": one.evidence.metric,
                    "value": one.evidence.value,
                    "reference": one.evidence.reference,
                    "difference": asdict(one.evidence.difference),
                    "n": one.evidence.n,
                    "latencies_ms": dict(one.evidence.latency_ms),
                    "agreement": one.evidence.agreement,
                    "on_front": one.id in self.front,
                    "within_budget": not self.budget.broken(one.cost),
                    "refused": one.evidence.refused,
                }
                for one in self.finalists
            ],
            "front": list(self.front),
            "choice": self.choice,
            "recipe": str(self.recipe) if self.recipe else None,
            "passes": {
                name: {title: dict(figures) for title, figures in one.passes.items()}
                for name, one in self.conversions.items()
            },
        }
