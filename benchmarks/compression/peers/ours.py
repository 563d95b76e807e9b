"""Our bundles, opened by the code that a device runs, with the options of their own profile.

Texts are tokenized by the bundle's tokenizer, whose vocabulary may have been trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.compression.peer import Inputs, Runner
from benchmarks.compression.rows import FloatArray, Ids
from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import InputError
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.profile import load_profile

BUILDS: Mapping[str, Callable[[Inputs, Path], None]] = {}
"""Bundles are made by `edge-convert`, before."""


def load(folder: Path, variant: str) -> BundleRunner:
    """The variant of the bundle at `folder`, one thread."""
    bundle = verify(open_bundle(folder))
    chosen = next((v for v in bundle.manifest.variants if v.id == variant), None)
    if chosen is None:
        raise InputError(f"bundle {folder}: no variant {variant!r}")
    try:
        engine = load_profile(bundle.manifest.profile).engine(chosen.backend)
    except InputError:  # a profile of the user's own: the engine's defaults, which are one thread
        engine = None
    return BundleRunner(
        Pipeline.open(bundle, chosen, replace(engine, threads=1) if engine else None)
    )


def tokens(runner: Runner) -> Callable[[str], Ids]:
    """See `peer.Module`."""
    assert isinstance(runner, BundleRunner)
    return runner.tokens


class BundleRunner:
    """A pipeline without its postprocess steps: those of the tools have none either."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._output = pipeline.manifest.outputs[0].name

    def tokens(self, text: str) -> Ids:
        """Token ids of `text`, as on the device."""
        return np.asarray(self._pipeline.read(text).tensors["input_ids"], dtype=np.int64)

    def __call__(self, ids: Ids, /) -> FloatArray:
        row = ids[np.newaxis]
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row)}
        found: FloatArray = self._pipeline.run(feeds)[self._output][0]
        return found


def files(folder: Path, variant: str) -> list[Path]:
    """See `peer.Module`; a bundle is measured where it lies, see `measure.sizes`."""
    return [folder]
