"""The ways in which a search has a float file quantized: one, or all that its engine offers.

Of an encoder of texts it is the recipe's scheme, or else the profile's: smaller shapes are tried
there, each in this one way. A model that was brought keeps its shape and its weights, so what is
tried are the schemes themselves, each a row of the table below. What the recipe says beside the
scheme, as how ranges are calibrated, counts for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from converters.model import Candidate, Job, Model, TextModel
from converters.operators import operators_of
from converters.quantize.config import Options, QuantizeConfig
from converters.quantize.scheme import FLOAT
from converters.steps import CONVOLUTIONS, TENSORFLOW

TRIED: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": (
        "static_w8a8_channel",
        "dynamic_w8_channel",
        "weight_w8_channel",
        "weight_w4_block32",
    ),
    "litert": (
        "static_w8a8_channel",
        "static_w8a16_channel",
        "dynamic_w8_channel",
        "dynamic_w4_channel",
        "weight_w8_channel",
        "weight_f16",
        "tensorflow_w8a8",
    ),
}
"""Engine → schemes that each stand for a kind: integers throughout, activations of 16 bits, weights
alone, four bits, half floats, and another quantizer's. Others differ from one of these in a detail.
"""
STATIC = ("static_", TENSORFLOW)
SAVED = 0.99
"""A file that is not smaller than this share of its float file, with the same operators, has
nothing in it that takes the scheme."""


def own_way(candidate: Candidate, job: Job) -> Options:
    """What `edge-convert run` would do of the float file `candidate`."""
    engine = job.profile.engine(candidate.backend)
    assert engine is not None  # it was exported for it
    kinds = operators_of(candidate.artifact.path)
    scheme = engine.scheme(convolutional=bool(CONVOLUTIONS & set(kinds)))
    return _written(candidate, job).over(scheme)


def _written(candidate: Candidate, job: Job) -> Options:
    """What the recipe says of the file's engine."""
    config = job.recipe.config(QuantizeConfig) or QuantizeConfig({})
    return config.engines.get(candidate.backend, Options(""))


def ways(candidate: Candidate, model: Model, job: Job) -> tuple[Options, ...]:
    """All that are to be tried of the float file `candidate`, that of `own_way` first."""
    own = own_way(candidate, job)
    if isinstance(model, TextModel):
        return (own,)
    found = [] if own.scheme == FLOAT else [own]
    keras = hasattr(model.opened(job.recipe.data), "quantize")
    for scheme in TRIED[candidate.backend]:
        if own.integer and not scheme.startswith(STATIC[0]):
            continue  # a board that wants integers has no use for others
        if scheme.startswith(TENSORFLOW) and not keras:
            continue
        other = replace(_written(candidate, job), scheme=scheme).over(scheme)
        if other.precision not in [one.precision for one in found]:
            found.append(other)
    return tuple(found)


def float_ready(candidate: Candidate, model: Model, job: Job) -> bool:
    """Whether the float file itself may be chosen."""
    return not isinstance(model, TextModel) and not own_way(candidate, job).integer


def unchanged(quantized: Candidate, candidate: Candidate) -> bool:
    """Whether nothing of the float file `candidate` took the scheme of `quantized`."""
    smaller = quantized.artifact.size_bytes < SAVED * candidate.artifact.size_bytes
    files = quantized.artifact.path, candidate.artifact.path
    return not smaller and operators_of(files[0]) == operators_of(files[1])
