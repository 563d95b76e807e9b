"""Train MLPerf Tiny's keyword network in Keras and save it as `.keras`; runs where TensorFlow is.

The network takes `features`, (batch, 49, 10, 1), and gives `logits`, (batch, 12).

Source: Zhang et al., "Hello Edge" (2017), DS-CNN small, as MLPerf Tiny's reference has it: a
convolution and four depthwise separable blocks of 64 channels.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.progress import Terminal
from converters.quiet import quiet
from examples.workbench import write_report

with quiet():  # TensorFlow greets
    import keras

EPOCHS = 24
BATCH = 100
LR = 2e-3
SHIFT = 2
"""Frames by which a clip is moved at random, at most."""


def network(classes: int, shape: tuple[int, ...]) -> keras.Model:
    """Some 24,000 parameters, 2.7 million products and sums."""
    layers = keras.layers
    given = keras.Input(shape, name="features")
    x = layers.Conv2D(64, (10, 4), strides=2, padding="same", use_bias=False, name="conv")(given)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    for at in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depth_{at}")(x)
        x = layers.BatchNormalization(name=f"depth_norm_{at}")(x)
        x = layers.ReLU(name=f"depth_relu_{at}")(x)
        x = layers.Conv2D(64, 1, use_bias=False, name=f"point_{at}")(x)
        x = layers.BatchNormalization(name=f"point_norm_{at}")(x)
        x = layers.ReLU(name=f"point_relu_{at}")(x)
    x = layers.Dropout(0.2, name="last_dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(given, layers.Dense(classes, name="logits")(x), name="keywords")


class Varied(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches in a new order every epoch; each clip moved in time, a few frames or cepstra blank.

    After Park et al., "SpecAugment" (2019): what is blank is the clip's own mean.
    """

    def __init__(self, x: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> None:
        super().__init__()
        self._x, self._y = x, y
        self._random = np.random.default_rng(seed)
        self._order = self._random.permutation(len(x))

    def __len__(self) -> int:
        return math.ceil(len(self._x) / BATCH)

    def __getitem__(self, at: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        places = self._order[at * BATCH : (at + 1) * BATCH]
        x = self._x[places]
        frames = x.shape[1]
        for clip in x:
            clip[:] = np.roll(clip, int(self._random.integers(-SHIFT, SHIFT + 1)), axis=0)
            width = int(self._random.integers(0, 7))
            begin = int(self._random.integers(frames - width))
            clip[begin : begin + width] = clip.mean(axis=0)
        return x, self._y[places]

    def on_epoch_end(self) -> None:
        self._order = self._random.permutation(len(self._x))


def main() -> int:
    """Command line: one network from the tensors."""
    parser = argparse.ArgumentParser(prog="python -m examples.keywords.train_dscnn")
    parser.add_argument("--tensors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parsed = parser.parse_args()
    begin_s = time.monotonic()
    terminal = Terminal()
    keras.utils.set_random_seed(parsed.seed)
    data = np.load(parsed.tensors)
    train = Varied(data["train_x"], data["train_y"], parsed.seed)
    labels = [str(one) for one in data["labels"]]
    model = network(len(labels), data["train_x"].shape[1:])
    model.compile(
        # The mean of late weights suits strangers' voices better than the last ones.
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(LR, parsed.epochs * len(train)),
            use_ema=True,
            ema_momentum=0.998,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    with terminal.count("train DS-CNN", parsed.epochs) as advance:
        told = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs: advance(1, f"loss {logs['loss']:.3f}")
        )
        with quiet():
            model.fit(train, epochs=parsed.epochs, verbose=0, shuffle=False, callbacks=[told])
    truth = data["test_y"]
    found = model.predict(data["test_x"], batch_size=256, verbose=0).argmax(axis=1)
    accuracy = float((found == truth).mean())
    model.save(parsed.out)
    write_report(
        parsed.out.with_suffix(".json"),
        {
            "model": parsed.out.name,
            "labels": labels,
            "accuracy": accuracy,
            "n": len(found),
            "of_class": {
                name: round(float((found[truth == at] == at).mean()), 4)
                for at, name in enumerate(labels)
            },
            "parameters": model.count_params(),
            "train_s": round(time.monotonic() - begin_s, 1),
        },
    )
    terminal.say(f"    DS-CNN: {accuracy:.2%} of {len(found):,} clips in voices it never heard")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
