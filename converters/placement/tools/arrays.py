"""Arrays by name in an .npz file, as both sides of a tool's process read and write them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.errors import InputError


def load(path: str) -> dict[str, Any]:
    """All arrays of the file.

    Raises:
        InputError: it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as reason:
        raise InputError(f"{path}: no arrays can be read ({reason})") from None


def save(path: str, arrays: Mapping[str, Any]) -> None:
    """Write them. A name may be any text, "file" too, which `np.savez` keeps to itself."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
