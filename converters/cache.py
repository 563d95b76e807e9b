"""Results of expensive passes, by the digest of all that they depend on.

A key is built from inputs' digests, the pass's configuration and the versions of its tools; each
state of our own source has a folder of its own, because a pass may do its work otherwise in the
next. An entry is a folder that appears whole or not at all. Deleting the cache loses time, nothing
else.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from converters.interrupt import stop_if_interrupted
from edge_runtime.errors import DeviceError
from edge_runtime.fields import Json

log = logging.getLogger(__name__)

MARK = "key.json"
"""Written last into an entry: what the key was made of, for people."""
VALUE = "value.json"


def default_folder() -> Path:
    """$EDGE_CACHE, else edge-runtime under $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("EDGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-runtime"


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions by package; "absent" where it is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def own_source() -> str:
    """Our release and a digest of the converters' source, as `0.1.0-5f0c…`."""
    root = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return f"{tool_versions('edge-runtime')['edge-runtime']}-{total.hexdigest()[:12]}"


class Cache:
    """Entries under one folder, `<source>/<stage>/<key>`. Two processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / own_source()

    def folder(self, stage: str, parts: dict[str, object], make: Callable[[Path], None]) -> Path:
        """The folder for `stage` and `parts`, filled by `make` unless it is there already.

        Raises:
            DeviceError: the cache cannot be written.
        """
        described, entry = self._entry(stage, parts)
        if (entry / MARK).is_file():
            log.info("cached", extra={"stage": stage, "key": entry.name})
            return entry
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
        except OSError as reason:
            raise DeviceError(f"cache {self._folder}: {reason.strerror}") from None
        try:
            make(made)
            stop_if_interrupted()  # a toolchain that swallowed it may have left work half done
            _finish(made, entry, described)
        except (OSError, SafetensorError) as reason:  # a full disk, whoever writes
            raise DeviceError(f"cache {self._folder}, {stage}: {reason}") from None
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return entry

    def value(self, stage: str, parts: dict[str, object], compute: Callable[[], Json]) -> Any:
        """What `compute` returned the first time for `stage` and `parts`, as JSON holds it.

        Raises:
            DeviceError: the cache cannot be written.
        """

        def make(out: Path) -> None:
            (out / VALUE).write_text(json.dumps(compute()))

        return json.loads((self.folder(stage, parts, make) / VALUE).read_text())

    def holds(self, stage: str, parts: dict[str, object]) -> bool:
        """Whether `folder` would return at once."""
        return (self._entry(stage, parts)[1] / MARK).is_file()

    def unfinished(self, stage: str, parts: dict[str, object]) -> Path:
        """A path beside the entry, for what an interrupted `make` will want to go on from.

        Whoever puts something there removes it when the entry is whole.
        """
        _, entry = self._entry(stage, parts)
        return entry.parent / f".{entry.name}.unfinished"

    def _entry(self, stage: str, parts: dict[str, object]) -> tuple[str, Path]:
        """What the key is made of, and the entry's folder."""
        described = json.dumps(parts, sort_keys=True, default=_plain)
        key = hashlib.sha256(described.encode()).hexdigest()[:32]
        return described, self._folder / stage / key


def _finish(made: Path, entry: Path, described: str) -> None:
    """Mark `made` as whole and rename it to `entry`; whoever was there first is as good."""
    (made / MARK).write_text(described + "\n")
    made.chmod(0o755)
    try:
        made.rename(entry)
    except OSError:
        if not (entry / MARK).is_file():
            shutil.rmtree(entry, ignore_errors=True)
            made.rename(entry)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {**asdict(value), "type": type(value).__name__}
    if isinstance(value, Path):
        return str(value)
    raise RuntimeError(f"{type(value).__name__} cannot be part of a cache key")
