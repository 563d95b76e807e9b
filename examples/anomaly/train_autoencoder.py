"""Train a dense autoencoder in Keras and save it as `.keras`; runs where TensorFlow is.

The network takes `features`, (batch, 128), standardized, and gives `reconstruction` of the same
shape. What it makes badly is what it never saw: the mean squared error is the score.

Source: the shape is that of MLPerf Tiny's anomaly detection (after DCASE 2020, task 2): hidden
layers of 128, a neck of 8.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.progress import Terminal
from converters.quiet import quiet
from examples.workbench import write_report

with quiet():  # TensorFlow greets
    import keras

EPOCHS = 60
BATCH = 128
LR = 1e-3
NECK = 8
QUANTILE = 0.99
"""Of the calibration's scores, all of them normal: the threshold."""


def network(width: int) -> keras.Model:
    """Three layers in, a neck, three layers out."""
    given = keras.Input((width,), name="features")
    x = given
    for at in range(3):
        x = keras.layers.Dense(128, activation="relu", name=f"into_{at}")(x)
    x = keras.layers.Dense(NECK, activation="relu", name="neck")(x)
    for at in range(3):
        x = keras.layers.Dense(128, activation="relu", name=f"out_{at}")(x)
    return keras.Model(given, keras.layers.Dense(width, name="reconstruction")(x), name="anomaly")


def scores(model: keras.Model, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean squared error of each row, (n,)."""
    made = model.predict(x, batch_size=512, verbose=0)
    found: NDArray[np.float64] = np.square(made.astype(np.float64) - x).mean(axis=1)
    return found


def auc(normal: NDArray[np.float64], ill: NDArray[np.float64]) -> float:
    """Chance that an ill row scores above a normal one; a tie counts half."""
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, ill, "left") + np.searchsorted(ordered, ill, "right")
    return float(below.mean() / 2 / len(normal))


def main() -> int:
    """Command line: one network from the tensors."""
    parser = argparse.ArgumentParser(prog="python -m examples.anomaly.train_autoencoder")
    parser.add_argument("--tensors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parsed = parser.parse_args()
    begin_s = time.monotonic()
    terminal = Terminal()
    keras.utils.set_random_seed(parsed.seed)
    data = np.load(parsed.tensors)
    train_x, test_x, kinds = data["train_x"], data["test_x"], data["test_fault"]
    model = network(train_x.shape[1])
    steps = parsed.epochs * -(-len(train_x) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(LR, steps)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss="mse")
    with terminal.count("train autoencoder", parsed.epochs) as advance:
        told = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs: advance(1, f"loss {logs['loss']:.3f}")
        )
        with quiet():
            model.fit(
                train_x,
                train_x,
                batch_size=BATCH,
                epochs=parsed.epochs,
                verbose=0,
                callbacks=[told],
            )
    threshold = float(np.quantile(scores(model, data["calibration_x"]), QUANTILE))
    found = scores(model, test_x)
    normal = found[kinds == "normal"]
    ill = found[kinds != "normal"]
    whole = auc(normal, ill)
    model.save(parsed.out)
    write_report(
        parsed.out.with_suffix(".json"),
        {
            "model": parsed.out.name,
            "auc": whole,
            "auc_of_fault": {
                str(kind): round(auc(normal, found[kinds == kind]), 4)
                for kind in sorted(set(kinds) - {"normal"})
            },
            "threshold": threshold,
            "false_alarms": float((normal > threshold).mean()),
            "found": float((ill > threshold).mean()),
            "n": len(found),
            "parameters": model.count_params(),
            "train_s": round(time.monotonic() - begin_s, 1),
        },
    )
    terminal.say(
        f"    autoencoder: AUC {whole:.3f} of {len(found):,} rows of machines it never saw"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
