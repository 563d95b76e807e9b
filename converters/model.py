"""What passes hand on: a model on its way from weights to bundle, and the job it is part of.

A `Model` is a value; a pass returns a new one. Files live in the cache and are named by digest, so
a Model is also the record of what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converters.bootstrap import Difference
from converters.cache import Cache
from converters.data import Dataset
from converters.progress import Progress
from converters.recipe import Recipe
from converters.source import Source, file_sha256
from edge_runtime.bundle.manifest import Signature
from edge_runtime.fields import Json
from edge_runtime.profile import DeviceProfile

FLOAT = "float32"
SUFFIXES = {"onnxruntime": ".onnx", "litert": ".tflite"}
"""Engines that can be exported to, and what their files end in."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file in the cache."""

    path: Path
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Artifact:
        """The file at `path`, read once for its digest."""
        return cls(path, file_sha256(path), path.stat().st_size)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file that may become a variant of the bundle. `precision` is float32 or a recipe."""

    backend: str
    precision: str
    artifact: Artifact
    signatures: tuple[Signature, ...]
    notes: Mapping[str, Json]

    @property
    def id(self) -> str:
        """An id that decodes, as `ort-cpu-dynamic-w8-channel`."""
        engine = {"onnxruntime": "ort"}.get(self.backend, self.backend)
        return f"{engine}-cpu-{self.precision.replace('_', '-')}"

    @property
    def quantized(self) -> bool:
        return self.precision != FLOAT

    @property
    def file(self) -> str:
        """Its name in the bundle."""
        return self.id + SUFFIXES[self.backend]


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class of the test set: rows, and shares of them, 0..1."""

    label: str
    rows: int
    reference_accuracy: float
    accuracy: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of one candidate, on its own engine, on this host.

    `metric` is a name of `metrics.METRICS` or a function of the user's; `value` its figure over the
    n test rows, `interval` the 95 % interval of that; `reference` is the reference's value on the
    same rows, `difference` value minus reference, row paired with row.
    Latencies are p50 in ms by token count: 1 thread, batch 1.
    """

    id: str
    metric: str
    value: float
    reference: float
    interval: tuple[float, float]
    difference: Difference
    n: int
    agreement: float
    cosine_mean: float
    cosine_min: float
    golden_cosine: float
    latency_ms: Mapping[int, float]
    classes: tuple[ClassFigures, ...]
    refused: str
    """Why it is not packed; empty where it is."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows by label (first index) and answer (second); empty without labels, or of many classes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Evidence on every candidate, the reference's own figures, and the golden vectors' file."""

    reference: Evidence
    candidates: tuple[Evidence, ...]
    golden: Artifact
    golden_texts: tuple[str, ...]
    host: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model on its way. What a later pass adds is empty or None before it."""

    source: Source
    tokenizer: Artifact
    encoder: Path
    encoder_sha256: str
    head: Path | None = None
    classes: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    verdict: Verdict | None = None
    bundle: Path | None = None
    uncompressed: Model | None = None

    @property
    def original(self) -> Model:
        """The model before it was compressed, whose answers are the reference; else this one."""
        return self.uncompressed or self

    @property
    def output(self) -> str:
        """Name of the one output."""
        return "embedding" if self.head is None else "logits"

    def head_sha256(self) -> str:
        """Digest of the head's file; "none" without a head."""
        return Artifact.of(self.head).sha256 if self.head else "none"


@dataclass(frozen=True, slots=True)
class Job:
    """What every pass may look at. `out` is where the bundle goes.

    `quick` measures and trains less, and every figure says so by its n.
    """

    recipe: Recipe
    profile: DeviceProfile
    data: Dataset
    cache: Cache
    progress: Progress
    out: Path
    quick: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token counts that are measured and that fixed shapes get an entry point for, ascending.

        They are the profile's below the recipe's limit, and the limit itself: a text that is cut
        there must fit.
        """
        longest = self.recipe.data.max_length
        return (*(n for n in self.profile.sequence_lengths if n < longest), longest)
