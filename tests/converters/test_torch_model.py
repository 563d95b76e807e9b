"""A torch module becomes files that say what it says, under the names that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from converters.ort import open_session
from converters.sources.interface import Interface
from converters.sources.torch_model import TorchModel, sentence
from converters.sources.torch_module import sized, state_sha256
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import InputError

OPSET = 17
Arrays = Mapping[str, np.ndarray]


class Reader(torch.nn.Module):
    """Two inputs, two outputs; the dict is not in the interface's order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = torch.nn.Embedding(50, 8)
        self.dropout = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, mask: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.dropout(self.table(ids)) * mask.unsqueeze(-1)
        return {"tokens": self.head(hidden), "mean": hidden.mean(dim=1)}


class Scores(torch.nn.Module):
    """One input of floats; `change` is what is done to them."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(4, 4)
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.change(self.layer(x))
        return changed


TEXT = Interface(
    "tensors",
    (TensorSpec("ids", "int64", ("batch", "sequence")),
     TensorSpec("mask", "int64", ("batch", "sequence"))),
    (TensorSpec("mean", "float32", ("batch", 8)),
     TensorSpec("tokens", "float32", ("batch", "sequence", 3))),
)  # fmt: skip
STEPS = Interface(
    "tensors",
    (TensorSpec("x", "float32", ("batch", "sequence", 4)),),
    (TensorSpec("y", "float32", ("batch", "sequence", 4)),),
)


def reader() -> TorchModel:
    samples = {"ids": torch.arange(6).reshape(1, 6), "mask": torch.ones(1, 6, dtype=torch.int64)}
    return TorchModel(Reader(), TEXT, samples, "reader", "0" * 64)


def scores(change: Any) -> TorchModel:
    return TorchModel(Scores(change), STEPS, {"x": torch.randn(1, 3, 4)}, "scores", "0" * 64)


def feeds(rows: int, tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows * tokens)
    mask = np.ones((rows, tokens), dtype=np.int64)
    mask[:, -1] = 0
    return {"ids": rng.integers(0, 50, (rows, tokens)), "mask": mask}


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 12)])
def test_the_onnx_file_says_what_the_module_says_at_every_size(rows: int, tokens: int) -> None:
    model = reader()
    session = open_session(model.export("onnxruntime", opset=OPSET, lengths=()).data)
    assert [one.name for one in session.get_inputs()] == ["ids", "mask"]
    assert [one.name for one in session.get_outputs()] == ["mean", "tokens"]
    given = feeds(rows, tokens)
    wanted = model.run(given)
    for name, found in zip(("mean", "tokens"), session.run(None, given), strict=True):
        np.testing.assert_allclose(found, wanted[name], atol=1e-5)
    assert not model.module.training
    assert model.notes == ()


def test_the_litert_file_has_an_entry_point_a_length_and_the_interfaces_names() -> None:
    from ai_edge_litert.interpreter import Interpreter

    model = reader()
    exported = model.export("litert", opset=OPSET, lengths=(9, 4))
    assert [one.dims for one in exported.signatures] == [{"sequence": 4}, {"sequence": 9}]
    interpreter = Interpreter(model_content=exported.data)
    for entry in exported.signatures:
        runner = interpreter.get_signature_runner(entry.name)
        assert {one["dtype"] for one in runner.get_input_details().values()} == {np.int32}
        given = feeds(1, entry.dims["sequence"])
        found = runner(**{name: value.astype(np.int32) for name, value in given.items()})
        wanted = model.run(given)
        assert set(found) == set(wanted)
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


def test_what_the_legacy_exporter_cannot_write_the_newer_one_does() -> None:
    model = scores(lambda x: torch.fft.fft2(x).real)
    session = open_session(model.export("onnxruntime", opset=OPSET, lengths=()).data)
    given = {"x": np.random.default_rng(0).standard_normal((2, 10, 4)).astype(np.float32)}
    (found,) = session.run(None, given)
    np.testing.assert_allclose(found, model.run(given)["y"], atol=1e-4)
    assert "newer exporter" in model.notes[0]
    assert "fft_fft2" in model.notes[0]


def test_a_file_that_is_right_for_the_traced_size_only_is_refused() -> None:
    model = scores(lambda x: torch.stack([x[:, at] for at in range(x.shape[1])], dim=1))
    words = r"shape \[1, 7, 4\], expected \[1, 9, 4\]: a size stands in the graph for good"
    with pytest.raises(InputError, match=words):
        model.export("onnxruntime", opset=OPSET, lengths=())


def test_what_no_exporter_can_do_is_told_in_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    model = scores(lambda x: torch.linalg.eigvals(x @ x.transpose(1, 2)).real)
    with pytest.raises(InputError, match=r"model scores: cannot be exported to ONNX: the legacy"):
        model.export("onnxruntime", opset=OPSET, lengths=())
    assert capfd.readouterr().err == ""


def test_inputs_that_do_not_fit_are_told() -> None:
    with pytest.raises(InputError, match="input mask is missing"):
        reader().run({"ids": np.zeros((1, 2), dtype=np.int64)})
    with pytest.raises(InputError, match=r"model reader: cannot run \(index out of range"):
        reader().run({"ids": np.full((1, 2), 50), "mask": np.ones((1, 2), dtype=np.int64)})
    with pytest.raises(InputError, match="no sample of its input mask"):
        TorchModel(Reader(), TEXT, {"ids": torch.zeros(1, 2)}, "reader", "0" * 64)


@pytest.mark.parametrize(
    ("backend", "opset", "lengths", "words"),
    [
        ("onnxruntime", 11, (), r"opset 11: expected 14\.\.20"),
        ("litert", 17, (), "needs sequence lengths, none are given"),
        ("tensorrt", 17, (), "no way leads from torch to 'tensorrt'; known are onnxruntime"),
    ],
)
def test_what_cannot_be_asked_for_is_told(
    backend: str, opset: int, lengths: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        reader().export(backend, opset=opset, lengths=lengths)


def test_a_description_counts_numbers_and_kinds_of_layers() -> None:
    told = reader().describe()
    assert told.parameters == 50 * 8 + 8 * 3 + 3
    assert told.operators == {"Dropout": 1, "Embedding": 1, "Linear": 1}


def test_a_digest_changes_with_a_weight_and_with_nothing_else() -> None:
    one, other = Reader(), Reader()
    assert state_sha256(one) == state_sha256(other)
    with torch.no_grad():
        other.head.bias[1] += 1e-3
    assert state_sha256(one) != state_sha256(other)


def test_a_sample_is_cut_or_repeated_to_a_size() -> None:
    spec = TensorSpec("x", "int64", ("batch", 2, "sequence"))
    sample = torch.arange(6).reshape(1, 2, 3)
    found = sized(sample, spec, {"batch": 2, "sequence": 4})
    assert found.tolist() == [[[0, 1, 2, 0], [3, 4, 5, 3]]] * 2
    assert sized(sample, spec, {"batch": 1, "sequence": 2}).tolist() == [[[0, 1], [3, 4]]]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (KeyError("model_type"), "KeyError: 'model_type'"),
        (RuntimeError("\n\n  failed at /opt/lib/python/x.py\nmore"), "failed at x.py"),
        (ValueError(), "ValueError"),
        (
            RuntimeError(
                "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : running Gather node. Name:'/a/b' x"
            ),
            "running Gather node",
        ),
    ],
)
def test_a_toolchains_words_are_cut_to_what_helps(reason: Exception, words: str) -> None:
    assert sentence(reason) == words
