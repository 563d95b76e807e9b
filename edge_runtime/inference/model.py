"""`edge_runtime.load`: a bundle as a Python callable, for people's own programs.

It verifies every digest against the manifest. It cannot tell who made the bundle: bundles are not
signed yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.bundle.verify import VerifiedBundle, verify
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.inference.backend import load_backend
from edge_runtime.inference.microphone import Chunk
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.series import Placed, over_rows
from edge_runtime.inference.streaming import Listening, sample_rate, stream_of
from edge_runtime.inference.tasks.results import Raw, Result
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import CPU, Engine, load_profile

log = logging.getLogger(__name__)


class Model:
    """A loaded bundle. Call it with an input of its task, or with a list of them; from any thread.

    What an input is, `takes` says: a text; two texts as a tuple; the bytes of a picture or a sound,
    or its pixels or samples as an array; a row as a mapping, or as a tuple in the columns' order.
    Use it in a `with` block, or call `close`, to free the model early.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @overload
    def __call__(self, given: list[Any], /) -> list[Result]: ...

    @overload
    def __call__(self, given: Any, /) -> Result: ...

    def __call__(self, given: Any, /) -> Result | list[Result]:
        """The answer to an input, or the answers to a list of inputs, in order.

        Raises:
            InputError: not what the task takes, or larger than the limits.
            DeviceError: the engine failed.
        """
        if isinstance(given, list):
            return self._pipeline(given)
        return self._pipeline((given,))[0]

    def listen(
        self,
        chunks: Iterable[Chunk],
        *,
        live: bool = False,
        hop_ms: float | None = None,
        smooth_ms: float | None = None,
        threshold: float | None = None,
        suppress_ms: float | None = None,
        ignore: Sequence[str] | None = None,
    ) -> Listening:
        """Detections in a sound, as they come; what is not given is as the bundle says.

        Args:
            chunks: sound of one channel at `sample_rate`, of any size: 16-bit little-endian PCM,
                int16 or float samples.
            live: `chunks` does not wait. It is read on a thread of its own, and windows that the
                model is too slow for are dropped and counted.
            hop_ms, smooth_ms, threshold, suppress_ms, ignore: as the step `stream` has them.

        Raises:
            InputError: the task gives no labels to sounds, or an option is out of range.
        """
        given = {
            "hop_ms": hop_ms,
            "smooth_ms": smooth_ms,
            "threshold": threshold,
            "suppress_ms": suppress_ms,
            "ignore": None if ignore is None else list(ignore),
        }
        changed = {name: value for name, value in given.items() if value is not None}
        return Listening(self._pipeline, chunks, stream_of(self._pipeline, changed), live=live)

    def slide(self, rows: Iterable[Raw], hop: int = 0) -> Iterator[Placed]:
        """A result for every window over `rows` of a series, one every `hop` rows; 0: side by side.

        Raises:
            InputError: the task takes no series, a row is wrong, or there are too few.
        """
        return over_rows(self._pipeline, rows, hop)

    @property
    def sample_rate(self) -> int:
        """Samples of a second of the sound that it takes.

        Raises:
            InputError: it takes something else.
        """
        return sample_rate(self._pipeline)

    @property
    def takes(self) -> str:
        """What one input is: "text", "text-pair", "image", "audio", "row" or "tensors"."""
        return self._pipeline.takes

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._pipeline.manifest

    @property
    def variant(self) -> Variant:
        """The variant that runs."""
        return self._pipeline.variant

    @property
    def accelerator(self) -> Accelerator:
        """What was asked for and what runs."""
        return self._pipeline.accelerator

    @property
    def pipeline(self) -> Pipeline:
        """For raw tensors and the self-test."""
        return self._pipeline

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._pipeline.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        m, v = self.manifest, self.variant
        return f"<Model {m.name} {m.version}, variant {v.id}>"


def load_model(
    path: str | PathLike[str], *, variant: str | None = None, profile: str | None = None
) -> Model:
    """Load a bundle, a folder or a .edge file.

    Args:
        variant: id of the variant to run; else the first whose engine is installed.
        profile: name or .toml path of a device profile, whose threads, options and accelerators are
            used; without one the CPU runs the model.

    Raises:
        InputError: no such file, variant or profile.
        UntrustedError: a file that is not what the manifest says.
        IncompatibleError: nothing in it runs here; says why for each variant.
    """
    # Every read checks the digest; files of variants that do not run need not be read at all.
    bundle = verify(open_bundle(Path(path)), files=False)
    manifest = bundle.manifest
    variants: Sequence[Variant] = manifest.variants
    engine_of: Callable[[Variant], Engine | None] = lambda _: None  # noqa: E731
    if profile is not None:
        device = load_profile(profile)
        variants = device.fits(manifest)
        engine_of = device.engine_of
    if variant is not None:
        chosen = [v for v in variants if v.id == variant]
        if not chosen:
            raise InputError(
                f"bundle {manifest.name} {manifest.version}: no variant {variant!r}, "
                f"there are {', '.join(v.id for v in variants)}"
            )
        opened = Pipeline.open(bundle, chosen[0], engine_of(chosen[0]))
        if opened.accelerator.degraded:
            log.warning("variant %s: %s", variant, opened.accelerator.degraded)
        return Model(opened)
    reasons = []
    for candidate in variants:
        if profile is None and candidate.placement.accelerator != CPU:
            accelerator = candidate.placement.accelerator
            reasons.append(f"{candidate.id}: for {accelerator}; name a profile that has it")
            continue
        try:
            missing = load_backend(candidate.backend).available()
        except IncompatibleError as unknown:
            missing = str(unknown)
        if missing is None:
            found = _opened(bundle, candidate, engine_of(candidate))
            if isinstance(found, Pipeline):
                return Model(found)
            missing = found
        reasons.append(f"{candidate.id}: {missing}")
    raise IncompatibleError(
        f"bundle {manifest.name} {manifest.version}: no variant runs here ({'; '.join(reasons)})"
    )


def _opened(bundle: VerifiedBundle, variant: Variant, engine: Engine | None) -> Pipeline | str:
    """`variant`, loaded; or why its accelerator does not run it, which is the next one's turn.

    Raises:
        IncompatibleError: it is the CPU's, and cannot be loaded.
    """
    try:
        opened = Pipeline.open(bundle, variant, engine)
    except IncompatibleError as reason:
        if variant.placement.accelerator == CPU:
            raise
        return str(reason)
    if not opened.accelerator.degraded:
        return opened
    opened.close()
    return opened.accelerator.degraded
