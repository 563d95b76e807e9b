"""Which tree of the agent's software is started: the package's, or one that came by an update.

The launcher loads this file by its path from the package's tree, before anything else, so it
imports nothing of ours and must stay quick. An updated tree is taken only if all of this holds:
1. `current` is a link to a name beside it, nothing else; 2. folder and tree are root's, and nobody
else may write them; 3. its mark, which is written last, is there and can be read; 4. it is for
this Python on this machine; 5. it is not older than the package's. Otherwise the package's tree:
a board can never be left without one.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from typing import Any

RELEASES = "/var/lib/edge-agent-releases"
CURRENT = "current"
MARK = ".complete.json"
MAX_MARK_BYTES = 16 << 10
NAME = r"[0-9][0-9A-Za-z.+-]{0,160}-[0-9a-f]{12}"
"""Of a tree: its version, and the beginning of its manifest's digest."""
_DIST = r"edge_runtime-(.+)\.dist-info"


def tree(factory: str, releases: str = RELEASES, owner: int = 0) -> str:
    """The folder whose software is to be started: `factory`, or the current one of `releases`.

    Args:
        owner: whose everything must be; root's, but in tests.
    """
    try:
        return _current(factory, releases, owner) or factory
    except (OSError, ValueError):
        return factory


def _current(factory: str, releases: str, owner: int) -> str | None:
    name = os.readlink(os.path.join(releases, CURRENT))
    if not re.fullmatch(NAME, name):  # 1
        return None
    folder = os.path.join(releases, name)
    mark = os.path.join(folder, MARK)
    for path, kind in ((releases, stat.S_IFDIR), (folder, stat.S_IFDIR), (mark, stat.S_IFREG)):
        found = os.lstat(path)
        if stat.S_IFMT(found.st_mode) != kind or found.st_uid != owner or found.st_mode & 0o022:
            return None  # 2
    said = read_mark(folder)  # 3
    if said.get("platform") != f"python3.{sys.version_info[1]}-{os.uname().machine.lower()}":
        return None  # 4
    if version_key(str(said.get("version"))) < version_key(factory_version(factory)):
        return None  # 5
    return folder


def read_mark(folder: str) -> dict[str, Any]:
    """What the mark of a tree says. Raises OSError, ValueError: it is not there, or none."""
    with open(os.path.join(folder, MARK), "rb") as file:
        value = json.loads(file.read(MAX_MARK_BYTES))
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def factory_version(factory: str) -> str:
    """Version of the software in the package's tree, by the name of what pip left there.

    Raises:
        OSError, ValueError: there is none, or several.
    """
    found = [m[1] for name in os.listdir(factory) if (m := re.fullmatch(_DIST, name))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} versions in {factory}")
    return found[0]


def version_key(version: str) -> tuple[list[int], bool, list[int]]:
    """For comparing: 0.9.0 before 0.10.0, 1.0.0-rc.1 (or 1.0.0rc1) before 1.0.0.

    Raises:
        ValueError: it does not begin with numbers.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)*)(.*?)(?:\+.*)?", version, re.DOTALL)
    if match is None or len(version) > 256:
        raise ValueError(f"{version[:40]!r} is no version")
    numbers = [int(part) for part in match[1].split(".")]
    return numbers, not match[2], [int(part) for part in re.findall("[0-9]+", match[2])]
