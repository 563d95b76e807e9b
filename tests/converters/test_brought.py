"""Models that somebody else made, end to end: from the file to a bundle that answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from converters.pipeline import Conversion, Options, convert
from converters.progress import Silent
from edge_runtime import load
from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.results import Anomaly, Classification, Values
from edge_runtime.profile import load_profile
from tests.converters.brought_models import (
    DATA,
    JSONL,
    brightness,
    linear,
    recipe,
    save_onnx,
    wav,
    write_pictures,
    write_rows,
)
from tests.converters.small import EdgeConvert

Run = Callable[[Path], Conversion]
STEPS = """
preprocess = [
    { step = "decode_image" },
    { step = "resize", width = 8, height = 8 },
    { step = "normalize", scale = 0.00392156862745098 },
]
labels = ["red", "green", "blue"]
"""


@pytest.fixture
def run(tmp_path: Path, cache_folder: Path) -> Run:
    """A recipe's conversion for the board beside it."""

    def converted(path: Path) -> Conversion:
        profile = load_profile(str(path.with_name("board.toml")))
        (done,) = convert(path, [profile], Options(tmp_path / "out", cache_folder), Silent())
        return done

    return converted


def variants(done: Conversion) -> set[str]:
    return {one.backend for one in done.model.candidates}


def quality(done: Conversion) -> tuple[str, float, float]:
    assert done.model.verdict is not None
    first = done.model.verdict.candidates[0]
    return first.metric, first.value, first.reference


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_picture_classifier_in_onnx_answers_for_files(
    tmp_path: Path, run: Run, batch: int | str
) -> None:
    brightness(tmp_path / "net.onnx", batch=batch)
    write_pictures(tmp_path / "calibration", 3, 1)
    write_pictures(tmp_path / "test", 4, 2)
    done = run(recipe(tmp_path, "image-classification", "net.onnx", head=STEPS))
    assert quality(done) == ("accuracy", 1.0, 1.0)
    assert variants(done) == {"onnxruntime"}
    left = done.passes["export"]["left_out"]
    assert isinstance(left, dict)
    assert "no way leads from ONNX to litert" in str(left["litert"])
    assert done.model.bundle is not None
    with load(done.model.bundle) as model:
        files = sorted((tmp_path / "test").glob("*/0.png"))
        results = model([file.read_bytes() for file in files])
        for file, result in zip(files, results, strict=True):
            assert isinstance(result, Classification)
            assert result.label == file.parent.name
        raw = list(model.manifest.golden.raw)
    assert raw
    assert all(one.startswith("golden/") and one.endswith(".png") for one in raw)


def test_softmax_is_added_only_where_the_model_has_none(tmp_path: Path, run: Run) -> None:
    kinds = [n % 3 for n in range(30)]
    rows = [{"a": float(k == 0), "b": float(k == 1), "label": "xyz"[k]} for k in kinds]
    matrix = np.array([[4, 0, 0], [0, 4, 0]], dtype=np.float32)
    bias = np.array([0, 0, 2], dtype=np.float32)
    columns = 'preprocess = [{ step = "columns", columns = [{ name = "a" }, { name = "b" }] }]\n'
    head = columns + 'labels = ["x", "y", "z"]'
    near = [{"a": (k == 0) + 0.01, "b": float(k == 1)} for k in kinds[:12]]
    write_rows(tmp_path / "calibration.jsonl", near)
    write_rows(tmp_path / "test.jsonl", rows)
    linear(tmp_path / "scores.onnx", matrix, bias=bias)
    done = run(recipe(tmp_path, "tabular-classification", "scores.onnx", head=head, data=JSONL))
    assert [one.step for one in done.model.interface(done.recipe.data).postprocess] == [
        "softmax", "top_k",
    ]  # fmt: skip
    assert quality(done)[1] == 1.0
    proto = onnx.load(tmp_path / "scores.onnx")
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["p"], "softmax"))
    proto.graph.output[0].name = "p"
    onnx.save(proto, tmp_path / "shares.onnx")
    done = run(recipe(tmp_path, "tabular-classification", "shares.onnx", head=head, data=JSONL))
    assert [one.step for one in done.model.interface(done.recipe.data).postprocess] == ["top_k"]


def test_a_regression_is_judged_in_its_own_unit(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(60, 3)).astype(np.float32)
    wanted = points @ np.array([2.0, -1.0, 0.5], np.float32) * 10 + 50
    rows = [
        {"row": point.tolist(), "label": float(value)}
        for point, value in zip(points, wanted, strict=True)
    ]
    linear(tmp_path / "net.onnx", np.array([[2.0], [-1.0], [0.5]], np.float32))
    write_rows(tmp_path / "calibration.jsonl", rows[:20])
    write_rows(tmp_path / "test.jsonl", rows[20:])
    names = ", ".join(f'{{ name = "{one}" }}' for one in "abc")
    head = (
        f'preprocess = [{{ step = "columns", columns = [{names}] }}]\n'
        'postprocess = [{ step = "values", names = ["celsius"], mean = [50], std = [10] }]'
    )
    done = run(recipe(tmp_path, "regression", "net.onnx", head=head, data=JSONL))
    metric, value, reference = quality(done)
    assert metric == "r2"
    assert reference == pytest.approx(1, abs=1e-4)
    assert value > 0.99
    assert done.model.bundle is not None
    with load(done.model.bundle) as model:
        result = model({"a": 1.0, "b": 0.0, "c": 0.0})
    assert isinstance(result, Values)
    assert result.values["celsius"] == pytest.approx(70, abs=1)


