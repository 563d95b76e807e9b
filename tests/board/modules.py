"""Which kernel modules are needed for some, and in which order they go in.

A package that was only unpacked has no `modules.dep`; every module names what it depends on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def in_order(folder: Path, wanted: Iterable[str]) -> list[Path]:
    """Files of the modules called `wanted` and of all that they need, dependencies first.

    One that is not there is built into the kernel: nothing has to be loaded for it.
    """
    files = {_name(path.stem): path for path in folder.rglob("*.ko")}
    found: dict[str, Path] = {}

    def add(name: str) -> None:
        path = files.get(_name(name))
        if path is None or _name(name) in found:
            return
        depends = _DEPENDS.search(b"\0" + path.read_bytes())
        for other in depends[1].decode().split(",") if depends else ():
            add(other)
        found[_name(name)] = path

    for name in wanted:
        add(name)
    return list(found.values())


def _name(stem: str) -> str:
    return stem.replace("-", "_")
