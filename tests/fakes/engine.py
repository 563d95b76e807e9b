"""An engine of a few lines, for tests of what stands around an engine.

Its "model" averages a fixed random vector for each token id. The variant's options say which
lengths it has, how many rows it takes, and what is wrong with it; see `FAULTS`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import save

from edge_runtime.bundle.manifest import Manifest, TensorSpec, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import DeviceError, IncompatibleError
from edge_runtime.inference.backend import Account, Tensor
from edge_runtime.inference.tasks.tokenize import Tokenize, TokenizeOptions
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import Engine
from tests.fakes.tiny import FIXTURE, LABELS, TEXTS, tiny_bundle, variant_json

BACKEND = "tests.fakes.engine:FakeBackend"
FAULTS = ("nan", "shape", "sign", "size", "slow", "fails", "absent", "degraded", "leaks")
WEIGHTS = np.random.default_rng(5).normal(size=(1024, len(LABELS))).astype(np.float32)


class FakeSession:
    def __init__(self, manifest: Manifest, variant: Variant) -> None:
        options: Mapping[str, Any] = variant.options
        self.inputs: tuple[TensorSpec, ...] = manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = manifest.outputs
        self.lengths: tuple[int, ...] = tuple(options.get("lengths", ()))
        self.max_batch: int | None = options.get("max_batch")
        self.fault: str = options.get("fault", "")
        degraded = "the chip is gone; the CPU runs instead" if self.fault == "degraded" else ""
        self.accelerator = Accelerator(variant.id, "fake: chip", "fake: chip", degraded)
        self.shapes: list[tuple[int, ...]] = []
        self.kept: list[Tensor] = []
        self.closed = 0

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert not self.closed
        ids, mask = feeds["input_ids"], feeds["attention_mask"]
        assert ids.shape == mask.shape
        assert not self.lengths or ids.shape[1] in self.lengths
        assert self.max_batch is None or ids.shape[0] <= self.max_batch
        self.shapes.append(ids.shape)
        if self.fault == "fails":
            raise DeviceError("the fake engine failed")
        if self.fault == "leaks":
            self.kept.append(np.ones(1 << 14))
        if self.fault == "slow":
            time.sleep(0.02)
        logits = (WEIGHTS[ids] * mask[..., None]).sum(axis=1) / mask.sum(axis=1)[:, None]
        logits = logits.astype(np.float32)
        if self.fault == "nan":
            logits[0, 0] = np.nan
        if self.fault == "shape":
            logits = logits[:, 1:]
        return {"logits": {"sign": -logits, "size": 3 * logits}.get(self.fault, logits)}

    def account(self) -> Account | None:
        return None

    def close(self) -> None:
        self.closed += 1


class FakeBackend:
    sessions: ClassVar[list[FakeSession]] = []

    def available(self) -> str | None:
        return None

    def load(
        self,
        model: bytes,
        manifest: Manifest,
        variant: Variant,
        engine: Engine | None,
        *,
        watched: bool = False,
    ) -> FakeSession:
        if variant.options.get("fault") == "absent":
            raise IncompatibleError(f"variant {variant.id}: no fake engine here")
        session = FakeSession(manifest, variant)
        self.sessions.append(session)
        return session


def fake_variant(id: str = "fake", **options: Any) -> dict[str, Any]:
    """A variant that the fake engine runs; the test puts BACKEND into the table as "fake"."""
    return variant_json(id, "fake.bin", backend="fake", options=options)


def fake_bundle(
    folder: Path, variants: Sequence[Mapping[str, Any]] | None = None, **changed: Any
) -> VerifiedBundle:
    """The tiny bundle with the fake engine's variants and golden vectors."""
    replace = {"fake.bin": b"fake", "golden.safetensors": save(fake_golden())}
    return tiny_bundle(folder, variants or [fake_variant()], replace, **changed)


def fake_golden() -> dict[str, Tensor]:
    """What the fake model answers to the fixture's texts."""
    options = TokenizeOptions("tokenizer.json", 128, 4096, 0, ("input_ids", "attention_mask"))
    tokenize = Tokenize(options, (FIXTURE / "tokenizer.json").read_bytes())
    tensors: dict[str, Tensor] = {}
    for index, text in enumerate(TEXTS):
        ids = tokenize(text).tensors["input_ids"][None]
        tensors[f"{index}.input_ids"] = ids
        tensors[f"{index}.attention_mask"] = np.ones_like(ids)
        tensors[f"{index}.logits"] = WEIGHTS[ids].mean(axis=1)
    return tensors
