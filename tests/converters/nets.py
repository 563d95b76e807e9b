"""Small nets that are no text encoders, trained in seconds on scikit-learn's 8 × 8 digits.

The digits are shown at 16 × 16 in three channels, (batch, 3, 16, 16) float32, so that a net has
strides, residuals and pooling as the published ones do.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IMAGE = (3, 16, 16)
TRAINED, CALIBRATED = 1200, 32


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs by name, each with a batch of one."""

    feeds: Mapping[str, npt.NDArray[Any]]

    def tensors(self) -> Mapping[str, npt.NDArray[Any]]:
        return self.feeds


@cache
def digits() -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Images, (1797, 3, 16, 16) within -1..1, and labels, in an order of no meaning."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    small = (images.reshape(-1, 8, 8) / 8 - 1).astype(np.float32)[order]
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    tinted = large[:, None] * np.array([1.0, 0.7, 0.4], np.float32)[:, None, None]
    return tinted, labels[order]


def calibration() -> tuple[Sample, ...]:
    """Images that were trained on, one by one."""
    return tuple(Sample({"image": image[None]}) for image in digits()[0][:CALIBRATED])


def held_out() -> tuple[FloatArray, npt.NDArray[np.int64]]:
    images, labels = digits()
    return images[TRAINED:], labels[TRAINED:]


def accuracy(answers: FloatArray) -> float:
    """Share of the held-out digits that are named rightly."""
    return float((answers.argmax(axis=1) == held_out()[1]).mean())


def mobile_net() -> Any:
    """Depthwise separable, inverted residuals, ReLU6, batch norms."""
    from torch import nn

    class Inverted(nn.Module):
        def __init__(self, wide: int, out: int, stride: int) -> None:
            super().__init__()
            mid = wide * 4
            self.body = nn.Sequential(
                nn.Conv2d(wide, mid, 1, bias=False), nn.BatchNorm2d(mid), nn.ReLU6(),
                nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False),
                nn.BatchNorm2d(mid), nn.ReLU6(),
                nn.Conv2d(mid, out, 1, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip
            self.residual = stride == 1 and wide == out

        def forward(self, x: Any) -> Any:
            return x + self.body(x) if self.residual else self.body(x)

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
        Inverted(16, 16, 2), Inverted(16, 24, 1), Inverted(24, 24, 1), Inverted(24, 32, 2),
        nn.Conv2d(32, 96, 1), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def res_net() -> Any:
    """Residual blocks, a max pool, a concatenation, a sigmoid gate."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, wide: int, out: int, stride: int) -> None:
            super().__init__()
            self.one = nn.Conv2d(wide, out, 3, stride, 1)
            self.norm = nn.BatchNorm2d(out)
            self.two = nn.Conv2d(out, out, 3, 1, 1)
            self.past = nn.Conv2d(wide, out, 1, stride)

        def forward(self, x: Any) -> Any:
            inner = self.two(torch.relu(self.norm(self.one(x))))
            return torch.relu(inner + self.past(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
            self.body = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 64, 2))
            self.left, self.right = nn.Conv2d(64, 32, 1), nn.Conv2d(64, 32, 1)
            self.head = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = self.body(self.stem(x))
            both = torch.cat([self.left(x), torch.sigmoid(self.right(x))], dim=1)
            return self.head(both.mean(dim=(2, 3)))

    return Net()


def vision_transformer() -> Any:
    """ViT: patches, a class token, three blocks."""
    import torch
    from torch import nn

    wide, heads = 64, 4

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.LayerNorm(wide), nn.LayerNorm(wide)
            self.query, self.key, self.value, self.out = (nn.Linear(wide, wide) for _ in range(4))
            self.up, self.down = nn.Linear(wide, 4 * wide), nn.Linear(4 * wide, wide)

        def forward(self, x: Any) -> Any:
            rows, tokens, _ = x.shape
            seen = self.before(x)
            q, k, v = (
                one(seen).reshape(rows, tokens, heads, -1).transpose(1, 2)
                for one in (self.query, self.key, self.value)
            )
            share = torch.softmax(q @ k.transpose(2, 3) / (wide // heads) ** 0.5, dim=-1)
            x = x + self.out((share @ v).transpose(1, 2).reshape(rows, tokens, wide))
            return x + self.down(nn.functional.gelu(self.up(self.after(x))))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, wide, 4, 4)
            self.token = nn.Parameter(torch.zeros(1, 1, wide))
            self.places = nn.Parameter(torch.randn(1, 17, wide) * 0.1)
            self.blocks = nn.Sequential(Block(), Block(), Block())
            self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, 10)

        def forward(self, x: Any) -> Any:
            patches = self.patches(x).flatten(2).transpose(1, 2)
            x = (
                torch.cat([self.token.expand(patches.shape[0], 1, wide), patches], dim=1)
                + self.places
            )
            return self.head(self.norm(self.blocks(x))[:, 0])

    return Net()


def dense_net() -> Any:
    """Fully connected layers only, as autoencoders and tables have them."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 16 * 16, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


NETS: Mapping[str, Callable[[], Any]] = {
    "mobile": mobile_net,
    "residual": res_net,
    "transformer": vision_transformer,
    "dense": dense_net,
}


@cache
def trained(name: str) -> Any:
    """The net of that name, in torch, after a few epochs."""
    import torch

    torch.manual_seed(0)
    net = NETS[name]()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a net waits for threads longer than it computes
    images, labels = (torch.from_numpy(one[:TRAINED]) for one in digits())
    rate, epochs = {"transformer": (3e-3, 8)}.get(name, (6e-3, 3))
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    steps = epochs * (TRAINED // 48)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(TRAINED).split(48):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    torch.set_num_threads(threads)
    return net.eval()


def as_onnx(net: Any, example: FloatArray, *, name: str = "image") -> bytes:
    """The net as ONNX, its batch free."""
    import torch

    out: Any = io.BytesIO()
    torch.onnx.export(
        net.eval(), (torch.from_numpy(example),), out, input_names=[name], output_names=["answer"],
        dynamic_axes={name: {0: "batch"}, "answer": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    return bytes(out.getvalue())


def as_litert(net: Any, example: FloatArray, *, name: str = "image") -> bytes:
    """The net as a LiteRT file for one row, its output called `answer`."""
    import tempfile
    from pathlib import Path

    import litert_torch
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, **feeds: Any) -> dict[str, Any]:
            return {"answer": self.net(feeds[name])}

    made = litert_torch.convert(Named().eval(), sample_kwargs={name: torch.from_numpy(example)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tflite"
        made.export(str(path))
        return path.read_bytes()


@cache
def onnx_of(name: str) -> bytes:
    return as_onnx(trained(name), digits()[0][:1])


@cache
def litert_of(name: str) -> bytes:
    return as_litert(trained(name), digits()[0][:1])
