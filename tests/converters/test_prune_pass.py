"""The pass on a small real network and real texts, down to the engines."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.anatomy import ROLES, layers_of
from converters.cache import Cache
from converters.data import load_dataset
from converters.encoding import Encoded, encode, load_tokenizer
from converters.export.litert import export_litert
from converters.export.onnx import export_onnx
from converters.fuse import fuse_onnx
from converters.model import Job, TextModel
from converters.network import (
    HEAD_FILE,
    TextNetwork,
    load_encoder,
    load_network,
    new_head,
    save_encoder,
    save_head,
)
from converters.ort import open_session
from converters.pipeline import begin
from converters.progress import Silent
from converters.prune.config import PruneConfig
from converters.prune.parts import PARTS, cut
from converters.prune.prune import prune, texts_for
from converters.prune.stream import enter
from converters.prune.structured import Method, prune_layers
from converters.quantize import quantizer
from converters.recipe import load_recipe
from edge_runtime.errors import InputError
from edge_runtime.profile import load_profile
from tests.converters.engines import litert_answers, onnx_answers, onnx_batch, torch_answers
from tests.converters.small import CLASSES, HEADS, HIDDEN, MAX_LENGTH

NEURONS = PruneConfig("neurons", 0.5, "obs", "uniform", "", True, 256, 32)
HALF_HEADS = replace(NEURONS, parts="heads")
WEIGHTS = replace(NEURONS, parts="weights")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that meet after each tiny product cost more than they save."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("converters.prune.prune.host_threads", lambda: 1)
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def make_job(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Job]:
    """A job with a cache of its own."""
    recipe = load_recipe(workshop / "recipe.toml")
    data = load_dataset(recipe.data, recipe.task)
    profile = load_profile(str(workshop / "board.toml"))

    def make() -> Job:
        folder = tmp_path_factory.mktemp("prune")
        return Job(recipe, profile, data, Cache(folder / "cache"), Silent(), folder / "out")

    return make


@pytest.fixture(scope="module")
def job(make_job: Callable[[], Job]) -> Job:
    return make_job()


@pytest.fixture(scope="module")
def model(job: Job, tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """The small encoder with a head of random weights."""
    folder = tmp_path_factory.mktemp("head")
    torch.manual_seed(4)
    save_head(new_head(HIDDEN, len(CLASSES)), folder)
    return replace(begin(job.recipe, job.data, job.cache), head=folder / HEAD_FILE, classes=CLASSES)


def with_encoder(model: TextModel, folder: Path, change: Callable[[Any], None]) -> TextModel:
    """The model with a changed encoder, saved in `folder`."""
    encoder = load_encoder(model.encoder)
    with torch.no_grad():
        change(encoder)
    return replace(model, encoder=folder, encoder_sha256=save_encoder(encoder, folder))


def figure(figures: Any, name: str) -> Any:
    return figures[name]


def shapes(model: TextModel) -> list[tuple[int, int]]:
    return [(one.heads, one.shape.intermediate) for one in layers_of(load_encoder(model.encoder))]


def test_neurons_and_heads_are_gone_from_the_files(model: TextModel, job: Job) -> None:
    fewer, figures = prune(model, NEURONS, job)
    both, more = prune(fewer, HALF_HEADS, job)
    assert shapes(both) == [(HEADS // 2, HIDDEN)] * 2
    described = json.loads((both.encoder / "config.json").read_text())
    assert described["edge_layers"] == [{"heads": HEADS // 2, "intermediate": HIDDEN}] * 2
    assert (figures["before"], figures["after"]) == (4 * HIDDEN, 2 * HIDDEN)
    assert figures["parameters_after"] == more["parameters_before"]
    per_neuron = 2 * HIDDEN + 1
    gone = figure(figures, "parameters_before") - figure(figures, "parameters_after")
    assert (
        gone
        == 2 * HIDDEN * per_neuron
        == 2 * HIDDEN * PARTS["neurons"].parameters(layers_of(load_encoder(model.encoder))[0])
    )
    assert (both.head, both.tokenizer, both.classes) == (model.head, model.tokenizer, CLASSES)
    assert both.encoder_sha256 not in (fewer.encoder_sha256, model.encoder_sha256)


@pytest.mark.parametrize("config", [NEURONS, HALF_HEADS], ids=lambda one: one.parts)
def test_the_refit_makes_good_for_most_of_what_was_lost(
    config: PruneConfig, model: TextModel, job: Job
) -> None:
    _, best = prune(model, config, job)
    _, plain = prune(model, replace(config, criterion="l2", reconstruct=False), job)
    assert 1 - figure(best, "cosine_mean") < 0.2 * (1 - figure(best, "cosine_mean_without_refit"))
    assert 1 - figure(best, "cosine_mean") < 0.1 * (1 - figure(plain, "cosine_mean"))
    assert figure(best, "cosine_min") <= figure(best, "cosine_mean")
    assert figure(best, "agreement") >= 0.8
    assert best["held_texts"] == len(job.data.calibration) // 5


def test_what_held_texts_say_is_not_fitted_to_them(job: Job) -> None:
    fit, held = texts_for(NEURONS, job)
    assert not set(fit.texts) & set(held.texts)
    assert len(fit) + len(held) == len(job.data.calibration)
    richer = replace(job, data=replace(job.data, unlabelled=job.data.train))
    more, same = texts_for(replace(NEURONS, rows=100), richer)
    assert len(more) == 100
    assert (same.texts, more.sha256 != fit.sha256) == (held.texts, True)


def test_the_same_pass_gives_the_same_bytes(model: TextModel, make_job: Callable[[], Job]) -> None:
    config = replace(NEURONS, allocate="sensitivity")
    first, second = (prune(model, config, make_job()) for _ in range(2))
    assert first[0].encoder_sha256 == second[0].encoder_sha256
    assert first[0].encoder != second[0].encoder
    assert first[1] == second[1]


@pytest.mark.parametrize("config", [NEURONS, HALF_HEADS, WEIGHTS], ids=lambda one: one.parts)
def test_by_sensitivity_the_layer_that_matters_less_loses_more(
    config: PruneConfig, model: TextModel, job: Job, tmp_path: Path
) -> None:
    def dull(encoder: Any) -> None:
        for role in ("output", "down"):
            layers_of(encoder)[0].linear(role).weight.mul_(0.02)

    changed = with_encoder(model, tmp_path / "dull", dull)
    _, figures = prune(changed, replace(config, allocate="sensitivity"), job)
    first, second = figure(figures, "layers")
    assert first["after"] < second["after"]
    share = figures["after"] / figures["before"]  # type: ignore[operator]
    assert share == pytest.approx(0.5, abs=0.02)
    ratios, losses = zip(*first["sensitivity"], strict=True)
    assert ratios[0] == losses[0] == 0
    assert losses[-1] < second["sensitivity"][-1][1]


def test_at_least_one_head_and_one_multiple_stay(model: TextModel, job: Job) -> None:
    fewer, _ = prune(model, replace(NEURONS, ratio=1.0), job)
    least, _ = prune(fewer, replace(HALF_HEADS, ratio=1.0), job)
    assert shapes(least) == [(1, 32)] * 2


def test_half_of_every_layer_is_zero_and_the_graph_keeps_its_shape(
    model: TextModel, job: Job
) -> None:
    thin, figures = prune(model, WEIGHTS, job)
    assert shapes(thin) == shapes(model)
    for layer in layers_of(load_encoder(thin.encoder)):
        for role in ROLES:
            assert float((layer.linear(role).weight == 0).double().mean()) == pytest.approx(0.5)
    assert figure(figures, "packed_bytes_after") < 0.75 * figure(figures, "packed_bytes_before")
    assert figure(figures, "cosine_mean") > figure(figures, "cosine_mean_without_refit")


@pytest.mark.parametrize("criterion", ["obs", "activation", "l1"])
def test_two_of_every_four_are_zero(criterion: str, model: TextModel, job: Job) -> None:
    thin, _ = prune(model, replace(WEIGHTS, pattern="2:4", criterion=criterion), job)
    for layer in layers_of(load_encoder(thin.encoder)):
        for role in ROLES:
            fours = layer.linear(role).weight.reshape(-1, 4)
            assert bool(((fours == 0).sum(1) == 2).all())


def test_a_global_threshold_takes_more_where_weights_are_small(
    model: TextModel, job: Job, tmp_path: Path
) -> None:
    def weaken(encoder: Any) -> None:
        for role in ROLES:
            layers_of(encoder)[1].linear(role).weight.mul_(0.5)

    changed = with_encoder(model, tmp_path / "weak", weaken)
    _, figures = prune(changed, replace(WEIGHTS, criterion="l1", allocate="global"), job)
    first, second = figure(figures, "layers")
    assert second["after"] < 0.8 * first["after"]
    assert figures["after"] / figures["before"] == pytest.approx(0.5, abs=0.001)  # type: ignore[operator]


def tiny_encoder(architecture: str, folder: Path) -> Any:
    """An encoder of that architecture with random weights, as `load_encoder` gives it."""
    from transformers import CONFIG_MAPPING, AutoModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2,
                             "num_attention_heads": 4, "intermediate_size": 128}  # fmt: skip
    if architecture == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
    sizes |= {"vocab_size": 90, "max_position_embeddings": 40, "initializer_range": 0.2}
    torch.manual_seed(8)
    network = AutoModel.from_config(CONFIG_MAPPING[architecture](**sizes))
    network.save_pretrained(folder)
    return load_encoder(folder)


def some_texts() -> tuple[Encoded, ...]:
    rng = np.random.default_rng(2)
    ids = [rng.integers(5, 90, size=(1, length)) for length in range(3, 30)]
    return tuple(Encoded(one, np.ones_like(one)) for one in ids)


@pytest.mark.parametrize("architecture", ["distilbert", "electra", "roberta", "mpnet", "bert"])
def test_every_known_architecture_is_pruned_saved_and_fused(
    architecture: str, tmp_path: Path
) -> None:
    encoder = tiny_encoder(architecture, tmp_path / "whole")
    texts = some_texts()
    whole = torch_answers(TextNetwork(encoder, None), texts)
    batches = enter(encoder, texts, size=4, pad_id=1)
    method = Method("obs", True)
    keep = {"neurons": [96, 64], "heads": [3, 1]}
    for name in ["neurons"] if architecture == "mpnet" else list(keep):
        prune_layers(encoder, PARTS[name], keep[name], method, batches, lambda: None)
    save_encoder(encoder, tmp_path / "pruned")
    network = TextNetwork(load_encoder(tmp_path / "pruned"), None).eval()
    answers = torch_answers(network, texts)
    assert np.abs(answers - torch_answers(TextNetwork(encoder, None), texts)).max() == 0
    assert np.abs(answers - whole).max() > 0
    plain = export_onnx(network, opset=17)
    fused, counts = fuse_onnx(plain, architecture=architecture, heads=4, hidden=32)
    assert counts.get("Attention", 0) == (0 if architecture in ("distilbert", "mpnet") else 2)
    assert np.abs(onnx_answers(fused, texts) - answers).max() < 1e-4


def test_heads_that_share_a_position_bias_are_refused(
    model: TextModel, job: Job, tmp_path: Path
) -> None:
    tiny_encoder("mpnet", tmp_path / "mpnet")
    shared = replace(model, encoder=tmp_path / "mpnet", encoder_sha256="0" * 64)
    with pytest.raises(InputError, match="share one relative position bias"):
        prune(shared, HALF_HEADS, job)


@pytest.fixture(scope="module")
def wide(
    model: TextModel, job: Job, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextModel, TextModel]:
    """A network with much to lose, and what is left: layers of unlike heads and neurons."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(9)
    config = BertConfig(
        vocab_size=12_000, hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=8,
        intermediate_size=1024, max_position_embeddings=64, initializer_range=0.05,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    whole = replace(
        model, encoder=folder, encoder_sha256="1" * 64, source=replace(model.source, heads=8)
    )

    def unlike(encoder: Any) -> None:
        for layer, heads in zip(layers_of(encoder), (2, 5, 8), strict=True):
            cut(layer, PARTS["heads"], torch.arange(heads))

    uneven = with_encoder(whole, folder / "uneven", unlike)
    narrow, _ = prune(uneven, replace(NEURONS, ratio=0.75), job)
    return whole, narrow


def onnx_of(model: TextModel) -> tuple[bytes, bytes]:
    """Plain and fused."""
    plain = export_onnx(load_network(model.encoder, model.head), opset=17)
    fused, counts = fuse_onnx(plain, architecture="bert", heads=model.source.heads, hidden=HIDDEN)
    assert counts["Attention"] == 3
    return plain, fused


def test_engines_answer_as_torch_does_and_int8_comes_close(
    wide: tuple[TextModel, TextModel], model: TextModel, job: Job
) -> None:
    _, narrow = wide
    network = load_network(narrow.encoder, narrow.head)
    tokenizer = load_tokenizer(model.tokenizer.path, max_length=MAX_LENGTH)
    texts = encode(tokenizer, job.data.calibration.texts[:12])
    expected = torch_answers(network, texts)
    plain, fused = onnx_of(narrow)
    for graph in (plain, fused):
        assert np.abs(onnx_answers(graph, texts) - expected).max() < 1e-4
        assert np.abs(onnx_batch(graph, texts) - expected).max() < 1e-4
    int8 = quantizer("onnxruntime", "dynamic_w8_channel")(fused, texts).model
    assert len(int8) < 0.4 * len(fused)
    assert np.abs(onnx_answers(int8, texts) - expected).max() < 0.1 * np.abs(expected).max()
    tflite = export_litert(network, lengths=(MAX_LENGTH,))
    assert np.abs(litert_answers(tflite, texts, (MAX_LENGTH,)) - expected).max() < 1e-4


def test_the_exported_graph_is_smaller_and_faster(wide: tuple[TextModel, TextModel]) -> None:
    whole, narrow = ((onnx_of(one)[1], list[float]()) for one in wide)
    assert len(narrow[0]) < len(whole[0]) - 4 * 3 * 0.75 * 1024 * 2 * HIDDEN
    ids = np.ones((4, MAX_LENGTH), dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids}
    sessions = [open_session(one) for one, _ in (whole, narrow)]
    for _ in range(30):  # in turn, so that both see the same machine
        for session, (_, times) in zip(sessions, (whole, narrow), strict=True):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - start)
    assert statistics.median(narrow[1]) < 0.75 * statistics.median(whole[1])
