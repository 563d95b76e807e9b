"""Where the parts of a text encoder are, architecture by architecture, and each layer's shape.

Passes that remove heads, neurons or layers work on `Layer`, never on a library's module names, so a
new architecture is one more entry of `ANATOMIES`. A layer may have fewer heads or neurons than its
neighbours; the library's configuration cannot say so, so `remember_shapes` writes them beside it
and `reshape` makes room for them before the weights are loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from converters.source import SHAPES_KEY
from edge_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Dotted paths: `layers` and `embedding` from the encoder, the rest from a layer.

    `heads`, `head_size` and `width` are attributes of the module at `attention`; `width` is their
    product. `count` is the configuration's name for the number of layers. `prunable` is False where
    all layers share one relative position bias, which has an entry for each head.
    """

    layers: str
    embedding: str
    attention: str
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    heads: str
    head_size: str
    width: str
    count: str
    prunable: bool = True


BERT = Anatomy(
    layers="encoder.layer",
    embedding="embeddings.word_embeddings",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    heads="num_attention_heads",
    head_size="attention_head_size",
    width="all_head_size",
    count="num_hidden_layers",
)
DISTILBERT = Anatomy(
    layers="transformer.layer",
    embedding="embeddings.word_embeddings",
    attention="attention",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    up="ffn.lin1",
    down="ffn.lin2",
    heads="n_heads",
    head_size="attention_head_size",
    width="dim",
    count="n_layers",
)
MPNET = Anatomy(
    layers="encoder.layer",
    embedding="embeddings.word_embeddings",
    attention="attention.attn",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    up="intermediate.dense",
    down="output.dense",
    heads="num_attention_heads",
    head_size="attention_head_size",
    width="all_head_size",
    count="num_hidden_layers",
    prunable=False,
)
ANATOMIES: Mapping[str, Anatomy] = {
    "bert": BERT,
    "camembert": BERT,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "mpnet": MPNET,
    "roberta": BERT,
    "xlm-roberta": BERT,
}
"""Architecture (`model_type` of a configuration) → where its parts are."""

ROLES = ("query", "key", "value", "output", "up", "down")
"""The linear maps of a layer, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What pruning may change of a layer: heads of attention, neurons of the feed-forward part."""

    heads: int
    intermediate: int


class Layer:
    """One layer of an encoder; changes go to the encoder itself."""

    def __init__(self, module: torch.nn.Module, anatomy: Anatomy, index: int) -> None:
        self.module = module
        self.anatomy = anatomy
        self.index = index

    def copy(self) -> Layer:
        """The same layer outside of its encoder, with weights of its own."""
        return Layer(copy.deepcopy(self.module), self.anatomy, self.index)

    def linear(self, role: str) -> torch.nn.Linear:
        """The linear map of `role`, one of `ROLES`; weight (out, in)."""
        found = self.module.get_submodule(getattr(self.anatomy, role))
        assert isinstance(found, torch.nn.Linear)
        return found

    def replace(self, role: str, linear: torch.nn.Module) -> None:
        """Put another module in the place of the linear map of `role`."""
        parent, _, name = getattr(self.anatomy, role).rpartition(".")
        setattr(self.module.get_submodule(parent), name, linear)

    @property
    def attention(self) -> Any:
        """The module that computes attention."""
        return self.module.get_submodule(self.anatomy.attention)

    @property
    def shape(self) -> LayerShape:
        return LayerShape(self.heads, self.linear("up").out_features)

    @property
    def heads(self) -> int:
        return int(getattr(self.attention, self.anatomy.heads))

    @property
    def head_size(self) -> int:
        return int(getattr(self.attention, self.anatomy.head_size))

    def set_heads(self, count: int) -> None:
        """Tell the attention module that it has `count` heads; its linear maps are the caller's."""
        setattr(self.attention, self.anatomy.heads, count)
        setattr(self.attention, self.anatomy.width, count * self.head_size)


def anatomy_of(encoder: Any) -> Anatomy:
    """The anatomy of a loaded encoder.

    Raises:
        InputError: the architecture is not known; the known ones are listed.
    """
    architecture = encoder.config.model_type
    if architecture not in ANATOMIES:
        raise InputError(
            f"architecture {architecture!r} cannot be pruned or distilled into; "
            f"known are {', '.join(sorted(ANATOMIES))}"
        )
    return ANATOMIES[architecture]


def layers_of(encoder: Any) -> list[Layer]:
    """The layers in order, the first to run first."""
    anatomy = anatomy_of(encoder)
    modules = encoder.get_submodule(anatomy.layers)
    return [Layer(module, anatomy, index) for index, module in enumerate(modules)]


def keep_layers(encoder: Any, kept: Sequence[int]) -> None:
    """Remove every layer whose index is not in `kept`; the order of `kept` is the new order.

    Raises:
        InputError: `kept` is empty, or names a layer that is not there.
    """
    anatomy = anatomy_of(encoder)
    modules = encoder.get_submodule(anatomy.layers)
    if not kept or not all(0 <= index < len(modules) for index in kept):
        raise InputError(
            f"layers {list(kept)}: expected some of 0..{len(modules) - 1}, the encoder's layers"
        )
    parent, _, name = anatomy.layers.rpartition(".")
    chosen = torch.nn.ModuleList(modules[index] for index in kept)
    setattr(encoder.get_submodule(parent), name, chosen)
    setattr(encoder.config, anatomy.count, len(kept))
    remember_shapes(encoder)


def remember_shapes(encoder: Any) -> None:
    """Write the layers' shapes to the encoder's configuration, where they need to be said."""
    layers = layers_of(encoder)
    usual = LayerShape(_usual_heads(encoder), _usual_intermediate(encoder))
    shapes = [layer.shape for layer in layers]
    if all(shape == usual for shape in shapes):
        if hasattr(encoder.config, SHAPES_KEY):
            delattr(encoder.config, SHAPES_KEY)
        return
    setattr(encoder.config, SHAPES_KEY, [asdict(shape) for shape in shapes])


def reshape(encoder: Any) -> None:
    """Give the layers of a freshly built encoder the shapes that its configuration remembers.

    The new linear maps hold no weights worth keeping; load them afterwards.

    Raises:
        InputError: the configuration's entry is not one shape a layer.
    """
    shapes = _remembered(encoder)
    for layer, shape in zip(layers_of(encoder), shapes, strict=True):
        width = shape.heads * layer.head_size
        hidden = layer.linear("query").in_features
        for role in ("query", "key", "value"):
            layer.replace(role, torch.nn.Linear(hidden, width))
        layer.replace("output", torch.nn.Linear(width, hidden))
        layer.replace("up", torch.nn.Linear(hidden, shape.intermediate))
        layer.replace("down", torch.nn.Linear(shape.intermediate, hidden))
        layer.set_heads(shape.heads)


def _remembered(encoder: Any) -> list[LayerShape]:
    entry = getattr(encoder.config, SHAPES_KEY)
    count = len(layers_of(encoder))
    try:
        shapes = [LayerShape(int(one["heads"]), int(one["intermediate"])) for one in entry]
    except (TypeError, KeyError, ValueError):
        shapes = []
    if len(shapes) != count or not all(one.heads > 0 and one.intermediate > 0 for one in shapes):
        raise InputError(
            f"config.json: {SHAPES_KEY} must be {count} objects with heads and intermediate, "
            "both above 0"
        )
    return shapes


def _usual_heads(encoder: Any) -> int:
    return int(encoder.config.num_attention_heads)


def _usual_intermediate(encoder: Any) -> int:
    config = encoder.config
    return int(config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size)
