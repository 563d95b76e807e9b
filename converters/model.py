"""What passes hand on: a model on its way from weights to bundle, and the job it is part of.

A `Model` is a value; a pass returns a new one. Files live in the cache and are named by digest, so
a Model is also the record of what it was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from converters.bootstrap import Difference
from converters.cache import Cache
from converters.data import Dataset, Rows
from converters.placement.result import Placed
from converters.progress import Progress
from converters.recipe import DataConfig, Recipe
from converters.source import Source, file_sha256
from converters.sources.interface import FloatModel, Interface
from edge_runtime.bundle.manifest import Signature
from edge_runtime.fields import Json
from edge_runtime.profile import CPU, DeviceProfile

FloatArray: TypeAlias = npt.NDArray[np.float32]
FLOAT = "float32"
SUFFIXES = {"onnxruntime": ".onnx", "litert": ".tflite", "rknn": ".rknn"}
"""Engines that files are made for, and what these end in."""


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
class Built:
    """What a vendor's tool built a file of: a float file, and `samples` where it quantized it."""

    source: Artifact
    samples: Artifact | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file that may become a variant of the bundle. `precision` is float32 or a recipe.

    `accelerator` is the one of the profile's engine that it was made for. `plain` is the same file
    before operators were fused that only ONNX Runtime's CPU knows. `placed` is where its operators
    run, None on the CPU; `compiled` what is shipped in its place, where a vendor's compiler makes
    that on the host: nothing here can run it. `built` is there where the file itself is in a format
    of the vendor's; then the vendor's simulator answers for it.
    """

    backend: str
    precision: str
    artifact: Artifact
    signatures: tuple[Signature, ...]
    notes: Mapping[str, Json]
    accelerator: str = CPU
    plain: Artifact | None = None
    placed: Placed | None = None
    compiled: Artifact | None = None
    built: Built | None = None

    @property
    def id(self) -> str:
        """An id that decodes, as `ort-cpu-dynamic-w8-channel`."""
        engine = {"onnxruntime": "ort"}.get(self.backend, self.backend)
        return f"{engine}-{self.accelerator}-{self.precision.replace('_', '-')}"

    @property
    def quantized(self) -> bool:
        return self.precision != FLOAT

    @property
    def asked_for(self) -> bool:
        """Whether it is what an engine of the profile asks for, and not the float file before."""
        return self.quantized or self.accelerator != CPU

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
    emulated_cosine: float | None = None
    """The lowest cosine to a golden vector by the vendor's emulator; None where none ran it."""
    max_error: float = 0.0
    """The largest difference of an output from the reference's, over the reference's largest."""


