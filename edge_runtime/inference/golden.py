"""Golden vectors: what the float reference answered, and how close another answer comes.

Comparison is pure. `worst` looks at every case; one bad case fails a variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import UntrustedError
from edge_runtime.fields import decode_json
from edge_runtime.inference.backend import Tensor, one_line
from edge_runtime.inference.tasks.results import Raw
from edge_runtime.inference.tasks.table import declared_steps

MAX_RAW_BYTES = 1 << 16
MAX_NORM_RATIO = 2.0
"""Cosine does not see size: an output twice as long as the reference's, or half, is refused."""


@dataclass(frozen=True, slots=True)
class Case:
    """One golden case. `raw` is what a client would send, None where inputs are all there is."""

    raw: Raw | None
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def load_golden(bundle: VerifiedBundle) -> tuple[Case, ...]:
    """The golden cases of `bundle`, in order.

    Raises:
        UntrustedError: not a safetensors file, a tensor that the manifest promises is missing, or
            a reference that is not finite, to which nothing could be compared.
        DeviceError: the disk failed.
    """
    import safetensors.numpy

    manifest: Manifest = bundle.manifest
    golden = manifest.golden
    takes = declared_steps(manifest).takes if golden.raw else ""
    where = f"bundle {manifest.name} {manifest.version}: {golden.file}"
    data = bundle.read(golden.file)
    try:
        tensors = safetensors.numpy.load(data)
    except Exception as reason:  # the parser's own error, or numpy's on a dtype it has not
        raise UntrustedError(f"{where} is not a safetensors file ({one_line(reason)})") from None
    return tuple(
        Case(
            raw=_raw(bundle, golden.raw[index], takes) if golden.raw else None,
            inputs=_named(tensors, index, [spec.name for spec in manifest.inputs], where),
            outputs=_named(tensors, index, [spec.name for spec in manifest.outputs], where),
        )
        for index in range(golden.cases)
    )


def _raw(bundle: VerifiedBundle, written: str, takes: str) -> Raw:
    """What the manifest's word for a raw input stands for: see docs/bundle-format.md.

    A text is itself, two texts and rows are JSON, pictures and sound are files of the bundle.
    """
    if takes == "text":
        return written
    if takes in ("image", "audio"):
        return bundle.read(written)
    where = f"bundle {bundle.manifest.name} {bundle.manifest.version}: golden raw input"
    return decode_json(written.encode(), max_bytes=MAX_RAW_BYTES, where=where, error=UntrustedError)


def _named(
    tensors: Mapping[str, Tensor], index: int, names: Sequence[str], where: str
) -> dict[str, Tensor]:
    missing = [name for name in names if f"{index}.{name}" not in tensors]
    if missing:
        raise UntrustedError(f"{where}: the tensor {index}.{missing[0]} is missing")
    named = {name: tensors[f"{index}.{name}"] for name in names}
    for name, tensor in named.items():
        if tensor.dtype.kind not in "biuf":
            raise UntrustedError(f"{where}: the tensor {index}.{name} is of {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise UntrustedError(f"{where}: the tensor {index}.{name} holds NaN or infinity")
    return named


def cosine(found: Tensor, expected: Tensor) -> float:
    """Cosine of the two flattened, -1..1; 1 for two zero vectors, 0 for one."""
    a = found.astype(np.float64).ravel()
    b = expected.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(norms):
        return 1.0 if norms == (0.0, 0.0) else 0.0
    return float(np.clip(np.dot(a / norms[0], b / norms[1]), -1.0, 1.0))


def mismatch(found: Mapping[str, Tensor], case: Case) -> str:
    """What is wrong with `found` whatever the tolerance, in a few words; empty if nothing."""
    for name, expected in case.outputs.items():
        value = found[name]
        if value.shape != expected.shape:
            return f"{name} has the shape {list(value.shape)}, expected {list(expected.shape)}"
        if not np.isfinite(value).all():
            return f"{name} holds NaN or infinity"
    return ""


def size_differs(found: Mapping[str, Tensor], case: Case) -> str:
    """Which output is far longer or shorter than the reference's; empty if none."""
    for name, expected in case.outputs.items():
        norms = [float(np.linalg.norm(t.astype(np.float64))) for t in (found[name], expected)]
        if norms[1] > 1e-6 and not 1 / MAX_NORM_RATIO <= norms[0] / norms[1] <= MAX_NORM_RATIO:
            return f"{name} has the norm {norms[0]:.4g}, expected about {norms[1]:.4g}"
    return ""


def worst(found: Mapping[str, Tensor], case: Case) -> float:
    """The lowest cosine of the case's outputs with the reference's."""
    return min(cosine(found[name], expected) for name, expected in case.outputs.items())
