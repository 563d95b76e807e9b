"""Encoders whose layers have shapes of their own are saved, and loaded as they were."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, DistilBertConfig, MPNetConfig, RobertaConfig

from converters.anatomy import (
    ROLES,
    Layer,
    LayerShape,
    keep_layers,
    layers_of,
)
from converters.network import load_encoder, save_encoder
from converters.source import SHAPES_KEY
from edge_runtime.errors import InputError

SMALL = {"vocab_size": 50, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32,
         "intermediate_size": 64, "max_position_embeddings": 20}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    "mpnet": MPNetConfig(**SMALL),
    "distilbert": DistilBertConfig(
        vocab_size=50, n_layers=3, n_heads=4, dim=32, hidden_dim=64, max_position_embeddings=20
    ),
}


@pytest.fixture(params=CONFIGS)
def encoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    model = AutoModel.from_config(deepcopy(CONFIGS[request.param]), attn_implementation="eager")
    return model.eval()


def answer(encoder: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        hidden: torch.Tensor = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    return hidden


def smaller(linear: torch.nn.Linear, out: int, inner: int) -> torch.nn.Linear:
    made = torch.nn.Linear(inner, out)
    with torch.no_grad():
        made.weight.copy_(linear.weight[:out, :inner])
    return made


def shrink(layer: Layer, heads: int, neurons: int) -> None:
    """The first `heads` heads and `neurons` neurons."""
    width, hidden = heads * layer.head_size, layer.linear("query").in_features
    sizes = {
        "query": (width, hidden),
        "key": (width, hidden),
        "value": (width, hidden),
        "output": (hidden, width),
        "up": (neurons, hidden),
        "down": (hidden, neurons),
    }
    for role in ROLES:
        layer.replace(role, smaller(layer.linear(role), *sizes[role]))
    layer.set_heads(heads)


def test_every_layer_of_every_architecture_has_its_linear_maps(encoder: Any) -> None:
    layers = layers_of(encoder)
    assert [layer.shape for layer in layers] == 3 * [LayerShape(4, 64)]
    assert [layer.head_size for layer in layers] == [8, 8, 8]
    assert all(
        isinstance(layer.linear(role), torch.nn.Linear) for layer in layers for role in ROLES
    )


def test_layers_of_different_shapes_come_back_as_they_were(encoder: Any, tmp_path: Path) -> None:
    heads = 4 if not layers_of(encoder)[0].anatomy.prunable else 2
    first, second, _ = layers_of(encoder)
    shrink(first, heads, 40)
    shrink(second, 4, 32)
    save_encoder(encoder, tmp_path)
    loaded = load_encoder(tmp_path)
    assert [layer.shape for layer in layers_of(loaded)] == [
        LayerShape(heads, 40), LayerShape(4, 32), LayerShape(4, 64),
    ]  # fmt: skip
    assert torch.equal(answer(loaded), answer(encoder))


def test_kept_layers_run_in_the_order_given(encoder: Any, tmp_path: Path) -> None:
    before = [layer.linear("up").weight.detach().clone() for layer in layers_of(encoder)]
    keep_layers(encoder, [2, 0])
    save_encoder(encoder, tmp_path)
    assert SHAPES_KEY not in json.loads((tmp_path / "config.json").read_text())
    loaded = load_encoder(tmp_path)
    after = [layer.linear("up").weight for layer in layers_of(loaded)]
    assert len(after) == 2
    assert torch.equal(after[0], before[2])
    assert torch.equal(after[1], before[0])
    assert torch.equal(answer(loaded), answer(encoder))


@pytest.mark.parametrize("kept", [[], [3], [-1]])
def test_layers_that_are_not_there_cannot_be_kept(encoder: Any, kept: list[int]) -> None:
    with pytest.raises(InputError, match=r"expected some of 0\.\.2"):
        keep_layers(encoder, kept)


@pytest.mark.parametrize(
    "entry", [[], "all", [{"heads": 2}], 3 * [{"heads": 0, "intermediate": 8}]], ids=str
)
def test_shapes_that_do_not_fit_the_layers_are_refused(tmp_path: Path, entry: object) -> None:
    torch.manual_seed(1)
    encoder: Any = AutoModel.from_config(deepcopy(CONFIGS["bert"]))
    shrink(layers_of(encoder)[0], 2, 40)
    save_encoder(encoder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {SHAPES_KEY: entry}))
    with pytest.raises(InputError, match="3 objects with heads and intermediate"):
        load_encoder(tmp_path)
