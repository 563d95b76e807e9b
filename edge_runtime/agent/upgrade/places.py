"""Where everything of the agent's own update stands, below `/` or, in tests, below a prefix.

The agent's state folder is its own to write; the releases folder is root's, and everybody may
read it: the helper's journal there is its answer to the agent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edge_runtime
from edge_runtime.agent.upgrade.choice import RELEASES, read_mark
from edge_runtime.bundle.agent_package import SITE

STATE = "var/lib/private/edge-agent"
"""What `/var/lib/edge-agent` links to: a folder that root made, whatever the agent does in it."""
ROOT = "etc/edge-agent/root.json"
ASKED = "upgrade"
"""Folder of the agent's state in which requests lie."""
DRIVER = "agent"
"""Folder of the agent's state that the driver of its own update keeps."""
PREFIX_VARIABLE = "EDGE_UPGRADE_PREFIX"


@dataclass(frozen=True, slots=True)
class Places:
    """Paths, all absolute."""

    factory: Path
    releases: Path
    state: Path
    root: Path

    @classmethod
    def under(cls, prefix: Path = Path("/")) -> Places:
        """Those of a board whose file system is at `prefix`."""
        return cls(
            factory=prefix / SITE,
            releases=prefix / RELEASES.lstrip("/"),
            state=prefix / STATE,
            root=prefix / ROOT,
        )

    @property
    def journal(self) -> Path:
        """The helper's."""
        return self.releases / "journal.json"

    @property
    def open(self) -> Path:
        """A file that is there while something is under way: the helper is started at boot then."""
        return self.releases / "open"

    def running(self) -> Path | None:
        """The tree that this very process runs from; None: it is no tree of the package's."""
        here = Path(os.path.abspath(edge_runtime.__file__)).parents[1]
        return here if here == self.factory or here.parent == self.releases else None


def tree_name(version: str, manifest_sha256: str) -> str:
    """What the tree of a release is called."""
    return f"{version}-{manifest_sha256[:12]}"


def mark_of(folder: Path) -> dict[str, Any]:
    """What the mark of the tree `folder` says; empty where there is none."""
    try:
        return read_mark(str(folder))
    except (OSError, ValueError):
        return {}


def found() -> Places | None:
    """The places of this board, where this process comes from its package; None: it does not."""
    places = Places.under(Path(os.environ.get(PREFIX_VARIABLE, "/")))
    return places if places.running() is not None else None
