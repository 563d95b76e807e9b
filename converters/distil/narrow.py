"""A narrower student: the teacher's weights seen in the directions in which its states vary most.

What runs between layers, the hidden state, is projected on its first principal components over the
calibration texts; every weight that reads or writes it is projected with it (Ashkboos et al. 2024,
"SliceGPT"). Heads and feed-forward neurons stay; pruning is for them. Normalization does not
commute with a projection, and what is cut off correlates with what stays; so while a few texts run
through, each normalization and each linear map that reads the hidden state is fitted by least
squares to what the teacher's own gives there, in the order in which they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from converters.anatomy import anatomy_of, layers_of, remember_shapes, reshape
from converters.encoding import collate, encode, load_tokenizer
from converters.model import Job, TextModel
from converters.network import POOLERS, TextNetwork
from converters.quiet import quiet
from converters.source import SHAPES_KEY
from edge_runtime.errors import InputError

FITTED_TEXTS = 64
READERS = ("query", "key", "value", "up")
RIDGE = 1e-3
"""Of a least-squares fit, relative to the mean variance of what is fitted from."""


def narrow(network: TextNetwork, width: int, model: TextModel, job: Job) -> TextNetwork:
    """The network with hidden size `width`, its weights from the one at hand, in eval mode.

    Raises:
        InputError: `width` is no multiple of a head's size or not smaller than the hidden size, or
            the architecture ties its heads to its width.
    """
    encoder: Any = network.encoder
    _check(encoder, width)
    ids, mask = _few_texts(model, job)
    with torch.no_grad():
        states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        basis = principal(states.hidden_states, mask, width)
        made = _empty(encoder, width)
        _project(encoder, made, basis)
        _fit(encoder, made, basis, ids, mask)
        head = None
        if network.head is not None:
            head = torch.nn.Linear(width, network.head.out_features)
            head.weight.copy_(network.head.weight @ basis)
            head.bias.copy_(network.head.bias)
    return TextNetwork(made, head).eval()


def _check(encoder: Any, width: int) -> None:
    hidden, size = encoder.config.hidden_size, layers_of(encoder)[0].head_size
    if not anatomy_of(encoder).prunable:
        raise InputError(
            f"distil: width is {width}, but an encoder of architecture "
            f"{encoder.config.model_type!r} cannot be made narrower"
        )
    if width % size or not size <= width < hidden:
        raise InputError(
            f"distil: width is {width}; expected a multiple of {size}, a head's size, "
            f"below {hidden}, the hidden size"
        )


def _few_texts(model: TextModel, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibration texts as ids and mask, int64 (texts, tokens)."""
    tokenizer = load_tokenizer(model.tokenizer.path, max_length=job.recipe.data.max_length)
    texts = encode(tokenizer, job.data.calibration.texts[:FITTED_TEXTS])
    batch = collate(texts, model.source.pad_id)
    return torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)


def principal(states: Sequence[torch.Tensor], mask: torch.Tensor, width: int) -> torch.Tensor:
    """The `width` first principal directions of hidden states, (hidden, width), orthonormal.

    States are (texts, tokens, hidden), one for each layer; all count alike, padding not at all.
    """
    hidden = states[0].shape[2]
    moments = torch.zeros(hidden, hidden, dtype=torch.float64)
    for state in states:
        rows = state[mask.bool()].double()
        moments += rows.T @ rows / rows.square().sum()
    _, vectors = torch.linalg.eigh(moments)
    chosen: torch.Tensor = vectors[:, -width:].flip(1).float()
    return chosen


