"""A training that was interrupted goes on from its last checkpoint, to the very same weights.

One file holds weights, optimizer, schedule, step and history. It is written beside its final place
and renamed, so what is found is whole; what cannot be read is as good as none.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)
SECONDS_BETWEEN = 60.0


class Checkpoint:
    """The checkpoint at `path`, written at most every `seconds`."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where there is nothing that can be read."""
        try:
            found: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as reason:  # of pickle, of zip, of torch: a file that a crash cut short
            log.warning("checkpoint", extra={"path": str(self._path), "reason": str(reason)[:200]})
            return None
        return found

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`, tensors and plain values, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Nobody will go on from here, nor from what a killed process was writing."""
        for path in (self._path, *self._path.parent.glob(f"{self._path.name}.*")):
            path.unlink(missing_ok=True)
