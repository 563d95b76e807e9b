"""What a quantizer runs a float file on: calibration samples of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt


class Sample(Protocol):
    """One row of calibration data, as the network's inputs."""

    def tensors(self) -> Mapping[str, npt.NDArray[Any]]:
        """Input's name → its value, with a batch of 1."""
