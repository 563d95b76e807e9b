"""What fine-tuning and distillation share: the seed, the arithmetic, the optimizer, the batches.

Batches hold rows of like length, so little is padding. The same seed, data and machine give the
same batches and the same weights.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from converters.ort import host_threads

WARM_UP_STEPS = 10
ALIKE_TOKENS = 8
"""Within so many tokens the order is random, so that batches differ between epochs."""


def seed_torch(seed: int) -> None:
    """Torch's generator and its threads; both shape the result."""
    torch.manual_seed(seed)
    torch.set_num_threads(host_threads())


def training_precision(wanted: str) -> str:
    """bfloat16 is twice as fast where the CPU multiplies it, and many times slower elsewhere."""
    if wanted != "auto":
        return wanted
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def make_optimizer(groups: Sequence[dict[str, Any]], steps: int) -> tuple[Any, Any]:
    """AdamW, a short warm-up, then a straight line down to 0; the second value is the schedule."""
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP_STEPS, (steps - step) / steps)
    )
    return optimizer, schedule


def steps_of(rows: int, *, batch: int, epochs: int) -> int:
    """How many batches `length_batches` gives."""
    return epochs * -(-rows // batch)


def length_batches(
    lengths: Sequence[int], *, batch: int, epochs: int, rng: random.Random
) -> Iterator[list[int]]:
    """Indexes of each batch of each epoch: rows of like length together, batches shuffled."""
    for _ in range(epochs):
        order = sorted(
            range(len(lengths)), key=lambda index: (lengths[index] // ALIKE_TOKENS, rng.random())
        )
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        rng.shuffle(batches)
        yield from batches