def test_an_autoencoder_is_judged_by_how_it_ranks_anomalies(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(4)

    def row(kind: str) -> dict[str, object]:
        x = rng.normal(size=4)
        x[2:] = 0 if kind == "normal" else 3
        return {"row": x.round(3).tolist(), "label": kind}

    kept = np.diag(np.array([1, 1, 0, 0], dtype=np.float32))
    linear(tmp_path / "net.onnx", kept)
    write_rows(tmp_path / "calibration.jsonl", [row("normal") for _ in range(20)])
    write_rows(tmp_path / "test.jsonl", [row("normal") for _ in range(20)] + [row("anomaly")] * 5)
    names = ", ".join(f'{{ name = "{one}" }}' for one in "abcd")
    head = (
        f'preprocess = [{{ step = "columns", columns = [{names}] }}]\n'
        'postprocess = [{ step = "anomaly", threshold = 1.0 }]'
    )
    done = run(recipe(tmp_path, "anomaly-detection", "net.onnx", head=head, data=JSONL))
    assert quality(done) == ("auc", 1.0, 1.0)
    assert done.model.bundle is not None
    with load(done.model.bundle) as model:
        result = model({"a": 0.1, "b": 0.2, "c": 3.0, "d": 3.0})
    assert isinstance(result, Anomaly)
    assert result.anomalous


def test_sounds_are_read_from_folders_of_their_labels(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(5)
    for split, count in (("calibration", 4), ("test", 6)):
        for label, loud in (("loud", 0.8), ("quiet", 0.05)):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                sound = wav(loud * rng.uniform(-1, 1, 64))
                (tmp_path / split / label / f"{number}.wav").write_bytes(sound)
    nodes = [
        onnx.helper.make_node("Abs", ["x"], ["a"]),
        onnx.helper.make_node("MatMul", ["a", "w"], ["m"], "mean"),
        onnx.helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    weights = {
        "w": np.repeat(np.array([[1.0, -1.0]], np.float32) / 64, 64, axis=0),
        "b": np.array([-0.2, 0.2], np.float32),
    }
    save_onnx(tmp_path / "net.onnx", weights, nodes, ("x", ["N", 64]), ("y", ["N", 2]))
    head = (
        'preprocess = [{ step = "decode_audio", sample_rate = 8000, samples = 64 }, '
        '{ step = "audio_tensor", layout = "samples" }]\nlabels = ["loud", "quiet"]'
    )
    done = run(recipe(tmp_path, "audio-classification", "net.onnx", head=head))
    assert quality(done) == ("accuracy", 1.0, 1.0)


def test_tensors_without_steps_are_compared_with_the_float_model(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(6)
    linear(tmp_path / "net.onnx", rng.normal(size=(8, 8)).astype(np.float32))
    for name, count in (("calibration", 8), ("test", 12)):
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(count, 8)).astype(np.float32))
    data = 'calibration = "calibration.npz"\ntest = "test.npz"'
    done = run(recipe(tmp_path, "tensors", "net.onnx", data=data))
    metric, value, _ = quality(done)
    assert metric == "cosine"
    assert 0.99 < value <= 1.000001


def test_a_torch_function_leads_to_both_engines(tmp_path: Path, run: Run) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    module = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), "
        "torch.nn.Linear(64, 4))\n    return module, {'input': torch.zeros(1, 8)}\n"
    )
    rng = np.random.default_rng(7)
    for name, count in (("calibration", 8), ("test", 12)):
        np.savez(tmp_path / f"{name}.npz", input=rng.normal(size=(count, 8)).astype(np.float32))
    data = 'calibration = "calibration.npz"\ntest = "test.npz"'
    done = run(recipe(tmp_path, "tensors", "net.py:make", data=data))
    assert variants(done) == {"onnxruntime", "litert"}
    assert done.model.verdict is not None
    floats = [one for one in done.model.verdict.candidates if one.id.endswith("float32")]
    assert len(floats) == 2
    assert all(one.cosine_min > 1 - 1e-5 for one in floats)


def test_inspect_tells_what_an_onnx_file_is(tmp_path: Path, edge_convert: EdgeConvert) -> None:
    brightness(tmp_path / "net.onnx")
    code, out, _ = edge_convert("inspect", tmp_path / "net.onnx")
    assert code == 0
    for words in (
        "ONNX",
        "opset       ai.onnx 17",
        "x  float32 [batch, 3, 8, 8] NCHW",
        "image-classification (a guess",
        "parameters  81",
        "unknown",
    ):
        assert words in out
    code, out, _ = edge_convert("inspect", "--json", tmp_path / "net.onnx")
    told = json.loads(out)
    assert told["operators"] == {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1}
    assert len(told["sha256"]) == 64


