"""A narrower encoder starts from its teacher's weights, is saved and loaded, and learns."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, DistilBertConfig, ElectraConfig, MPNetConfig

from converters.anatomy import keep_layers, layers_of
from converters.data import Dataset, Rows
from converters.distil.narrow import fitted_map, narrow, principal
from converters.model import Artifact, Job, TextModel
from converters.network import TextNetwork, load_encoder, mean_pool, new_head, save_encoder
from edge_runtime.errors import InputError
from tests.converters.small import rows

SMALL = {"vocab_size": 300, "num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64,
         "intermediate_size": 96, "max_position_embeddings": 70}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**SMALL),
    "electra": ElectraConfig(**SMALL, embedding_size=48),
    "electra, embeddings as wide": ElectraConfig(**SMALL, embedding_size=64),
    "distilbert": DistilBertConfig(
        vocab_size=300, n_layers=2, n_heads=8, dim=64, hidden_dim=96, max_position_embeddings=70
    ),
}
TEXTS = tuple(row["text"] for row in rows("calibration")[:64])


def a_little_trained(config: Any) -> Any:
    """Random weights, but with states that lie near 40 of the 64 directions."""
    torch.manual_seed(1)
    encoder = AutoModel.from_config(deepcopy(config), attn_implementation="eager").eval()
    basis, _ = torch.linalg.qr(torch.randn(64, 40))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() == 1 and "LayerNorm" not in name and "layer_norm" not in name:
                parameter.normal_(std=0.1)
            elif parameter.dim() == 2:
                parameter.mul_(4)
                if parameter.shape[0] == 64 and "query" not in name:
                    parameter.copy_(basis @ basis.T @ parameter)
                if parameter.shape[1] == 64 and "embeddings" in name:
                    parameter.copy_(parameter @ basis @ basis.T)
    return encoder


@pytest.fixture
def job(job_with: Any) -> Job:
    found: Job = job_with(TEXTS)
    return found


@pytest.fixture
def job_with(workshop: Path, board: Any, tmp_path: Path) -> Any:
    from converters.cache import Cache
    from converters.progress import Silent
    from converters.recipe import load_recipe

    def make(texts: tuple[str, ...]) -> Job:
        some = Rows(Path("some"), texts, None, "some")
        data = Dataset(None, some, some, ())
        recipe = load_recipe(workshop / "recipe.toml")
        return Job(recipe, board, data, Cache(tmp_path), Silent(), tmp_path)

    return make


@pytest.fixture
def model(workshop: Path, tmp_path: Path) -> TextModel:
    """Only its tokenizer counts; ids beyond the small table are wrapped around."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(workshop / "encoder" / "tokenizer.json"))
    document = json.loads(tokenizer.to_str())
    document["model"]["vocab"] = {
        token: place for token, place in document["model"]["vocab"].items() if place < 300
    }
    document["padding"] = document["truncation"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    from converters.source import Source

    source = Source("some", workshop, "", "bert", 64, 8, 64, 0, 300, "")
    return TextModel(source, Artifact.of(path), workshop, "")


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 300, (8, 12), generator=torch.Generator().manual_seed(3))
    return ids, torch.ones_like(ids)


def pooled(encoder: Any) -> torch.Tensor:
    ids, mask = tokens()
    with torch.no_grad():
        return mean_pool(encoder(input_ids=ids, attention_mask=mask)[0], mask)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_comes_back_as_it_was_saved(
    name: str, job: Job, model: TextModel, tmp_path: Path
) -> None:
    encoder = a_little_trained(CONFIGS[name])
    done = narrow(TextNetwork(encoder, new_head(64, 3)), 32, model, job)
    made: Any = done.encoder
    assert made.config.hidden_size == 32
    assert [layer.shape for layer in layers_of(made)] == [one.shape for one in layers_of(encoder)]
    save_encoder(made, tmp_path / "saved")
    torch.testing.assert_close(pooled(load_encoder(tmp_path / "saved")), pooled(made))
    assert done.head is not None
    assert done.head(pooled(made)).shape == (8, 3)


def test_it_starts_near_the_teacher_and_far_from_chance(job: Job, model: TextModel) -> None:
    encoder = a_little_trained(CONFIGS["bert"])
    torch.manual_seed(7)
    head = new_head(64, 3)
    wanted = pooled(encoder) @ head.weight.detach().T
    centred = wanted - wanted.mean(0)
    for width, floor in ((32, 0.5), (48, 0.8)):
        done = narrow(TextNetwork(deepcopy(encoder), head), width, model, job)
        assert done.head is not None
        told = pooled(done.encoder) @ done.head.weight.T
        told = told - told.mean(0)
        cosine = torch.nn.functional.cosine_similarity(told.flatten(), centred.flatten(), dim=0)
        assert cosine > floor, (width, cosine)


def test_a_pruned_encoder_keeps_its_layers(job: Job, model: TextModel) -> None:
    encoder = a_little_trained(CONFIGS["bert"])
    keep_layers(encoder, [1])
    done: Any = narrow(TextNetwork(encoder, None), 16, model, job).encoder
    assert len(layers_of(done)) == 1
    assert layers_of(done)[0].heads == 8


@pytest.mark.parametrize("width", [20, 64, 4, 128])
def test_a_width_that_heads_do_not_fit_is_refused(width: int, job: Job, model: TextModel) -> None:
    encoder = a_little_trained(CONFIGS["bert"])
    with pytest.raises(InputError, match=f"width is {width}; expected a multiple of 8.* below 64"):
        narrow(TextNetwork(encoder, None), width, model, job)


def test_mpnet_is_refused(job: Job, model: TextModel) -> None:
    encoder = AutoModel.from_config(MPNetConfig(**SMALL)).eval()
    with pytest.raises(InputError, match="'mpnet' cannot be made narrower"):
        narrow(TextNetwork(encoder, None), 32, model, job)


def test_principal_directions_hold_what_varies() -> None:
    noise = torch.Generator().manual_seed(2)
    axes, _ = torch.linalg.qr(torch.randn(10, 3, generator=noise))
    states = torch.randn(4, 6, 3, generator=noise) @ axes.T
    mask = torch.ones(4, 6)
    mask[0, 3:] = 0
    states[0, 3:] = 1e3
    basis = principal([states], mask, 3)
    torch.testing.assert_close(basis @ basis.T, axes @ axes.T, atol=1e-4, rtol=1e-4)


def test_a_fitted_map_finds_the_map() -> None:
    noise = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(7, 4, generator=noise), torch.randn(7, generator=noise)
    inputs = torch.randn(200, 4, generator=noise) + 3
    made = fitted_map(inputs, inputs @ weight.T + bias)
    torch.testing.assert_close(made.weight, weight, atol=0.02, rtol=0.02)
    torch.testing.assert_close(made(inputs), inputs @ weight.T + bias, atol=0.05, rtol=0.02)
