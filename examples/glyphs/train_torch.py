"""Train a network of Hugging Face's in torch and save it as a folder: weights and image processor.

Two kinds: `vit`, a vision transformer of 16 patches, and `mobilenet`, MobileNetV2 as narrow as a
picture of 32 × 32 deserves. Both see RGB as the library's processors give it, made of grey here.
Accuracy is measured through the saved folder: files to processor to network.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from converters.progress import Terminal
from converters.quiet import quiet
from examples.workbench import files_of, write_report

with quiet():  # it warns of parts that are not used here
    from transformers import (
        AutoImageProcessor,
        AutoModelForImageClassification,
        MobileNetV2Config,
        MobileNetV2ForImageClassification,
        MobileNetV2ImageProcessor,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

BATCH = 96
SIDE = 32
GREY: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
EPOCHS = {"vit": 12, "mobilenet": 10}
LR = {"vit": 1.5e-3, "mobilenet": 4e-3}


def network(kind: str, labels: list[str]) -> tuple[Any, Any]:
    """The untrained network and its image processor."""
    names = dict(enumerate(labels))
    both: dict[str, Any] = {"id2label": names, "label2id": {name: at for at, name in names.items()}}
    if kind == "vit":
        config = ViTConfig(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,
            image_size=SIDE,
            patch_size=8,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.08,  # as for its width; the library's 0.02 is for 768
            **both,
        )
        processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, **GREY)
        return ViTForImageClassification(config), processor
    narrow = MobileNetV2Config(
        image_size=SIDE,
        depth_multiplier=0.35,
        output_stride=8,
        classifier_dropout_prob=0.1,
        **both,
    )
    size = {"height": SIDE, "width": SIDE}
    return (
        MobileNetV2ForImageClassification(narrow),
        MobileNetV2ImageProcessor(size=size, do_center_crop=False, **GREY),
    )


def shifted(pixels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Each picture moved by up to two pixels, its edge repeated; (n, channels, side, side)."""
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2), mode="replicate")
    moves = torch.randint(0, 5, (len(pixels), 2), generator=random)
    at = torch.arange(SIDE)
    rows = (moves[:, :1] + at)[:, None, :, None]
    columns = (moves[:, 1:] + at)[:, None, None, :]
    places = torch.arange(len(pixels))[:, None, None, None]
    channels = torch.arange(pixels.shape[1])[None, :, None, None]
    return padded[places, channels, rows, columns]


def train(
    model: Any, x: torch.Tensor, y: torch.Tensor, *, epochs: int, lr: float, seed: int
) -> None:
    """AdamW, one warm-up epoch, then a cosine; x is (n, 1, 32, 32), grey."""
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    steps = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda at: min(1.0, (at + 1) / steps) * (1 + math.cos(math.pi * at / (steps * epochs))) / 2,
    )
    model.train()
    with Terminal().count("train", epochs * steps) as advance:
        for _ in range(epochs):
            for places in torch.randperm(len(x), generator=random).split(BATCH):
                pixels = shifted(x[places], random).expand(-1, 3, -1, -1)
                logits = model(pixel_values=pixels).logits
                loss = torch.nn.functional.cross_entropy(logits, y[places], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                advance(1, f"loss {loss.item():.3f}")
    model.eval()


def accuracy_of(folder: Path, test: Path) -> tuple[float, int]:
    """Share of the test's files that the saved folder reads right, and how many there are."""
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    files = files_of(test)
    right = 0
    with torch.inference_mode():
        for at in range(0, len(files), 256):
            some = files[at : at + 256]
            pictures = [Image.open(path).convert("RGB") for path, _ in some]
            given = processor(images=pictures, return_tensors="pt")
            found = model(**given).logits.argmax(-1)
            right += int((found == torch.tensor([place for _, place in some])).sum())
    return right / len(files), len(files)


def main() -> int:
    """Command line: one network from the tensors."""
    parser = argparse.ArgumentParser(prog="python -m examples.glyphs.train_torch")
    parser.add_argument("--tensors", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the splits")
    parser.add_argument("--kind", choices=tuple(EPOCHS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int)
    parsed = parser.parse_args()
    begin_s = time.monotonic()
    torch.manual_seed(parsed.seed)
    data = np.load(parsed.tensors)
    labels = [str(one) for one in data["labels"]]
    # (n, 32, 32, 1) in −1..1, as the processors' 0.5 and 0.5 make it too.
    x = torch.from_numpy(data["train_x"]).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(data["train_y"])
    model, processor = network(parsed.kind, labels)
    epochs = parsed.epochs or EPOCHS[parsed.kind]
    train(model, x, y, epochs=epochs, lr=LR[parsed.kind], seed=parsed.seed)
    model.save_pretrained(parsed.out)
    processor.save_pretrained(parsed.out)
    accuracy, n = accuracy_of(parsed.out, parsed.data / "test")
    write_report(
        parsed.out.with_suffix(".json"),
        {
            "model": parsed.out.name,
            "labels": labels,
            "accuracy": accuracy,
            "n": n,
            "parameters": sum(one.numel() for one in model.parameters()),
            "train_s": round(time.monotonic() - begin_s, 1),
        },
    )
    Terminal().say(f"    {parsed.kind}: {accuracy:.2%} of {n:,} glyphs in fonts it never saw")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
