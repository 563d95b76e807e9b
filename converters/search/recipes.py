"""Candidates as recipes: a shape and a training become passes, and the passes a recipe. Pure.

Whatever the search tries is a recipe that a person could have written, run by the same passes, so
the one that is chosen is rebuilt by `edge-convert run`, and its results come from the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from converters.configs import (
    ExportConfig,
    FinetuneConfig,
    PackageConfig,
    VerifyConfig,
)
from converters.distil.config import DistilConfig
from converters.passes import KINDS, PassConfig, kind_of
from converters.prune.config import PruneConfig
from converters.quantize.config import QuantizeConfig
from converters.recipe import Recipe
from converters.search.space import Encoder, Shape
from converters.vocabulary.config import VocabularyConfig

LESSON = DistilConfig(
    depth=0, layers=(), width=0, epochs=1, steps=0, lr=5e-4, head_lr=1e-3, batch=32,
    max_length=128, rows=0, quick_rows=1200, temperature=2.0, soft=1.0, label=0.0, embedding=1.0,
    similarity=0.0, hidden=0.0, relation=0.0, freeze_embeddings=True, fake_quantize="",
    precision="auto",
)  # fmt: skip
"""How students are taught; what differs between tasks is in `lesson`."""
TRIMMED = VocabularyConfig(min_count=1, size=0, characters="all")
CUT = PruneConfig(
    parts="neurons", ratio=0.0, criterion="obs", allocate="uniform", pattern="",
    reconstruct=True, rows=128, round_to=32,
)  # fmt: skip
LATER_LR = 0.6
"""Of the first rate: whoever goes on has been warm already."""


def lesson(task: str, max_length: int) -> DistilConfig:
    """One rung's training for `task`, without its length in steps."""
    taught = replace(LESSON, max_length=min(LESSON.max_length, max_length))
    if task == "embedding":
        return replace(taught, soft=0.0)
    return taught


def shaping(encoder: Encoder, shape: Shape) -> list[PassConfig]:
    """The passes that cut vocabulary, neurons and heads to `shape`; depth is the student's."""
    passes: list[PassConfig] = []
    if shape.vocabulary < encoder.vocabulary:
        passes.append(replace(TRIMMED, size=shape.vocabulary))
    if shape.neurons < 1:
        passes.append(replace(CUT, ratio=round(1 - shape.neurons, 4)))
    if shape.heads < 1:
        passes.append(replace(CUT, parts="heads", ratio=round(1 - shape.heads, 4), round_to=1))
    return passes


def teaching(
    encoder: Encoder, shape: Shape, taught: DistilConfig, steps: Sequence[int]
) -> list[PassConfig]:
    """One distil pass for each rung, `steps` long; the first also drops layers."""
    passes: list[PassConfig] = []
    for rung, count in enumerate(steps):
        depth = shape.depth if rung == 0 and shape.depth < encoder.depth else 0
        lr = taught.lr * (1.0 if rung == 0 else LATER_LR)
        passes.append(replace(taught, depth=depth, steps=count, lr=lr))
    return passes


def weights_passes(recipe: Recipe) -> tuple[PassConfig, ...]:
    """The passes of `recipe` that make the reference: what it fine-tunes, and nothing else."""
    return tuple(one for one in recipe.passes if isinstance(one, FinetuneConfig))


def compression_passes(recipe: Recipe) -> tuple[PassConfig, ...]:
    """The passes of `recipe` that compress the reference."""
    return tuple(
        one
        for one in recipe.passes
        if KINDS[kind_of(one)].stage == "weights" and not isinstance(one, FinetuneConfig)
    )


def finished(
    recipe: Recipe,
    compression: Sequence[PassConfig],
    quantization: QuantizeConfig | None,
    verify: VerifyConfig,
    engines: tuple[str, ...],
) -> Recipe:
    """`recipe` with these passes between its fine-tuning and its bundle, packed for `engines`.

    Without `quantization` the float files are packed.
    """
    given = {kind_of(one): one for one in recipe.passes}
    package = given.get("package", PackageConfig(keep_float=False, engines=()))
    assert isinstance(package, PackageConfig)
    passes = (
        *weights_passes(recipe),
        *compression,
        given.get("export", ExportConfig(opset=17, exporter="torch")),
        *([given["fuse"]] if "fuse" in given else []),
        *([quantization] if quantization else []),
        verify,
        replace(package, engines=engines),
    )
    return replace(recipe, passes=passes)
