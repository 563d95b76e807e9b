"""The two networks that text tasks are made of, as torch modules with a fixed interface.

An encoder turns tokens into one vector per token; the mean over the tokens that are not padding is
the embedding; a linear head on it gives the logits. Pooling stays in the graph, so an engine
returns one small tensor. Both take `input_ids` and `attention_mask`, int64 (batch, sequence).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from converters.anatomy import remember_shapes, reshape
from converters.quiet import quiet
from converters.source import SHAPES_KEY, files_digest
from edge_runtime.errors import InputError

HEAD_FILE = "head.safetensors"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def mean_pool(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(batch, sequence, hidden) → (batch, hidden): the mean over positions with mask 1."""
    keep = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1e-9)


class TextNetwork(torch.nn.Module):
    """Encoder, mean pooling and, for a classifier, a linear head.

    `forward` returns a dict with the one output, `logits` (batch, classes) or `embedding`
    (batch, hidden), because exporters take the name of an output from there.
    """

    def __init__(self, encoder: torch.nn.Module, head: torch.nn.Linear | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    @property
    def output_name(self) -> str:
        return "embedding" if self.head is None else "logits"

    def pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The embedding, (batch, hidden)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return mean_pool(hidden.float(), attention_mask)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        pooled = self.pooled(input_ids, attention_mask)
        return {self.output_name: pooled if self.head is None else self.head(pooled)}


def load_encoder(folder: Path, *, dropout: bool = False) -> Any:
    """The encoder of a Hugging Face folder, float32, in eval mode; what the library says is kept.

    Attention is the eager one: its graph is what ONNX Runtime's fusion recognizes. Without
    dropout a short fine-tuning converges as well and one step costs a third less.

    Raises:
        InputError: the files cannot be loaded, or hold other weights than the encoder's: the
            library would only warn, and go on with random ones.
    """
    with quiet():
        return _load_encoder(folder, dropout)


def _load_encoder(folder: Path, dropout: bool) -> Any:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if not dropout:
            for name in vars(config):
                if name.endswith(("dropout", "dropout_prob")):
                    setattr(config, name, 0.0)
        extra = {"add_pooling_layer": False} if config.model_type in POOLERS else {}
        if hasattr(config, SHAPES_KEY):
            return _load_pruned(folder, config, extra)
        model, info = AutoModel.from_pretrained(
            folder,
            config=config,
            attn_implementation="eager",
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            **extra,
        )
    except InputError:
        raise
    except Exception as reason:  # of the library, of its parsers, of torch: no common base
        first = (str(reason).strip().splitlines() or [type(reason).__name__])[0][:300]
        raise InputError(f"model {folder}: cannot be loaded ({first})") from None
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing:
        raise InputError(
            f"model {folder}: {len(missing)} of its weights are missing, such as {missing[0]}"
        )
    return model.eval()


def _load_pruned(folder: Path, config: Any, extra: dict[str, Any]) -> Any:
    """An encoder whose layers have shapes of their own, which the library would refuse to load."""
    from transformers import AutoModel

    encoder = AutoModel.from_config(config, attn_implementation="eager", **extra)
    reshape(encoder)
    found = encoder.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False)
    if found.missing_keys:
        raise RuntimeError(f"{len(found.missing_keys)} weights such as {found.missing_keys[0]}")
    return encoder.float().eval()


def save_encoder(encoder: Any, folder: Path) -> str:
    """Write configuration and weights so that `load_encoder` finds the same; returns the digest."""
    remember_shapes(encoder)
    with quiet():
        encoder.save_pretrained(folder)
    return files_digest([folder / CONFIG_FILE, folder / WEIGHTS_FILE])


POOLERS = ("bert", "roberta", "xlm-roberta", "camembert")
"""Architectures whose class would otherwise make a pooler that nothing here uses."""


def new_head(hidden: int, classes: int) -> torch.nn.Linear:
    """A head for `classes` classes, bias 0, weights from torch's generator."""
    head = torch.nn.Linear(hidden, classes)
    torch.nn.init.zeros_(head.bias)
    return head


def save_head(head: torch.nn.Linear, folder: Path) -> None:
    """Write the head's weight (classes, hidden) and bias (classes,) to `folder`."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / HEAD_FILE)


def load_head(folder: Path) -> torch.nn.Linear:
    """The head that `save_head` wrote."""
    tensors = load_file(folder / HEAD_FILE)
    classes, hidden = tensors["weight"].shape
    head = torch.nn.Linear(hidden, classes)
    head.load_state_dict(tensors)
    return head.eval()


def load_network(encoder: Path, head: Path | None) -> TextNetwork:
    """The network from an encoder's folder and the file of a head, in eval mode."""
    return TextNetwork(load_encoder(encoder), load_head(head.parent) if head else None).eval()
