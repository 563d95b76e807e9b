"""Which format a model is in, and what opens it: one visible table, asked in order.

What a name means is told by the name and by what lies there, never by trying one loader after the
other: a damaged file of one format is not a file of another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.source import PACKAGE, find_folder
from converters.sources.interface import FloatModel
from edge_runtime.errors import InputError

KERAS = (".keras", ".h5", ".hdf5")
SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a model before it is opened. `licence` is "unknown" where nobody said."""

    model: str
    base: Path
    licence: str = "unknown"
    task: str = ""
    max_length: int = 128
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    tower: str = ""

    @property
    def path(self) -> Path:
        """Where it would be, if it is a path."""
        path = Path(self.model).expanduser()
        return path if path.is_absolute() else self.base / path


@dataclass(frozen=True, slots=True)
class Format:
    """A format: whether a model is in it, and what opens it, as an import path."""

    matches: Callable[[Asked], bool]
    opens: str


FORMATS: Mapping[str, Format] = {
    "PyTorch": Format(lambda a: ".py:" in a.model, "converters.sources.table:_entry_point"),
    "ONNX": Format(lambda a: a.path.suffix == ".onnx", "converters.sources.table:_onnx"),
    "TFLite": Format(
        lambda a: a.path.suffix in (".tflite", ".litert"), "converters.sources.table:_tflite"
    ),
    "Keras": Format(lambda a: a.path.suffix in KERAS, "converters.sources.table:_keras"),
    "SavedModel": Format(
        lambda a: any((a.path / name).is_file() for name in SAVED_MODEL),
        "converters.sources.table:_keras",
    ),
    "Hugging Face": Format(lambda a: True, "converters.sources.table:_huggingface"),
}
"""Format → how it is told and opened; the first that matches."""


def format_of(asked: Asked) -> str:
    """The name of the model's format."""
    return next(name for name, one in FORMATS.items() if one.matches(asked))


def open_model(asked: Asked) -> FloatModel:
    """The model, opened.

    Raises:
        InputError: it is not there, damaged, or of a kind that is not supported; says what.
    """
    name = format_of(asked)
    if name not in ("Hugging Face", "PyTorch") and not asked.path.exists():
        raise InputError(f"model {asked.model}: no such file ({asked.path})")
    if name == "Hugging Face" and asked.path.is_file():
        known = ", ".join((".onnx", ".tflite", *KERAS))
        raise InputError(
            f"model {asked.model}: a file of another format; expected {known}, "
            "FILE.py:FUNCTION, or a folder of Hugging Face's or a SavedModel"
        )
    module, _, function = FORMATS[name].opens.partition(":")
    opened: FloatModel = getattr(importlib.import_module(module), function)(asked)
    return opened


def _entry_point(asked: Asked) -> FloatModel:
    from converters.sources.entry_point import open_entry_point

    return open_entry_point(asked.model, asked.base, licence=asked.licence)


def _onnx(asked: Asked) -> FloatModel:
    from converters.sources.onnx_file import open_onnx

    return open_onnx(asked.path, shapes=asked.shapes, licence=asked.licence)


def _tflite(asked: Asked) -> FloatModel:
    from converters.sources.tflite_file import open_tflite

    return open_tflite(asked.path, shapes=asked.shapes, licence=asked.licence)


def _keras(asked: Asked) -> FloatModel:
    from converters.sources.keras import open_keras

    return open_keras(asked.path, shapes=asked.shapes, task=asked.task, licence=asked.licence)


def _huggingface(asked: Asked) -> FloatModel:
    from converters.sources.huggingface import open_huggingface

    licence: Any = "" if asked.licence == "unknown" else asked.licence
    folder = find_folder(asked.model, asked.base)
    name = asked.model.removeprefix(PACKAGE)
    return open_huggingface(
        folder,
        task=asked.task,
        name=name,
        licence=licence,
        max_length=asked.max_length,
        seconds=asked.seconds,
        tower=asked.tower,
    )
