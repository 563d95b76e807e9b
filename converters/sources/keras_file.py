"""What is looked at in a Keras file or a SavedModel's folder before TensorFlow sees it.

A .keras file is a zip that others wrote, and its configuration names the classes and functions to
build: so names, sizes and the configuration are checked first, without unpacking more than the
limits allow. A layer that carries code is refused here by name, and Keras's own safe mode stands
behind. This module is read in TensorFlow's process, too, and imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edge_runtime.errors import InputError
from edge_runtime.text import plain, size

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK"
MAX_BYTES = 2 << 30
"""Of a file, packed or not: more fits into neither a .tflite nor an ONNX file."""
MAX_MEMBERS = 10_000
MAX_JSON_BYTES = 32 << 20
CONFIG, METADATA = "config.json", "metadata.json"
WEIGHTS = ("model.weights.h5", "model.weights.npz")
GRAPH = "saved_model.pb"
CODE = {
    "Lambda": "holds Python code",
    "__lambda__": "holds Python code",
    "TFSMLayer": "loads another file",
    "TorchModuleWrapper": "holds pickled Python code",
}
"""Classes of Keras's own that would run what the file brings."""
IGNORED = "compile_config"
"""Optimizer and loss: they are not built."""
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})$")


def check_file(path: Path) -> str:
    """What wrote the .keras or .h5 file at `path`, as "Keras 3.15.1"; "" where it does not say.

    Raises:
        InputError: too large, cut off, hostile, or with code in it.
    """
    where = f"model {path.name}"
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(HDF5))
    except OSError as reason:
        raise InputError(f"{where}: cannot be read ({reason.strerror})") from None
    if length > MAX_BYTES:
        raise InputError(f"{where}: {size(length)}, at most {size(MAX_BYTES)} are read")
    if path.suffix == ".keras":
        if head.startswith(ZIP):
            return _check_archive(path, where)
        raise InputError(f"{where}: is no .keras file (no zip archive)")
    if head != HDF5:
        raise InputError(f"{where}: is neither a .keras file nor an HDF5 file")
    return ""


def _check_archive(path: Path, where: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive.infolist(), where)
            config = _read_json(archive, CONFIG, where)
            metadata = _read_json(archive, METADATA, where)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError):
        raise InputError(f"{where}: the archive is damaged or was cut off") from None
    try:
        refuse_code(config)
    except InputError as reason:
        raise InputError(f"{where}: {reason}") from None
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return f"Keras {plain(version, 40)}" if isinstance(version, str) else ""


def _check_members(members: list[zipfile.ZipInfo], where: str) -> None:
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{where}: {len(members)} members, at most {MAX_MEMBERS} are read")
    total = sum(one.file_size for one in members)
    if total > MAX_BYTES:
        raise InputError(f"{where}: unpacks to {size(total)}, at most {size(MAX_BYTES)} are read")
    names = [one.filename for one in members]
    for one in members:
        path = PurePosixPath(one.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in one.filename:
            raise InputError(f"{where}: its member {plain(one.filename)!r} leaves the archive")
        if one.flag_bits & 1:
            raise InputError(f"{where}: its member {plain(one.filename)!r} is encrypted")
    if len(set(names)) != len(names):
        raise InputError(f"{where}: two members have the same name")
    if missing := [name for name in (CONFIG, METADATA) if name not in names]:
        raise InputError(f"{where}: {missing[0]} is missing in the archive")
    if not any(name in names for name in WEIGHTS):
        raise InputError(f"{where}: none of {', '.join(WEIGHTS)} is in the archive")


def _read_json(archive: zipfile.ZipFile, name: str, where: str) -> Any:
    if archive.getinfo(name).file_size > MAX_JSON_BYTES:
        raise InputError(f"{where}: {name} is larger than {size(MAX_JSON_BYTES)}")
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError):
        raise InputError(f"{where}: {name} is no JSON") from None


def refuse_code(config: Any) -> None:
    """Check a Keras model's configuration.

    Raises:
        InputError: a layer or function in it is code, or is not one of Keras's own.
    """
    for one in _classes(config):
        kind, name = str(one["class_name"]), _name(one)
        if kind in CODE:
            raise InputError(
                f"its {name} ({plain(kind)}) {CODE[kind]}, which is not run: "
                "use layers of Keras, or export the model as a SavedModel"
            )
        module, registered = one.get("module"), one.get("registered_name")
        foreign = isinstance(module, str) and not (
            module in ("keras", "builtins") or module.startswith("keras.")
        )
        if foreign or (isinstance(registered, str) and ">" in registered):
            raise InputError(
                f"its {name} is of the class {plain(str(registered or kind))}, which is not one of "
                "Keras's own: export the model as a SavedModel"
            )


def _classes(config: Any) -> Iterator[dict[str, Any]]:
    """Every object of the configuration that names a class."""
    left = [config]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "class_name" in one:
                yield one
            left.extend(value for key, value in one.items() if key != IGNORED)
        elif isinstance(one, list):
            left.extend(one)


def _name(one: dict[str, Any]) -> str:
    config = one.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f"layer {plain(name, 80)}" if isinstance(name, str) else "configuration"


def check_folder(folder: Path) -> tuple[Path, ...]:
    """The files of a SavedModel, checked to be all there.

    Raises:
        InputError: a file is missing or too large.
    """
    where = f"model {folder.name}"
    if not (folder / GRAPH).is_file():
        raise InputError(f"{where}: {GRAPH} is missing, so it is no SavedModel")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(files) > MAX_MEMBERS:
        raise InputError(f"{where}: {len(files)} files, at most {MAX_MEMBERS} are read")
    total = sum(path.stat().st_size for path in files)
    if total > MAX_BYTES:
        raise InputError(f"{where}: {size(total)}, at most {size(MAX_BYTES)} are read")
    variables = folder / "variables"
    shards = {found[0]: int(found[2]) for one in files if (found := _SHARD.match(one.name))}
    if not variables.is_dir():
        return tuple(files)
    wanted = {"variables.index"}
    count = max(shards.values(), default=1)
    wanted |= {f"variables.data-{i:05d}-of-{count:05d}" for i in range(count)}
    present = set(os.listdir(variables))
    if missing := sorted(wanted - present):
        raise InputError(f"{where}: variables/{missing[0]} is missing")
    return tuple(files)
