"""Small Keras models and SavedModels, made where TensorFlow is: `python keras_models.py FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers
SIX = [tf.TensorSpec((None, 6), tf.float32, name="x")]


def cnn() -> Any:
    """A picture, NHWC, to ten probabilities."""
    x = image = keras.Input((32, 32, 3), name="image")
    for channels in (8, 16):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def autoencoder() -> Any:
    """A Sequential model; its output has the name of its last layer."""
    narrow = [layers.Dense(size, activation="relu") for size in (32, 8, 32)]
    return keras.Sequential([keras.Input((64,), name="frame"), *narrow, layers.Dense(64, name="y")])


def dscnn() -> Any:
    """Depthwise convolutions and batch normalization, as for keyword spotting."""
    x = mfcc = keras.Input((49, 10, 1), name="mfcc")
    x = layers.Conv2D(16, (10, 4), strides=2, padding="same")(x)
    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 1)(x)))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(mfcc, layers.Dense(12, name="logits")(x))


def two() -> Any:
    """Two inputs, a dict of two outputs, exact GELU and a layer norm."""
    left, right = keras.Input((16,), name="left"), keras.Input((4, 4), name="right")
    y = layers.LayerNormalization()(layers.Dense(8)(layers.Flatten()(right)))
    z = layers.Concatenate()([layers.Dense(8, activation="gelu")(left), y])
    answers = {"score": layers.Dense(1, activation="sigmoid")(z), "embedding": layers.Dense(4)(z)}
    return keras.Model([left, right], answers)


def lstm() -> Any:
    """Steps through time."""
    series = keras.Input((20, 4), name="series")
    return keras.Model(series, layers.Dense(3, name="next")(layers.LSTM(8)(series)))


def free() -> Any:
    """Height and width of the picture are free."""
    image = keras.Input((None, None, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    return keras.Model(image, layers.Dense(2, name="logits")(x))


def eight() -> Any:
    """A fixed batch of eight."""
    rows = keras.Input((4,), batch_size=8, name="rows")
    return keras.Model(rows, layers.Dense(2)(rows))


def code() -> Any:
    """A layer that carries Python code."""
    rows = keras.Input((4,), name="rows")
    return keras.Model(rows, layers.Lambda(lambda x: x * 2, name="twice")(rows))


@keras.saving.register_keras_serializable("tests")
class Own(keras.layers.Layer):  # type: ignore[misc]
    """A layer that Keras does not know."""

    def call(self, x: Any) -> Any:
        return x + 1


def own() -> Any:
    """A layer of one's own."""
    rows = keras.Input((4,), name="rows")
    return keras.Model(rows, Own(name="mine")(rows))


class Plain(tf.Module):  # type: ignore[misc]
    """A SavedModel that Keras had no part in."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(tf.random.stateless_normal((6, 3), (1, 2)))

    @tf.function(input_signature=SIX)  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        """(batch, 6) → (batch, 3)."""
        return tf.nn.tanh(x @ self.weight)


class Writes(tf.Module):  # type: ignore[misc]
    """A SavedModel that writes a file when it is run."""

    @tf.function(input_signature=SIX)  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        """(batch, 6) → (batch, 6)."""
        tf.io.write_file("/tmp/edge-runtime-was-here", "x")
        return x + 1.0


MAKERS: tuple[Callable[[], Any], ...] = (
    cnn, autoencoder, dscnn, two, lstm, free, eight, code, own,
)  # fmt: skip


def trained(model: Any, random: np.random.Generator) -> Any:
    """`model` with statistics and biases that are not the ones of a fresh layer."""
    for one in model.weights:
        if one.path.endswith(("gamma", "moving_variance")):
            one.assign(random.uniform(0.5, 2, one.shape))
        elif one.path.endswith(("beta", "bias", "moving_mean")):
            one.assign(random.normal(0, 0.3, one.shape))
    return model


def main(folder: Path) -> None:
    """Write them all into `folder`."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    for make in MAKERS:
        model = trained(make(), random)
        model.save(folder / f"{make.__name__}.keras")
        if make is two:
            model.export(folder / "two_saved", verbose=False)
        if make in (dscnn, code):
            model.save(folder / f"{make.__name__}.h5")
    tf.saved_model.save(Plain(), folder / "plain_saved")
    tf.saved_model.save(Writes(), folder / "writes_saved")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