@dataclass(frozen=True, slots=True)
class GoldenCases:
    """Golden vectors: a safetensors file, and each case's raw input as the manifest says it.

    `raw` is empty where inputs are tensors to begin with. `files`: name in the bundle → file of a
    picture or a sound that `raw` names.
    """

    artifact: Artifact
    cases: int
    raw: tuple[str, ...]
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Evidence on every candidate, the reference's own figures, and the golden vectors."""

    reference: Evidence
    candidates: tuple[Evidence, ...]
    golden: GoldenCases
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model on its way. What a later pass adds is empty or None before it.

    What it is made of is its subclasses' matter: `TextModel`, whose weights passes may change, and
    `BroughtModel`, which is taken as it comes.
    """

    candidates: tuple[Candidate, ...] = ()
    verdict: Verdict | None = None
    bundle: Path | None = None

    @property
    def name(self) -> str:
        """What the source is called."""
        raise NotImplementedError

    @property
    def source_sha256(self) -> str:
        """Digest of the source as it was found."""
        raise NotImplementedError

    @property
    def licence(self) -> str:
        """The source's, "unknown" where nobody says."""
        raise NotImplementedError

    @property
    def sha256(self) -> str:
        """Digest of all that shapes the answers and the steps, as they are now."""
        raise NotImplementedError

    @property
    def fused_as(self) -> FusedAs:
        """What the fusing of operators should look for."""
        raise NotImplementedError

    def interface(self, data: DataConfig) -> Interface:
        """Tensors, and the steps around them."""
        raise NotImplementedError

    def opened(self, data: DataConfig, *, exporter: str = "torch") -> FloatModel:
        """The float model as it is now, which can be exported and asked."""
        raise NotImplementedError

    def reference(self, rows: Rows, job: Job) -> FloatArray:
        """What the metrics see of the answers to `rows` of the model before any compression."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class FusedAs:
    """An architecture's name, and its heads and width; zeros where they are not known."""

    architecture: str = ""
    heads: int = 0
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class TextModel(Model):
    """An encoder of texts, and a head where it is a classifier: what passes on weights work on."""

    source: Source
    tokenizer: Artifact
    encoder: Path
    encoder_sha256: str
    head: Path | None = None
    classes: tuple[str, ...] = ()
    uncompressed: TextModel | None = None

    @property
    def original(self) -> TextModel:
        """The model before it was compressed, whose answers are the reference; else this one."""
        return self.uncompressed or self

    @property
    def output(self) -> str:
        """Name of the one output."""
        return "embedding" if self.head is None else "logits"

    def head_sha256(self) -> str:
        """Digest of the head's file; "none" without a head."""
        return Artifact.of(self.head).sha256 if self.head else "none"

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def source_sha256(self) -> str:
        return self.source.sha256

    @property
    def licence(self) -> str:
        return self.source.licence

    @property
    def sha256(self) -> str:
        parts = (self.encoder_sha256, self.head_sha256(), self.tokenizer.sha256, *self.classes)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def fused_as(self) -> FusedAs:
        return FusedAs(self.source.architecture, self.source.heads, self.source.hidden)

    def interface(self, data: DataConfig) -> Interface:
        from converters.sources.encoder import encoder_interface

        return encoder_interface(self, data.max_length)

    def opened(self, data: DataConfig, *, exporter: str = "torch") -> FloatModel:
        from converters.sources.encoder import EncoderModel

        return EncoderModel(self, max_length=data.max_length, exporter=exporter)

    def reference(self, rows: Rows, job: Job) -> FloatArray:
        from converters.embed import answers_of

        return answers_of(self.original, rows, job)


@dataclass(frozen=True, slots=True)
class BroughtModel(Model):
    """A whole model that somebody brought, in any format; its weights stay as they are.

    `declared` has the source's own steps, or the recipe's where it says any.
    """

    brought: FloatModel
    declared: Interface

    @property
    def name(self) -> str:
        return self.brought.name

    @property
    def source_sha256(self) -> str:
        return self.brought.sha256

    @property
    def licence(self) -> str:
        return self.brought.licence

    @property
    def sha256(self) -> str:
        """Of the weights and of what the recipe or the source declares around them."""
        declared = asdict(replace(self.declared, files={}))
        files = {name: file_sha256(path) for name, path in sorted(self.declared.files.items())}
        parts = json.dumps([self.brought.sha256, declared, files], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()

    @property
    def fused_as(self) -> FusedAs:
        return FusedAs(getattr(self.brought, "architecture", ""))

    def interface(self, data: DataConfig) -> Interface:
        return self.declared

    def opened(self, data: DataConfig, *, exporter: str = "torch") -> FloatModel:
        return self.brought

    def reference(self, rows: Rows, job: Job) -> FloatArray:
        from converters.scored import reference_of

        return reference_of(self, rows, job)


@dataclass(frozen=True, slots=True)
class Job:
    """What every pass may look at. `out` is where the bundle goes.

    `quick` measures and trains less, and every figure says so by its n. With `allow_fallback` a
    model may leave more to the CPU than the profile's floor; with `require_proof` it must be known
    what an accelerator runs.
    """

    recipe: Recipe
    profile: DeviceProfile
    data: Dataset
    cache: Cache
    progress: Progress
    out: Path
    quick: bool = False
    allow_fallback: bool = False
    require_proof: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token counts that are measured and that fixed shapes get an entry point for, ascending.

        They are the profile's below the recipe's limit, and the limit itself: a text that is cut
        there must fit. A model without sequences takes none of them into account.
        """
        longest = self.recipe.data.max_length
        return (*(n for n in self.profile.sequence_lengths if n < longest), longest)
