"""A stand-in for Rockchip's library `rknnlite`, which needs their chip: the other side, not ours.

It behaves as api/rknn_lite.py of rknn-toolkit-lite2 2.5.0 does: it takes a path, greets on stdout
by Python and by C, knows tensors by their place, tells failures by -1 or None and the reason in the
log "rknnLogger". Behind the NPU that it pretends to have, ONNX Runtime computes. Its "compiled"
files are ours: the four bytes of the real ones, a line of JSON, and an ONNX file.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

LOG = logging.getLogger("rknnLogger")
PLATFORM = "rk3588"
Array = npt.NDArray[Any]


def compiled(model: bytes, shapes: list[list[int]], platform: str = PLATFORM) -> bytes:
    """A file for the stand-in that runs the ONNX file `model` on inputs of `shapes`."""
    return b"RKNN" + json.dumps({"shapes": shapes, "platform": platform}).encode() + b"\n" + model


class RKNNLite:
    """See the module. `faults` makes the chip misbehave: "driver", "busy", "shape", "raises"."""

    NPU_CORE_AUTO = 0
    NPU_CORE_0 = 1
    NPU_CORE_0_1_2 = 7

    faults: ClassVar[set[str]] = set()
    made: ClassVar[list[RKNNLite]] = []

    def __init__(self, verbose: bool = False, verbose_file: str | None = None) -> None:
        self.data: bytes | None = None
        self.path = ""
        self.mask: int | None = None
        self.seen: list[tuple[list[Array], object]] = []
        self.releases = 0
        self._session: Any = None
        self._shapes: list[list[int]] = []
        RKNNLite.made.append(self)

    def load_rknn(self, path: str) -> int:
        if not os.path.exists(path):
            LOG.error(f"Invalid RKNN model path: {path}")
            return -1
        self.path, self.data = path, Path(path).read_bytes()
        return 0

    def init_runtime(self, core_mask: int = NPU_CORE_AUTO) -> int:
        print("I RKNN: Runtime Information, librknnrt version: 2.5.0")
        os.write(1, b"I RKNN: Driver Information, version: 0.9.8\n")
        assert self.data is not None
        try:
            self._start(self.data)
        except Exception:
            LOG.error("Catch exception when init runtime!")
            LOG.error(traceback.format_exc())
            return -1
        self.mask = core_mask
        return 0

    def _start(self, data: bytes) -> None:
        import onnxruntime

        if "driver" in self.faults:
            raise Exception("failed to open rknpu module, need to insmod rknpu driver!")
        head, _, model = data[4:].partition(b"\n")
        wanted = json.loads(head)
        if wanted["platform"] != PLATFORM:
            raise Exception("RKNN init failed. error code: RKNN_ERR_TARGET_PLATFORM_UNMATCH")
        self._shapes = wanted["shapes"]
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def inference(self, inputs: list[Array], data_format: object = None) -> list[Array] | None:
        self.seen.append((inputs, data_format))
        if "raises" in self.faults:
            raise OSError("the bus is gone")
        try:
            return self._answers(inputs)
        except Exception:
            LOG.error("Catch exception when running RKNN model.")
            LOG.error(traceback.format_exc())
            return None

    def _answers(self, inputs: list[Array]) -> list[Array]:
        if "busy" in self.faults:
            raise Exception("RKNN run failed. error code: RKNN_ERR_TIMEOUT")
        if [list(one.shape) for one in inputs] != self._shapes:
            raise ValueError("E Size of inputs[0] is invalid!")
        names = [one.name for one in self._session.get_inputs()]
        found = self._session.run(None, dict(zip(names, inputs, strict=True)))
        if "shape" in self.faults:
            found = [one[0] for one in found]
        return [np.asarray(one, np.float32) for one in found]

    def release(self) -> None:
        self.releases += 1
        self._session = None


def module() -> types.ModuleType:
    """`rknnlite.api`, to be put in its place; nothing of an earlier test is left in it."""
    RKNNLite.faults, RKNNLite.made = set(), []
    made = types.ModuleType("rknnlite.api")
    made.RKNNLite = RKNNLite  # type: ignore[attr-defined]
    return made
