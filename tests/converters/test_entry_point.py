"""A function of the user's makes the model; whatever goes wrong in it is one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.ort import open_session
from converters.sources.entry_point import open_entry_point
from edge_runtime.errors import InputError

HEAD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(4, 2)

    def forward(self, left, right):
        both = self.layer(left + right)
        return {returned}
"""
PAIR = "def make():\n    return Net(), (torch.randn(3, 4), torch.randn(3, 4))\n"


def written(folder: Path, *, returned: str = "both", make: str = PAIR) -> Path:
    (folder / "net.py").write_text(HEAD.replace("{returned}", returned) + make)
    return folder


def test_a_tuple_gets_its_names_from_forward(tmp_path: Path) -> None:
    model = open_entry_point("net.py:make", written(tmp_path))
    assert [(one.name, one.shape) for one in model.interface.inputs] == [
        ("left", ("batch", 4)), ("right", ("batch", 4)),
    ]  # fmt: skip
    assert [(one.name, one.shape) for one in model.interface.outputs] == [
        ("output_0", ("batch", 2))
    ]
    assert (model.name, model.interface.task, model.licence) == ("make", "", "unknown")


@pytest.mark.parametrize(
    ("returned", "names"),
    [("(both, left)", ["output_0", "output_1"]), ("{'sum': both, 'left': left}", ["sum", "left"])],
)
def test_outputs_are_named(tmp_path: Path, returned: str, names: list[str]) -> None:
    model = open_entry_point("net.py:make", written(tmp_path, returned=returned))
    assert [one.name for one in model.interface.outputs] == names


def test_it_becomes_a_file_for_every_batch(tmp_path: Path) -> None:
    make = "def make():\n    x = torch.ones(1, 4)\n    return Net(), {'right': 2 * x, 'left': x}\n"
    model = open_entry_point("net.py:make", written(tmp_path, make=make), name="mine")
    session = open_session(model.export("onnxruntime", opset=17, lengths=()).data)
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((5, 4)).astype(np.float32) for name in ("left", "right")}
    (found,) = session.run(None, given)
    np.testing.assert_allclose(found, model.run(given)["output_0"], atol=1e-6)


def test_a_third_value_says_the_task_and_the_free_dims(tmp_path: Path) -> None:
    make = """
from converters.sources.interface import Interface
from edge_runtime.bundle.manifest import Step, TensorSpec

def make():
    row = TensorSpec("left", "float32", ("batch", 4)), TensorSpec("right", "float32", ("batch", 4))
    out = (TensorSpec("sum", "float32", ("batch", 2)),)
    steps = (Step("values", {"names": ["a", "b"]}),)
    x = torch.ones(2, 4)
    return Net(), (x, x), Interface("regression", row, out, postprocess=steps)
"""
    model = open_entry_point("net.py:make", written(tmp_path, make=make))
    assert model.interface.task == "regression"
    feeds = {name: np.ones((1, 4), dtype=np.float32) for name in ("left", "right")}
    assert list(model.run(feeds)) == ["sum"]


def test_the_digest_covers_the_file_and_the_weights(tmp_path: Path) -> None:
    first = open_entry_point("net.py:make", written(tmp_path)).sha256
    assert open_entry_point("net.py:make", written(tmp_path)).sha256 == first
    other = open_entry_point("net.py:make", written(tmp_path, make=PAIR + "# more\n")).sha256
    read = PAIR.replace("return Net()", "net = Net(); net.load_state_dict(torch.load('w.pt'));"
                        " return net").replace("'w.pt'", f"{str(tmp_path / 'w.pt')!r}")  # fmt: skip
    digests = {first, other}
    import torch

    for scale in (1.0, 2.0):
        weights = {"layer.weight": scale * torch.ones(2, 4), "layer.bias": torch.zeros(2)}
        torch.save(weights, tmp_path / "w.pt")
        digests.add(open_entry_point("net.py:make", written(tmp_path, make=read)).sha256)
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("def make():\n    raise ValueError('no weights\\nhere')\n",
         r"the function fails \(ValueError: no weights\)"),
        ("def make():\n    raise SystemExit(3)\n", "the function fails .SystemExit"),
        ("def make():\n    return Net()\n", r"returned Net, expected \(module, example\)"),
        ("def make():\n    return 1, 2\n", "returned int first, expected a torch module"),
        ("def make():\n    return Net(), 2\n", "the example is int, expected a dict"),
        ("def make():\n    return Net(), {'left': 1}\n", "the example's left is no tensor"),
        ("def make():\n    return Net(), torch.tensor(1.0)\n", r"has the shape \[\]"),
        ("def make():\n    x = torch.ones(2, 4)\n    return Net(), (x, x, x)\n",
         "holds 3 tensors, forward takes left, right"),
        ("def make():\n    x = torch.ones(2, 5)\n    return Net(), (x, x)\n",
         r"cannot run its example \(RuntimeError: mat1 and mat2"),
        ("def make():\n    x = torch.ones(2, 4)\n    return Net(), (x, x), 'text'\n",
         "returned str third, expected an Interface"),
        ("raise KeyError('x')\n", "cannot be imported .KeyError"),
        ("def other():\n    pass\n", "has no function 'make'"),
    ],
)  # fmt: skip
def test_errors_of_the_users_code_are_one_sentence(tmp_path: Path, make: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        open_entry_point("net.py:make", written(tmp_path, make=make))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("returned", ["both.sum()", "[both, 3]", "'text'", "both[:1]"])
def test_what_is_no_batch_of_tensors_is_refused(tmp_path: Path, returned: str) -> None:
    with pytest.raises(InputError, match=r"expected tensors|must be the batch"):
        open_entry_point("net.py:make", written(tmp_path, returned=returned))


@pytest.mark.parametrize("named", ["net.py", "net:make", "net.py:", ":make"])
def test_another_form_of_name_is_refused(tmp_path: Path, named: str) -> None:
    with pytest.raises(InputError, match=r"as file\.py:function"):
        open_entry_point(named, tmp_path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        open_entry_point("other.py:make", tmp_path)
