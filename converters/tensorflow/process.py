"""Our side of TensorFlow's process: find an interpreter that has it, and hand arrays over.

How it is started, asked and ended is `converters.toolchain`'s matter. An array's name is its place
in the model's interface, because a tensor's own may be any text.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from converters.toolchain import JOB_S, ROOT, START_S, Toolchain
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor, one_line

INTERPRETER = "EDGE_TENSORFLOW_PYTHON"
VENV = ".venv-tensorflow"
THREADS = 2
CHATTER = r"[Ww]arning|^\s|^[IW]\d{4} |^INFO:|^fully_quantize|TF 2\.\d+|deprecat"

MISSING = (
    "Keras models and SavedModels need TensorFlow in an environment of its own, and none was "
    "found: type `make setup-tensorflow` in a checkout, or install "
    '"edge-runtime[keras]" into a new environment and name its interpreter in ' + INTERPRETER
)


def find_python(root: Path = ROOT) -> Path:
    """The interpreter that has TensorFlow.

    $EDGE_TENSORFLOW_PYTHON; else this one where tensorflow is installed; else that of the
    environment which `make` sets up in a checkout at `root`.

    Raises:
        InputError: there is none.
    """
    if chosen := os.environ.get(INTERPRETER):
        if not os.access(chosen, os.X_OK):
            raise InputError(f"{INTERPRETER}: {chosen} is not an interpreter that can be run")
        return Path(chosen)
    if importlib.util.find_spec("tensorflow") is not None:
        return Path(sys.executable)
    python = root / VENV / "bin" / "python"
    if not python.is_file():
        raise InputError(MISSING)
    return python


class TensorFlow(Toolchain):
    """A process with TensorFlow in it.

    One model is open at a time: `holds` is whoever opened it, None after a failure. `subject`
    begins every sentence, as "model faces.keras". `python` is its interpreter, else what
    `find_python` finds.
    """

    def __init__(
        self,
        subject: str = "TensorFlow",
        *,
        python: Path | None = None,
        start_s: float = START_S,
        job_s: float = JOB_S,
    ) -> None:
        super().__init__(
            subject,
            "TensorFlow's process",
            "converters.tensorflow.worker",
            lambda: python or find_python(),
            chatter=CHATTER,
            prefix="edge-tensorflow-",
            start_s=start_s,
            job_s=job_s,
        )
        self.holds: object = None

    def environment(self, folder: Path) -> Mapping[str, str]:
        """TensorFlow is kept quiet, on the CPU, without your settings."""
        return {
            **super().environment(folder),
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_BACKEND": "tensorflow",
            "KERAS_HOME": str(folder),  # a keras.json of yours could change the layout of pictures
            "OMP_NUM_THREADS": str(THREADS),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": str(THREADS),
        }

    def save(self, name: str, arrays: Sequence[Tensor]) -> str:
        """Write arrays, in the order of the interface, for the other side; returns the path."""
        self.start()
        path = self.path(name)
        np.savez(path, **{str(i): one for i, one in enumerate(arrays)})  # type: ignore[arg-type]
        return str(path)

    def load(self, name: str, count: int) -> list[Tensor]:
        """Read `count` arrays that the other side wrote.

        Raises:
            InputError: they are not there.
        """
        try:
            with np.load(self.path(name), allow_pickle=False) as arrays:
                return [arrays[str(i)] for i in range(count)]
        except (OSError, ValueError, KeyError) as reason:
            raise InputError(
                f"{self.subject}: TensorFlow's process left no arrays in {name} "
                f"({one_line(reason)})"
            ) from None

    def close(self) -> None:
        """End the process and delete its folder. A second call does nothing."""
        self.holds = None
        super().close()