def _empty(encoder: Any, width: int) -> Any:
    """An encoder like this one, of that width, with heads and neurons as they are."""
    from transformers import AutoModel

    config = type(encoder.config)(**encoder.config.to_dict())
    if getattr(config, "embedding_size", width) == config.hidden_size:
        config.embedding_size = width  # ELECTRA has one of its own
    size = layers_of(encoder)[0].head_size
    config.hidden_size, config.num_attention_heads = width, width // size
    shapes = [layer.shape for layer in layers_of(encoder)]
    setattr(
        config, SHAPES_KEY, [{"heads": s.heads, "intermediate": s.intermediate} for s in shapes]
    )
    extra = {"add_pooling_layer": False} if config.model_type in POOLERS else {}
    with quiet():
        made = AutoModel.from_config(config, attn_implementation="eager", **extra).float().eval()
    reshape(made)
    remember_shapes(made)
    return made.eval()


def _project(encoder: Any, made: Any, basis: torch.Tensor) -> None:
    """Every parameter, along each of its axes that became narrower."""
    old = dict(encoder.named_parameters())
    for name, parameter in made.named_parameters():
        value = old[name]
        for axis, (before, after) in enumerate(zip(value.shape, parameter.shape, strict=True)):
            if before != after:
                value = torch.tensordot(value, basis, dims=([axis], [0])).movedim(-1, axis)
        parameter.copy_(value)


def _fit(
    encoder: Any, made: Any, basis: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> None:
    """Normalizations and readers of the hidden state, one after the other, as the texts run."""
    wanted: dict[str, torch.Tensor] = {}
    hooks = [module.register_forward_hook(_keep(wanted, name)) for name, module in _fitted(encoder)]
    encoder(input_ids=ids, attention_mask=mask)
    real = mask.bool()
    for name, module in _fitted(made):
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_hook(_fit_reader(wanted[name], real)))
        elif module.normalized_shape[0] == basis.shape[1] != wanted[name].shape[2]:
            hooks.append(module.register_forward_hook(_fit_norm(wanted[name] @ basis, real)))
    made(input_ids=ids, attention_mask=mask)
    for hook in hooks:
        hook.remove()


def _fitted(encoder: Any) -> list[tuple[str, Any]]:
    """Names and modules: all normalizations, and of each layer the maps that read its input."""
    readers = {id(layer.linear(role)) for layer in layers_of(encoder) for role in READERS}
    return [
        (name, module)
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.LayerNorm) or id(module) in readers
    ]


def _keep(found: dict[str, torch.Tensor], name: str) -> Any:
    def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found[name] = output

    return hook


def _fit_norm(wanted: torch.Tensor, real: torch.Tensor) -> Any:
    """A hook that fits scale and shift to `wanted`, (texts, tokens, width), where `real`."""

    def hook(module: torch.nn.LayerNorm, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        plain = torch.nn.functional.layer_norm(inputs[0], module.normalized_shape, eps=module.eps)
        x, y = plain[real], wanted.expand(*plain.shape)[real]
        x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
        spread = (x - x_mean).square().mean(dim=0)
        together = ((x - x_mean) * (y - y_mean)).mean(dim=0)
        module.weight.copy_(together / (spread + RIDGE * spread.mean()))
        module.bias.copy_(y_mean - module.weight * x_mean)
        return plain * module.weight + module.bias

    return hook


def _fit_reader(wanted: torch.Tensor, real: torch.Tensor) -> Any:
    """A hook that fits a linear map to `wanted`, (texts, tokens, out), where `real`."""

    def hook(module: torch.nn.Linear, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        made = fitted_map(inputs[0][real], wanted[real])
        module.weight.copy_(made.weight)
        module.bias.copy_(made.bias)
        return torch.nn.functional.linear(inputs[0], module.weight, module.bias)

    return hook


def fitted_map(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.nn.Linear:
    """The linear map with bias from rows (n, width) to rows (n, hidden), by least squares."""
    x_mean, y_mean = inputs.mean(dim=0), outputs.mean(dim=0)
    x, y = inputs - x_mean, outputs - y_mean
    moments = (x.T @ x).double()
    moments += RIDGE * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    weight = torch.linalg.solve(moments, (x.T @ y).double()).T.float()
    made = torch.nn.Linear(inputs.shape[1], outputs.shape[1])
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(y_mean - weight @ x_mean)
    return made
