"""A candidate that only its vendor's tool can answer for, behind the same pipeline as all others.

The tool runs the candidate's file, or what that was built of, row by row, with the chip's own
rounding. How long that takes says nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from converters.placement.place import Tools
from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.tasks.items import SEQUENCE
from edge_runtime.inference.tasks.table import declared_steps
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import Engine


def open_simulated(
    bundle: VerifiedBundle,
    variant: Variant,
    file: Path,
    engine: Engine,
    *,
    calibration: Path | None = None,
    length: int = 0,
) -> Pipeline:
    """`variant` of `bundle`, answered by the engine's tool, which is given `file`.

    Args:
        calibration: samples for a tool that builds the file itself.
        length: of a file whose length is fixed, where the variant has no entry points.

    Raises:
        IncompatibleError: the bundle's steps are unknown, or their files cannot be read.
    """
    session = Simulated(bundle.manifest, variant, file, engine, calibration, length)
    steps = declared_steps(bundle.manifest)
    reader = steps.open(bundle.read, session.lengths[-1] if session.lengths else None)
    return Pipeline(bundle.manifest, variant, steps, reader, session)


class Simulated:
    """See `Session`; the tool is started by the first run."""

    max_batch: int | None = 1

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        file: Path,
        engine: Engine,
        calibration: Path | None,
        length: int,
    ) -> None:
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self.lengths: tuple[int, ...] = tuple(
            one.dims[SEQUENCE] for one in variant.signatures if SEQUENCE in one.dims
        ) or ((length,) if length else ())
        words = f"the simulator of {engine.compiler}"
        self.accelerator = Accelerator(variant.id, engine.id, words)
        self._file, self._engine, self._calibration = file, engine, calibration
        self._tools = Tools()
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Session`.

        Raises:
            InputError: the tool is not set up, or fails.
        """
        with self._lock:
            return self._tools.run(self._file, self._engine, feeds, calibration=self._calibration)

    def account(self) -> None:
        """Nothing: where operators run is the placement's matter."""

    def close(self) -> None:
        """End the tool."""
        with self._lock:
            self._tools.close()
