"""Keras models and SavedModels: named, equal to the float reference, refused well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converters.operators import float_operators
from converters.ort import open_session
from converters.sources import keras_file
from converters.sources.keras import KerasModel, open_keras
from converters.tensorflow.process import TensorFlow, find_python
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor

try:
    PYTHON = find_python()
except InputError:
    pytest.skip("TensorFlow's environment is not set up", allow_module_level=True)

CLOSE = 1e-4
ROWS = 40
NAMES = {
    "cnn.keras": (["image"], ["probabilities"]),
    "autoencoder.keras": (["frame"], ["y"]),
    "dscnn.keras": (["mfcc"], ["logits"]),
    "dscnn.h5": (["mfcc"], ["logits"]),
    "two.keras": (["left", "right"], ["embedding", "score"]),
    "lstm.keras": (["series"], ["next"]),
    "two_saved": (["left", "right"], ["embedding", "score"]),
    "plain_saved": (["x"], ["output_0"]),
}
Open = Callable[..., KerasModel]


@dataclass(frozen=True)
class Row:
    """A sample of calibration."""

    inputs: Mapping[str, Tensor]

    def tensors(self) -> Mapping[str, Tensor]:
        return self.inputs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    script = Path(__file__).with_name("keras_models.py")
    quiet = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [PYTHON, "-I", script, folder], env=quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def process() -> Iterator[TensorFlow]:
    with TensorFlow() as one:
        yield one


@pytest.fixture(scope="module")
def opened(models: Path, process: TensorFlow) -> Open:
    """Models by name, opened once; they take turns in one process."""
    known: dict[str, KerasModel] = {}

    def of(name: str) -> KerasModel:
        if name not in known:
            known[name] = open_keras(models / name, process=process)
        return known[name]

    return of


def feeds(model: KerasModel, rows: int = ROWS) -> dict[str, Tensor]:
    random = np.random.default_rng(3)
    return {
        one.name: random.normal(size=(rows, *map(int, one.shape[1:]))).astype(one.dtype)
        for one in model.interface.inputs
    }


def samples(given: Mapping[str, Tensor]) -> list[Row]:
    rows = len(next(iter(given.values())))
    return [Row({name: one[i : i + 1] for name, one in given.items()}) for i in range(rows)]


def runner(data: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (name,) = interpreter.get_signature_list()
    return interpreter.get_signature_runner(name)


def litert_answers(data: bytes, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Row by row; integer inputs and outputs by the file's own scales."""
    run = runner(data)
    ins, outs = run.get_input_details(), run.get_output_details()
    found = []
    for row in samples(given):
        answers = run(**{name: _stored(one, ins[name]) for name, one in row.tensors().items()})
        found.append({name: _real(one, outs[name]) for name, one in answers.items()})
    return {name: np.concatenate([one[name] for one in found]) for name in outs}


def _stored(value: Tensor, details: Mapping[str, Any]) -> Tensor:
    if details["dtype"] == np.float32:
        return value
    (scale, zero), info = details["quantization"], np.iinfo(details["dtype"])
    stored: Tensor = np.clip(np.rint(value / scale) + zero, info.min, info.max)
    return stored.astype(details["dtype"])


def _real(value: Tensor, details: Mapping[str, Any]) -> Tensor:
    if details["dtype"] == np.float32:
        return value
    scale, zero = details["quantization"]
    real: Tensor = (value.astype(np.float32) - zero) * np.float32(scale)
    return real


