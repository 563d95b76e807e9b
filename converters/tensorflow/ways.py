"""How TensorFlow's converter may keep a model's numbers: names of schemes, which decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLOAT = "float32"


@dataclass(frozen=True, slots=True)
class Way:
    """How a .tflite file keeps its numbers.

    `weights`: float32, float16 or int8. `activations`: float32, int8 or int16, fixed by samples.
    `integer_io`: inputs and outputs, too, are of the activations' type.
    """

    weights: str = FLOAT
    activations: str = FLOAT
    integer_io: bool = False

    @property
    def needs_samples(self) -> bool:
        return self.activations != FLOAT


SCHEMES: Mapping[str, Way] = {
    "tensorflow_f32": Way(),
    "tensorflow_f16": Way("float16"),
    "tensorflow_dynamic_w8": Way("int8"),
    "tensorflow_w8a8": Way("int8", "int8"),
    "tensorflow_w8a8_integer": Way("int8", "int8", integer_io=True),
    "tensorflow_w8a16": Way("int8", "int16"),
    "tensorflow_w8a16_integer": Way("int8", "int16", integer_io=True),
}
"""`integer` at the end: inputs and outputs, too. A dynamic scheme leaves tensors of fewer than
1,024 weights in float: the converter finds them not worth it."""
