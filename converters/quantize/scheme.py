"""Names of quantization schemes, which decode: when activations get their scale, then the weights.

`dynamic_w8_channel` measures each row or tensor of activations while it runs; `static_w8a8_channel`
takes their ranges from calibration texts; `weight_w8_channel` computes in float. `w8` is a uniform
grid of 8 bits, `c4` a codebook of 2**4 values found by k-means, so that the values lie where the
weights do. The last word is what shares a scale: a channel, the tensor, a block of 32 inputs.
`float` leaves a layer alone; `smooth_` in front moves large activation channels into the weights.
`tensorflow_…` are schemes of TensorFlow's converter for Keras models, see `tensorflow.ways`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from converters.tensorflow.ways import SCHEMES as TENSORFLOW
from edge_runtime.errors import InputError

SMOOTH = "smooth_"
FLOAT = "float"
_FORM = re.compile(
    r"(?P<activations>dynamic|static|weight)_(?P<kind>[wc])(?P<bits>\d+)(?:a(?P<width>\d+))?"
    r"_(?P<share>channel|tensor|block)(?P<block>\d*)"
)
SCHEMES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": (
        "dynamic_w8_channel",
        "dynamic_w8_tensor",
        "dynamic_w7_channel",
        "dynamic_w4_channel",
        "dynamic_w4_block32",
        "dynamic_c4_channel",
        "static_w8a8_channel",
        "static_w8a8_tensor",
        "static_w7a8_channel",
        "static_w8a16_channel",
        "static_c4a8_channel",
        "weight_w8_channel",
        "weight_w4_channel",
        "weight_w4_block32",
        "weight_c4_channel",
        "weight_c8_channel",
    ),
    "litert": (
        "dynamic_w8_channel",
        "dynamic_w4_channel",
        "dynamic_w4_block32",
        "static_w8a8_channel",
        "static_w8a16_channel",
        "weight_w8_channel",
        "weight_w4_channel",
        "weight_f16",
    ),
}
"""Engine → the schemes it runs, `smooth_` aside; `float` runs everywhere."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A scheme, decoded. `activations`: float, dynamic, static, or weight (computed in float).

    `kind` is "w" for a uniform grid, "c" for a codebook; `block` is 0 where a whole channel or
    tensor shares a scale.
    """

    name: str
    activations: str
    kind: str = "w"
    bits: int = 8
    width: int = 0
    share: str = "channel"
    block: int = 0


def parse_scheme(name: str) -> Scheme:
    """The scheme of that name, without what may stand before it.

    Raises:
        InputError: it is not a name of this form.
    """
    bare = name.removeprefix(SMOOTH)
    if bare == FLOAT:
        return Scheme(FLOAT, FLOAT)
    if bare == "weight_f16":
        return Scheme(bare, "weight", "f", 16)
    found = _FORM.fullmatch(bare)
    if found is None:
        raise InputError(f"quantization {name!r} is no scheme")
    return Scheme(
        bare,
        found["activations"],
        found["kind"],
        int(found["bits"]),
        int(found["width"] or 0),
        found["share"],
        int(found["block"] or 0),
    )


def known_scheme(backend: str, name: str) -> bool:
    """Whether the engine runs the scheme `name`, `smooth_` or not."""
    if name.startswith(SMOOTH):
        return backend == "onnxruntime" and name.removeprefix(SMOOTH) in SCHEMES[backend]
    return name == FLOAT or name in _of(backend)


def _of(backend: str) -> tuple[str, ...]:
    """The engine's schemes, and TensorFlow's own for the format that is theirs both."""
    others = tuple(TENSORFLOW) if backend == "litert" else ()
    return (*SCHEMES.get(backend, ()), *others)


def refusal(backend: str, name: str) -> str:
    """Why `name` is not taken: one sentence with what is known."""
    known = ", ".join(sorted(_of(backend)))
    return f"quantization {name!r} is not known for engine {backend}; known are {known or 'none'}"


def assign(names: tuple[str, ...], base: str, layers: Mapping[str, str]) -> dict[str, Scheme]:
    """Layer → scheme: `base`, or that of the last pattern in `layers` that matches its name.

    Raises:
        InputError: patterns that match no layer; all of them are named.
    """
    idle = [pattern for pattern in layers if not any(fnmatchcase(n, pattern) for n in names)]
    if idle:
        raise InputError(
            f"layers: {', '.join(map(repr, idle))} match{'es' if len(idle) == 1 else ''} no layer; "
            f"layers are {', '.join(names)}"
        )
    chosen = {}
    for name in names:
        matching = [scheme for pattern, scheme in layers.items() if fnmatchcase(name, pattern)]
        chosen[name] = parse_scheme(matching[-1] if matching else base)
    return chosen
