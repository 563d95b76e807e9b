"""Texts between two layers: each batch is held as the call that the next layer would get.

So a pass goes through a network layer by layer and runs each layer on what the layers before it,
pruned or not, made of the texts, without running those again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from converters.anatomy import Layer, layers_of
from converters.encoding import Encoded, collate


@dataclass(slots=True)
class Batch:
    """`hidden` (texts, tokens, hidden) on its way; `rest` and `named` are what else a layer is
    given; `mask`, bool (texts, tokens), is False on padding; `order` the texts' places.
    """

    hidden: torch.Tensor
    rest: tuple[Any, ...]
    named: dict[str, Any]
    mask: torch.Tensor
    order: tuple[int, ...]

    def copy(self) -> Batch:
        """Another at the same place, to go its own way; tensors are shared, never written."""
        return Batch(self.hidden, self.rest, self.named, self.mask, self.order)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a linear map was given and answered, (tokens, in) and (tokens, out), no padding."""

    given: torch.Tensor
    answered: torch.Tensor


class _Reached(Exception):
    """What was wanted has been seen; nothing behind it need run."""


def enter(encoder: Any, texts: Sequence[Encoded], *, size: int, pad_id: int) -> list[Batch]:
    """The texts before the first layer, in batches of `size` texts of like length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found = []
    for start in range(0, len(order), size):
        places = tuple(order[start : start + size])
        inputs = collate([texts[index] for index in places], pad_id)
        ids, mask = torch.from_numpy(inputs.input_ids), torch.from_numpy(inputs.attention_mask)
        (hidden, *rest), named = _first_call(encoder, ids, mask)
        found.append(Batch(hidden, tuple(rest), named, mask.bool(), places))
    return found


def _first_call(
    encoder: Any, ids: torch.Tensor, mask: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the first layer is called with."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def catch(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append((given, named))
        raise _Reached

    hook = layers_of(encoder)[0].module.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.inference_mode():
            encoder(input_ids=ids, attention_mask=mask)
    except _Reached:
        pass
    finally:
        hook.remove()
    return calls[0]


def run(layer: Layer, batch: Batch, watch: Sequence[str] = ()) -> tuple[torch.Tensor, list[Seen]]:
    """What comes out of the layer, (texts, tokens, hidden), and what the roles in `watch` saw."""
    seen: dict[str, Seen] = {}

    def note(role: str) -> Any:
        def hook(_: Any, given: tuple[Any, ...], answered: torch.Tensor) -> None:
            seen[role] = Seen(given[0][batch.mask], answered[batch.mask])

        return hook

    hooks = [layer.linear(role).register_forward_hook(note(role)) for role in watch]
    try:
        with torch.inference_mode():
            out = layer.module(batch.hidden, *batch.rest, **batch.named)
    finally:
        for hook in hooks:
            hook.remove()
    return out[0] if isinstance(out, tuple) else out, [seen[role] for role in watch]


def reach(layer: Layer, batch: Batch, roles: Sequence[str]) -> list[torch.Tensor]:
    """What each of `roles` is given, (tokens, in), no padding; what follows them is not run."""
    seen: dict[str, torch.Tensor] = {}

    def note(role: str) -> Any:
        def hook(_: Any, given: tuple[Any, ...]) -> None:
            seen[role] = given[0][batch.mask]
            if len(seen) == len(roles):
                raise _Reached

        return hook

    hooks = [layer.linear(role).register_forward_pre_hook(note(role)) for role in roles]
    try:
        with torch.inference_mode():
            layer.module(batch.hidden, *batch.rest, **batch.named)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[role] for role in roles]


def finish(layers: Iterable[Layer], batches: Iterable[Batch]) -> torch.Tensor:
    """The pooled output of every text after `layers`, (texts, hidden), in the texts' order."""
    layers = list(layers)
    found: dict[int, torch.Tensor] = {}
    for batch in batches:
        moving = batch.copy()
        for layer in layers:
            moving.hidden, _ = run(layer, moving)
        keep = batch.mask.unsqueeze(-1)
        pooled = (moving.hidden * keep).sum(1) / keep.sum(1)
        found.update(zip(batch.order, pooled, strict=True))
    return torch.stack([found[place] for place in range(len(found))])
