"""A small residual network loses channels: fewer parameters, a smaller and faster graph."""

from __future__ import annotations

import io
import statistics
import time
from typing import Any

import numpy as np
import pytest
import torch

from converters.ort import open_session
from converters.prune.channels import prune_channels
from converters.quiet import quiet
from edge_runtime.errors import InputError

pytest.importorskip("torch_pruning")
SIDE, CLASSES = 48, 7
EXAMPLE = torch.zeros(1, 3, SIDE, SIDE)


class Block(torch.nn.Module):
    """Two convolutions beside a residual, which ties the channels of all blocks together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(width)
        self.depthwise = torch.nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.second = torch.nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.second(self.depthwise(torch.relu(self.norm(self.first(x)))))
        return torch.relu(x + inner)


class Net(torch.nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = torch.nn.Sequential(Block(width), Block(width))
        self.head = torch.nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.blocks(self.stem(x)).mean((2, 3))
        logits: torch.Tensor = self.head(pooled)
        return logits


class Untraceable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("only on Tuesdays")


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def parameters(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def onnx_of(module: torch.nn.Module) -> bytes:
    out: Any = io.BytesIO()
    with quiet():
        torch.onnx.export(module, (EXAMPLE,), out, input_names=["x"], opset_version=17,
                          dynamo=False)  # fmt: skip
    data: bytes = out.getvalue()
    return data


def test_half_the_channels_make_a_smaller_and_faster_graph_of_the_same_interface(net: Net) -> None:
    before = parameters(net)
    pruned = prune_channels(net, EXAMPLE, ratio=0.5)
    assert parameters(net) == before, "the network itself stays as it is"
    assert parameters(pruned) < 0.35 * before
    plain, small = onnx_of(net), onnx_of(pruned)
    assert len(small) < 0.4 * len(plain)
    sessions = [open_session(plain), open_session(small)]
    x = np.random.default_rng(0).normal(size=EXAMPLE.shape).astype(np.float32)
    answers = [session.run(None, {"x": x})[0] for session in sessions]
    assert answers[0].shape == answers[1].shape == (1, CLASSES)
    with torch.inference_mode():
        assert np.abs(answers[1] - pruned(torch.from_numpy(x)).numpy()).max() < 1e-4
    times: list[list[float]] = [[], []]
    for _ in range(30):  # in turn, so that both see the same machine
        for session, spent in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, {"x": x})
            spent.append(time.perf_counter() - start)
    assert statistics.median(times[1]) < 0.8 * statistics.median(times[0])


def test_what_is_left_is_the_next_lower_multiple(net: Net) -> None:
    pruned: Any = prune_channels(net, EXAMPLE, ratio=0.3, round_to=16, criterion="l1")
    widths = {one.out_channels for one in pruned.modules() if isinstance(one, torch.nn.Conv2d)}
    assert widths == {32}


def test_weak_channels_go_and_strong_ones_stay() -> None:
    torch.manual_seed(1)
    weak: Any = Net().eval()
    block = weak.blocks[0]
    with torch.no_grad():
        for convolution in (block.first, block.norm, block.depthwise):
            convolution.weight[::2] = 0
        block.second.weight[:, ::2] = 0
    pruned: Any = prune_channels(weak, EXAMPLE, ratio=0.5)
    assert pruned.blocks[0].norm.weight.shape == (32,)
    assert bool((pruned.blocks[0].norm.weight > 0).all())


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"ratio": 1.0}, "below 1, got 1.0"), ({"criterion": "luck"}, "got 'luck'")],
)
def test_a_wrong_choice_is_refused(net: Net, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prune_channels(net, EXAMPLE, **({"ratio": 0.5} | changed))


def test_a_network_that_cannot_run_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"Untraceable cannot be traced \(only on Tuesdays"):
        prune_channels(Untraceable(), EXAMPLE, ratio=0.5)
