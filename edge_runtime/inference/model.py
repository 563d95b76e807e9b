"""`edge_runtime.load`: a bundle as a Python callable, for people's own programs.

It verifies every digest against the manifest. It cannot tell who made the bundle: bundles are not
signed yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import overload

from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.inference.backend import load_backend
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.tasks.results import Result
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import Engine, load_profile


class Model:
    """A loaded bundle. Call it with a text, or with a list of texts; from any thread.

    Use it in a `with` block, or call `close`, to free the model early.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @overload
    def __call__(self, text: str, /) -> Result: ...

    @overload
    def __call__(self, text: list[str] | tuple[str, ...], /) -> list[Result]: ...

    def __call__(self, text: str | list[str] | tuple[str, ...], /) -> Result | list[Result]:
        """The answer to a text, or the answers to a list of texts, in order.

        Raises:
            InputError: no text and no list of texts, or a text that is too long or not valid
                Unicode.
            DeviceError: the engine failed.
        """
        if isinstance(text, str):
            return self._pipeline((text,))[0]
        given: object = text
        if not isinstance(given, (list, tuple)):
            found = "None" if given is None else type(given).__name__
            raise InputError(f"expected a text or a list of texts, found {found}")
        return self._pipeline(text)

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
        profile: name or .toml path of a device profile, whose threads and options are used.

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
        engine_of = lambda v: device.engine(v.backend)  # noqa: E731
    if variant is not None:
        chosen = [v for v in variants if v.id == variant]
        if not chosen:
            raise InputError(
                f"bundle {manifest.name} {manifest.version}: no variant {variant!r}, "
                f"there are {', '.join(v.id for v in variants)}"
            )
        return Model(Pipeline.open(bundle, chosen[0], engine_of(chosen[0])))
    reasons = []
    for candidate in variants:
        try:
            missing = load_backend(candidate.backend).available()
        except IncompatibleError as unknown:
            missing = str(unknown)
        if missing is None:
            return Model(Pipeline.open(bundle, candidate, engine_of(candidate)))
        reasons.append(f"{candidate.id}: {missing}")
    raise IncompatibleError(
        f"bundle {manifest.name} {manifest.version}: no variant runs here ({'; '.join(reasons)})"
    )
