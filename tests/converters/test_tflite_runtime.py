"""What is made for LiteRT runs on tflite-runtime 2.14, or is refused for a profile that names it.

That package wants an older numpy: an environment of its own, which `make test` sets up.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters.pipeline import Options as RunOptions
from converters.pipeline import convert
from converters.progress import Silent
from converters.quantize import quantizer
from edge_runtime.errors import InputError
from edge_runtime.profile import load_profile
from tests.converters.brought_models import BOARD, recipe
from tests.converters.nets import FloatArray, accuracy, calibration, held_out, litert_of

PYTHON = Path(__file__).parents[2] / ".venv-tflite" / "bin" / "python"
SCRIPT = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
runner = interpreter.get_signature_runner()
images = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([runner(image=one[None])["answer"] for one in images]))
"""
here = pytest.mark.skipif(not PYTHON.is_file(), reason="tflite-runtime is not installed")
Answer = Callable[[bytes], FloatArray]


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    """The held-out images' answers of a file, on tflite-runtime, or what it ended with."""

    def run(model: bytes) -> FloatArray:
        paths = [tmp_path / name for name in ("model.tflite", "images.npy", "answers.npy")]
        paths[0].write_bytes(model)
        np.save(paths[1], held_out()[0])
        done = subprocess.run(
            [PYTHON, "-c", SCRIPT, *paths], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        found: FloatArray = np.load(paths[2])
        return found

    return run


@here
@pytest.mark.parametrize("scheme", ["static_w8a8_channel", "weight_w8_channel", "float"])
@pytest.mark.parametrize("net", ["mobile", "residual"])
def test_a_convolutional_net_answers_the_same_there(net: str, scheme: str, answer: Answer) -> None:
    model = quantizer("litert", scheme)(litert_of(net), calibration()).model
    assert accuracy(answer(model)) > accuracy(answer(litert_of(net))) - 0.01


@here
def test_a_dynamic_scheme_answers_nonsense_there_which_is_why_it_is_refused(answer: Answer) -> None:
    model = quantizer("litert", "dynamic_w8_channel")(litert_of("mobile"), calibration()).model
    assert accuracy(answer(model)) < 0.5


def test_a_profile_that_names_it_gets_no_dynamic_scheme(tmp_path: Path, cache_folder: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(8, 4), {'input': torch.zeros(1, 8)}\n"
    )
    rng = np.random.default_rng(7)
    for name, count in (("calibration", 8), ("test", 12)):
        np.savez(tmp_path / f"{name}.npz", input=rng.normal(size=(count, 8)).astype(np.float32))
    data = 'calibration = "calibration.npz"\ntest = "test.npz"'
    path = recipe(tmp_path, "tensors", "net.py:make", data=data)
    litert = 'backend = "litert"\n'
    board = tmp_path / "old.toml"
    board.write_text(BOARD.replace(litert, f'{litert}runtime = "tflite-runtime"\n'))
    options = RunOptions(tmp_path / "out", cache_folder)
    with pytest.raises(InputError, match="tflite-runtime answers nonsense in dynamic_w8_channel"):
        convert(path, [load_profile(str(board))], options, Silent())