def test_a_free_dimension_is_named_and_can_be_given(
    tmp_path: Path, edge_convert: EdgeConvert
) -> None:
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    free: Any = ["N", 3, "height", "width"]
    save_onnx(tmp_path / "net.onnx", {}, nodes, ("x", free), ("y", free))
    code, out, err = edge_convert("inspect", tmp_path / "net.onnx")
    assert (code, out) == (1, "")
    assert "input x has the free dimensions height, width" in err
    assert "--shape x=1,3,N,N" in err
    code, out, _ = edge_convert("inspect", tmp_path / "net.onnx", "--shape", "x=1,3,4,5")
    assert code == 0
    assert "x  float32 [batch, 3, 4, 5]" in out
    code, _, err = edge_convert("inspect", tmp_path / "net.onnx", "--shape", "x=1,4,4,5")
    assert code == 1
    assert "shape of x is [1, 4, 4, 5], the model has" in err


@pytest.mark.parametrize(
    ("head", "data", "told"),
    [
        ("", DATA, "model net does not say how its inputs are made"),
        (STEPS.replace('"red", ', ""), DATA, "2 labels, the model has 3 outputs"),
        (STEPS.partition("labels")[0], DATA, "labels are missing: the model has 3 outputs"),
        (STEPS.replace("green", "red"), DATA, "label 'red' stands for two outputs"),
        (STEPS.replace("width = 8", "widht = 8, width = 8"), DATA, "resize has no option 'widht'"),
        (
            STEPS.replace("scale", "mean = [0.5, 0.5], std = [1, 1], scale"),
            DATA,
            "mean and std hold 2 numbers, the picture has 3 channels",
        ),
        (STEPS.replace("red", "pink"), DATA, "label 'red' is none of the model's 3: pink"),
        (STEPS.replace("decode_image", "decode_picture"), DATA, "'decode_picture' is not known"),
        (
            STEPS.replace("width = 8, height = 8", "width = 9, height = 9"),
            DATA,
            r"input x: expected the shape \[batch, 3, 8, 8\], "
            r"found \[1, 3, 9, 9\]",
        ),
        (STEPS, 'calibration = "calibration"\ntest = "nowhere"', "nowhere: cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(
    tmp_path: Path, run: Run, head: str, data: str, told: str
) -> None:
    brightness(tmp_path / "net.onnx")
    write_pictures(tmp_path / "calibration", 2, 1)
    write_pictures(tmp_path / "test", 2, 2)
    with pytest.raises(InputError, match=told):
        run(recipe(tmp_path, "image-classification", "net.onnx", head=head, data=data))


def test_a_picture_over_the_limit_is_refused_by_its_name(tmp_path: Path, run: Run) -> None:
    brightness(tmp_path / "net.onnx")
    write_pictures(tmp_path / "calibration", 2, 1)
    write_pictures(tmp_path / "test", 2, 2)
    Image.new("1", (12_000, 9_000)).save(tmp_path / "test" / "red" / "huge.png")
    with pytest.raises(InputError, match=r"huge\.png: image: .*108000000 pixels|huge\.png"):
        run(recipe(tmp_path, "image-classification", "net.onnx", head=STEPS))


def test_a_model_that_answers_no_numbers_is_told_before_it_is_converted(
    tmp_path: Path, run: Run
) -> None:
    linear(tmp_path / "net.onnx", np.full((2, 2), np.nan, np.float32))
    for name in ("calibration", "test"):
        np.savez(tmp_path / f"{name}.npz", x=np.eye(2, dtype=np.float32) + (name == "test"))
    data = 'calibration = "calibration.npz"\ntest = "test.npz"'
    with pytest.raises(InputError, match="model net: output y is not finite for"):
        run(recipe(tmp_path, "tensors", "net.onnx", data=data))


def test_a_file_of_another_format_is_told_so(tmp_path: Path, edge_convert: EdgeConvert) -> None:
    (tmp_path / "net.pt").write_bytes(b"x")
    code, out, err = edge_convert("inspect", tmp_path / "net.pt")
    assert (code, out) == (1, "")
    assert "a file of another format; expected .onnx, .tflite" in err


@pytest.mark.parametrize("name", ["gone.onnx", "gone.tflite", "gone.keras"])
def test_a_missing_file_is_named(tmp_path: Path, run: Run, name: str) -> None:
    with pytest.raises(InputError, match=f"model {name}: no such file"):
        run(recipe(tmp_path, "tensors", name))


def test_a_pass_on_weights_is_refused_for_other_tasks(tmp_path: Path, run: Run) -> None:
    path = recipe(tmp_path, "image-classification", "net.onnx", head=STEPS)
    text = path.read_text().replace('[[pass]]\nkind = "export"', '[[pass]]\nkind = "distil"\n'
                                    '[[pass]]\nkind = "export"')  # fmt: skip
    path.write_text(text)
    with pytest.raises(InputError, match="distil changes an encoder of texts"):
        run(path)