def off(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest error, relative to the output's scale."""
    assert set(found) == set(wanted)
    return max(
        float(np.abs(found[name] - one).max() / np.abs(one).max()) for name, one in wanted.items()
    )


def cosine(found: Tensor, wanted: Tensor) -> float:
    """The lowest of a row."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / norms).min())


def test_a_keras_model_is_described(opened: Open, models: Path) -> None:
    model = opened("cnn.keras")
    assert model.interface.inputs == (
        TensorSpec("image", "float32", ("batch", 32, 32, 3), layout="NHWC"),
    )
    assert model.interface.outputs == (TensorSpec("probabilities", "float32", ("batch", 10)),)
    told = model.describe()
    assert told.operators["Conv2D"] == 2
    assert told.operators["Dense"] == 1
    assert told.parameters == 3 * 9 * 8 + 8 * 9 * 16 + 4 * (8 + 16) + (8 * 8 * 16 + 1) * 10
    assert told.size_bytes == (models / "cnn.keras").stat().st_size
    assert told.notes[0].startswith("written by Keras 3.")


def test_a_saved_model_is_described(opened: Open) -> None:
    told = opened("plain_saved").describe()
    assert told.operators == {"MatMul": 1, "Tanh": 1}
    assert told.parameters == 18
    assert told.notes[0].startswith("written by TensorFlow 2.")


@pytest.mark.parametrize("name", NAMES)
def test_float_files_have_the_interfaces_names_and_kerass_numbers(opened: Open, name: str) -> None:
    model, (inputs, outputs) = opened(name), NAMES[name]
    assert [one.name for one in model.interface.inputs] == inputs
    assert [one.name for one in model.interface.outputs] == outputs
    given = feeds(model)
    wanted = model.run(given)

    data = model.export("litert", opset=17, lengths=()).data
    assert sorted(runner(data).get_input_details()) == inputs
    assert sorted(runner(data).get_output_details()) == outputs
    assert off(litert_answers(data, given), wanted) < CLOSE

    data = model.export("onnxruntime", opset=17, lengths=()).data
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = open_session(data)
    shapes = {one.name: tuple(one.shape) for one in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        one.name: one.shape for one in (*model.interface.inputs, *model.interface.outputs)
    }
    found = dict(zip(outputs, session.run(outputs, given), strict=True))
    assert off(found, wanted) < CLOSE


@pytest.mark.parametrize("name", ["cnn.keras", "autoencoder.keras", "dscnn.keras", "lstm.keras"])
def test_a_full_integer_file_has_no_float_operator_left(opened: Open, name: str) -> None:
    model = opened(name)
    given = feeds(model)
    data = model.quantize("tensorflow_w8a8_integer", samples(given))
    assert float_operators(data) == {}
    details = [*runner(data).get_input_details().values()]
    assert {np.dtype(one["dtype"]) for one in details} == {np.dtype(np.int8)}
    (output,) = [one.name for one in model.interface.outputs]
    found, wanted = litert_answers(data, given)[output], model.run(given)[output]
    assert cosine(found, wanted) > 0.99


def test_floats_stay_at_the_border_or_where_the_converter_leaves_them(opened: Open) -> None:
    model = opened("cnn.keras")
    given = feeds(model)
    border = float_operators(model.quantize("tensorflow_w8a8", samples(given)))
    assert border == {"DEQUANTIZE": 1, "QUANTIZE": 1}
    left = float_operators(
        opened("two.keras").quantize("tensorflow_w8a8_integer", samples(feeds(opened("two.keras"))))
    )
    assert left, "TFLite has no integers for all that GELU and a layer norm are made of"


@pytest.mark.parametrize(
    ("scheme", "error", "smaller"),
    [
        ("tensorflow_f16", 2e-3, 0.6),
        ("tensorflow_dynamic_w8", 0.05, 0.4),
        ("tensorflow_w8a16", 0.02, 0.4),
    ],
)
def test_other_schemes_are_smaller_and_close(
    opened: Open, scheme: str, error: float, smaller: float
) -> None:
    model = opened("cnn.keras")
    given = feeds(model)
    data = model.quantize(scheme, samples(given))
    assert 0 < off(litert_answers(data, given), model.run(given)) < error
    assert len(data) < smaller * len(model.quantize("tensorflow_f32", ()))


def test_the_same_request_gives_the_same_bytes(opened: Open) -> None:
    model = opened("dscnn.keras")
    rows = samples(feeds(model))
    first = model.quantize("tensorflow_w8a8_integer", rows)
    assert model.quantize("tensorflow_w8a8_integer", rows) == first


def test_a_thousand_rows_are_answered_as_each_alone(opened: Open) -> None:
    model = opened("two.keras")
    given = feeds(model, 1000)
    wanted = model.run(given)
    assert all(len(one) == 1000 for one in wanted.values())
    for i in (0, 255, 256, 999):
        alone = model.run({name: one[i : i + 1] for name, one in given.items()})
        assert off(alone, {name: one[i : i + 1] for name, one in wanted.items()}) < CLOSE


def test_after_the_process_ended_a_request_starts_another(
    opened: Open, process: TensorFlow
) -> None:
    model = opened("autoencoder.keras")
    given = feeds(model)
    before = model.run(given)
    process.close()
    assert off(model.run(given), before) < CLOSE
    assert "tensorflow" not in sys.modules


def test_free_dims_are_named_and_can_be_given(models: Path, process: TensorFlow) -> None:
    path = models / "free.keras"
    with pytest.raises(InputError, match=r"image is \(free, free, free, 3\).*--shape image=1,224"):
        open_keras(path, process=process)
    small = open_keras(path, shapes={"image": (1, 24, 32, 3)}, process=process)
    assert small.interface.inputs[0].shape == ("batch", 24, 32, 3)
    data = small.export("litert", opset=17, lengths=()).data
    assert off(litert_answers(data, feeds(small)), small.run(feeds(small))) < CLOSE
    large = open_keras(path, shapes={"image": (1, 64, 64, 3)}, process=process)
    assert large.sha256 != small.sha256
    for shape, reason in (((1, 24, 24, 4), "does not fit"), ((2, 24, 24, 3), "batch is given as")):
        with pytest.raises(InputError, match=reason):
            open_keras(path, shapes={"image": shape}, process=process)
    with pytest.raises(InputError, match="has no input picture; its inputs are image"):
        open_keras(path, shapes={"picture": (1, 2, 2, 3)}, process=process)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("eight.keras", "input rows has a fixed batch of 8"),
        ("code.keras", r"its layer twice \(Lambda\) holds Python code"),
        ("code.h5", r"its layer twice \(Lambda\) holds Python code"),
        ("own.keras", "its layer mine is of the class tests>Own"),
        ("writes_saved", r"\(WriteFile\) reaches files or Python code"),
    ],
)
def test_what_cannot_be_believed_is_refused(
    models: Path, process: TensorFlow, name: str, reason: str
) -> None:
    with pytest.raises(InputError, match=f"^model {name}: .*{reason}"):
        open_keras(models / name, process=process)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_keras_file_cut_off_is_refused(models: Path, tmp_path: Path, kept: float) -> None:
    whole = (models / "cnn.keras").read_bytes()
    path = tmp_path / "cut.keras"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=r"^model cut\.keras: the archive is damaged or was cut"):
        open_keras(path)


def test_weights_that_are_damaged_are_refused(
    models: Path, tmp_path: Path, process: TensorFlow
) -> None:
    path = tmp_path / "bent.keras"
    rewrite(models / "cnn.keras", path, replaced={"model.weights.h5": b"\x89HDF\r\n\x1a\n" * 9})
    with pytest.raises(InputError, match=r"^model bent\.keras: .{10,300}$"):
        open_keras(path, process=process)


def rewrite(
    source: Path,
    target: Path,
    *,
    replaced: Mapping[str, bytes] | None = None,
    added: Mapping[str, bytes] | None = None,
    left_out: Sequence[str] = (),
) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name not in left_out:
                new.writestr(name, (replaced or {}).get(name, old.read(name)))
        for name, data in (added or {}).items():
            new.writestr(name, data, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"added": {"../../outside": b"x"}}, "leaves the archive"),
        ({"added": {"/etc/outside": b"x"}}, "leaves the archive"),
        ({"added": {"assets/bomb": bytes(1 << 20)}}, "unpacks to 1.1 MB, at most 500.0 kB"),
        ({"left_out": ["config.json"]}, "config.json is missing"),
        ({"left_out": ["model.weights.h5"]}, "none of model.weights.h5, .* is in the archive"),
        ({"replaced": {"config.json": b"{"}}, "config.json is no JSON"),
        ({"replaced": {"config.json": b"[" * 100_000}}, "config.json is no JSON"),
    ],
)
def test_a_hostile_archive_is_refused(
    models: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keras_file, "MAX_BYTES", 500_000)
    path = tmp_path / "hostile.keras"
    rewrite(models / "cnn.keras", path, **changes)
    with pytest.raises(InputError, match=rf"^model hostile\.keras: .*{reason}"):
        open_keras(path)


@pytest.mark.parametrize("kind", ["__lambda__", "TFSMLayer"])
def test_code_anywhere_in_the_configuration_is_refused(
    models: Path, tmp_path: Path, kind: str
) -> None:
    with zipfile.ZipFile(models / "cnn.keras") as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][1]["config"]["kernel_initializer"] = {
        "class_name": kind, "config": {"value": "4wEA"},
    }  # fmt: skip
    path = tmp_path / "code.keras"
    rewrite(models / "cnn.keras", path, replaced={"config.json": json.dumps(config).encode()})
    with pytest.raises(InputError, match=rf"\({kind}\) (holds Python code|loads another file)"):
        open_keras(path)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("saved_model.pb", "saved_model.pb is missing"),
        ("variables/variables.index", "variables/variables.index is missing"),
        ("variables/variables.data-00000-of-00001", "variables.data-00000-of-00001 is missing"),
    ],
)
def test_a_saved_model_with_a_file_missing_is_refused(
    models: Path, tmp_path: Path, missing: str, reason: str
) -> None:
    folder = shutil.copytree(models / "plain_saved", tmp_path / "saved")
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"^model saved: .*{reason}"):
        open_keras(folder)


def test_a_saved_model_cut_off_or_asked_wrongly_is_refused(
    models: Path, tmp_path: Path, process: TensorFlow
) -> None:
    folder = shutil.copytree(models / "plain_saved", tmp_path / "saved")
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"saved_model\.pb is no SavedModel, or was cut off"):
        open_keras(folder, process=process)
    with pytest.raises(InputError, match="no signature 'other'; it has serving_default"):
        open_keras(models / "plain_saved", signature="other", process=process)
    with pytest.raises(InputError, match=r"expected \.keras, \.h5, \.hdf5 or the folder"):
        open_keras(models / "model.bin")


def test_wrong_requests_are_refused_and_the_model_stays_open(
    opened: Open, process: TensorFlow
) -> None:
    model = opened("cnn.keras")
    with pytest.raises(InputError, match="scheme 'w3' is not TensorFlow's; known are tensorflow"):
        model.quantize("w3", ())
    with pytest.raises(InputError, match="fixed activations need samples"):
        model.quantize("tensorflow_w8a8", ())
    with pytest.raises(InputError, match=r"image has the shape \[1, 3, 32, 32\], expected"):
        model.run({"image": np.zeros((1, 3, 32, 32), np.float32)})
    with pytest.raises(InputError, match="no way leads from Keras to 'rknn'"):
        model.export("rknn", opset=17, lengths=())
    two = opened("two.keras")
    with pytest.raises(InputError, match=r"^model two\.keras: .*16x8-bit not yet supported for op"):
        two.quantize("tensorflow_w8a16", samples(feeds(two)))
    assert process.holds is two


def test_the_licence_that_a_person_names_is_taken(models: Path, process: TensorFlow) -> None:
    named = open_keras(models / "plain_saved", process=process, licence="Apache-2.0")
    assert named.licence == named.describe().licence == "Apache-2.0"
