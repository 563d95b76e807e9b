"""The file that a tool is asked about, checked before the tool is: there, whole, not compiled."""

from __future__ import annotations

from pathlib import Path

from converters.model_files import read_onnx
from converters.placement.targets import ONNX, TFLITE, Target
from converters.placement.tflite_graph import custom_operators
from edge_runtime.errors import InputError


def check_regular(path: Path) -> None:
    """It is a file.

    Raises:
        InputError: it is not there, or a folder, a pipe or the like.
    """
    if not path.exists():
        raise InputError(f"model {path}: no such file")
    if not path.is_file():
        raise InputError(f"model {path}: is no regular file")


def check_given(path: Path, wanted: Target, name: str) -> None:
    """The tool `name`, which is `wanted`, may be asked about the file at `path`.

    Raises:
        InputError: it is of another format, is not there, is not whole, has no operators, or is
            what the tool has made already.
    """
    if path.suffix not in wanted.formats:
        raise InputError(f"{path.name}: {name} takes {' or '.join(wanted.formats)} files")
    check_regular(path)
    if path.suffix == ONNX and not read_onnx(path).graph.node:
        raise InputError(f"model {path.name}: it has no operators")
    if path.suffix == TFLITE and is_compiled(path, wanted):
        raise InputError(f"{path.name}: {name} has compiled it already; place what it was made of")


def is_compiled(path: Path, wanted: Target) -> bool:
    """Whether the file is what the tool makes.

    Raises:
        InputError: it is not a whole .tflite file, where that has to be looked at.
    """
    if path.suffix == TFLITE:
        return wanted.custom in custom_operators(path)
    return bool(wanted.made) and path.suffix == wanted.made
