"""What a transformers model answers, as a module with one or two named tensors.

The library's models return objects with many fields, and take more inputs than an engine should be
asked for. Each class here is called with the inputs of its task by name and returns a dict; pooling
stays in the graph, so that an engine returns one small tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import parametrize

from converters.network import mean_pool

LARGEST_MAP = 256
"""Points of a side; what pools are applied to is far smaller."""


class Classifier(torch.nn.Module):
    """`logits`, of whatever shape the model's own are."""

    outputs = ("logits",)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **feeds: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.model(**feeds).logits}


class Detector(torch.nn.Module):
    """`boxes` (batch, n, 4), centre and size as shares of the input, and `scores` (batch, n, …)."""

    outputs = ("boxes", "scores")

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **feeds: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.model(**feeds)
        return {"boxes": found.pred_boxes, "scores": found.logits}


class MeanOfTokens(torch.nn.Module):
    """`embedding` (batch, hidden): the mean over the tokens that are not padding."""

    outputs = ("embedding",)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **feeds: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.model(**feeds)[0]
        mask = feeds.get("attention_mask")
        if mask is None:
            return {"embedding": hidden.mean(dim=1)}
        return {"embedding": mean_pool(hidden, mask)}


class Pooled(torch.nn.Module):
    """`embedding` (batch, dimension): the model's own, in the field `field` of what it returns.

    Of a field that is a sequence of vectors, the first, which is the class token's.
    """

    outputs = ("embedding",)

    def __init__(self, model: Any, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, **feeds: torch.Tensor) -> dict[str, torch.Tensor]:
        value = getattr(self.model(**feeds), self.field)
        if self.field == "last_hidden_state":
            # A class token's, or the mean of a map (batch, channels, height, width).
            return {"embedding": value[:, 0] if value.ndim == 3 else value.mean(dim=(2, 3))}
        return {"embedding": value.flatten(1)}


class Tower(torch.nn.Module):
    """`embedding` (batch, dimension): one of the two towers of a CLIP, projected.

    A text tower with a `length` was trained on texts of just so many tokens and reads the last one:
    what is shorter is filled with `pad` here, in the graph.
    """

    outputs = ("embedding",)

    def __init__(self, model: Any, tower: str, *, length: int = 0, pad: int = 0) -> None:
        super().__init__()
        self.model = model
        self.features = f"get_{tower}_features"
        self.length, self.pad = length, pad

    def forward(self, **feeds: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.length:
            ids = feeds["input_ids"]
            filled = torch.full((ids.shape[0], self.length), self.pad, dtype=ids.dtype)
            feeds["input_ids"] = torch.cat([ids, filled], dim=1)[:, : self.length]
        return {"embedding": getattr(self.model, self.features)(**feeds)}


def plain(model: torch.nn.Module) -> None:
    """What exporters get wrong or write at length becomes something simpler that is the same.

    Weights that are computed from others with every call (weight norm) become plain ones. A pool
    larger than any map, which EfficientNet means the whole map by, becomes a pool over the whole
    map: ONNX divides by the pool's size where torch divides by the map's.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(getattr(module, "parametrizations", {})):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.AvgPool2d) and child.ceil_mode:
                size = child.kernel_size
                if min(size if isinstance(size, tuple) else (size,)) > LARGEST_MAP:
                    setattr(module, name, torch.nn.AdaptiveAvgPool2d(1))
