"""Train a small convolutional network in Keras and save it as `.keras`; runs where TensorFlow is.

The network takes `pixel_values`, (batch, 32, 32, 1) in −1..1, and gives `logits`, (batch, 36).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from converters.progress import Terminal
from converters.quiet import quiet
from examples.workbench import write_report

with quiet():  # TensorFlow greets
    import keras

EPOCHS = 7
BATCH = 64
LR = 2e-3


def network(classes: int, shape: tuple[int, ...]) -> keras.Model:
    """Five 3 × 3 convolutions, 128,000 parameters."""
    given = keras.Input(shape, name="pixel_values")
    x = given
    for at, (filters, stride) in enumerate(((24, 1), (32, 2), (48, 1), (64, 2), (128, 1))):
        x = keras.layers.Conv2D(
            filters, 3, strides=stride, padding="same", use_bias=False, name=f"conv_{at}"
        )(x)
        x = keras.layers.BatchNormalization(name=f"norm_{at}")(x)
        x = keras.layers.ReLU(name=f"relu_{at}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(given, keras.layers.Dense(classes, name="logits")(x), name="glyphs")


def main() -> int:
    """Command line: one network from the tensors."""
    parser = argparse.ArgumentParser(prog="python -m examples.glyphs.train_keras")
    parser.add_argument("--tensors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parsed = parser.parse_args()
    begin_s = time.monotonic()
    terminal = Terminal()
    keras.utils.set_random_seed(parsed.seed)
    data = np.load(parsed.tensors)
    train_x, train_y = data["train_x"], data["train_y"]
    labels = [str(one) for one in data["labels"]]
    model = network(len(labels), train_x.shape[1:])
    steps = parsed.epochs * -(-len(train_x) // BATCH)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LR, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    with terminal.count("train CNN", parsed.epochs) as advance:
        told = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs: advance(1, f"loss {logs['loss']:.3f}")
        )
        with quiet():
            model.fit(
                train_x,
                train_y,
                batch_size=BATCH,
                epochs=parsed.epochs,
                verbose=0,
                callbacks=[told],
            )
    found = model.predict(data["test_x"], batch_size=256, verbose=0).argmax(axis=1)
    accuracy = float((found == data["test_y"]).mean())
    model.save(parsed.out)
    write_report(
        parsed.out.with_suffix(".json"),
        {
            "model": parsed.out.name,
            "labels": labels,
            "accuracy": accuracy,
            "n": len(found),
            "parameters": model.count_params(),
            "train_s": round(time.monotonic() - begin_s, 1),
        },
    )
    terminal.say(f"    CNN: {accuracy:.2%} of {len(found):,} glyphs in fonts it never saw")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
