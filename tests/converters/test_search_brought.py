"""A search for models that are no encoders of texts: every way of quantizing, on every engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from converters.model import Artifact, Candidate
from converters.pipeline import Options as ConvertOptions
from converters.pipeline import convert
from converters.progress import Silent
from converters.quantize import quantizer
from converters.quantize.config import QuantizeConfig
from converters.recipe import load_recipe, parse_recipe
from converters.report.search import search_page
from converters.search.base import base_recipe
from converters.search.budget import Budget
from converters.search.result import ORIGINAL, Found
from converters.search.schemes import unchanged
from converters.search.search import Options, optimize
from converters.search.written import recipe_toml
from edge_runtime import load
from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.results import Classification
from edge_runtime.profile import DeviceProfile, load_profile
from tests.converters.brought_models import brightness, linear, recipe, save_onnx, write_pictures
from tests.converters.small import EdgeConvert

STEPS = """
preprocess = [
    { step = "decode_image" },
    { step = "resize", width = 8, height = 8 },
    { step = "normalize", mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] },
]
labels = ["red", "green", "blue"]
"""
PROGRAM = '''
import torch

class Colours(torch.nn.Module):
    """Which channel is brightest, through layers that are large enough to be rounded."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = torch.nn.Conv2d(3, 32, 3, padding=1)
        self.wide = torch.nn.Linear(32, 512)
        self.last = torch.nn.Linear(512, 3)
        with torch.no_grad():
            self.first.weight.mul_(0.02)
            self.wide.weight.mul_(0.02)
            self.last.weight.mul_(0.02)
            for channel in range(3):
                self.first.weight[channel, channel, 1, 1] += 1
                self.wide.weight[channel, channel] += 1
                self.last.weight[channel, channel] += 1

    def forward(self, x):
        hidden = torch.relu(self.first(x)).mean((2, 3))
        return self.last(torch.relu(self.wide(hidden)))


def net():
    return Colours().eval(), (torch.zeros(1, 3, 8, 8),)
'''


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a small network in torch that goes to both engines."""
    folder = tmp_path_factory.mktemp("colours")
    (folder / "net.py").write_text(PROGRAM)
    write_pictures(folder / "calibration", 4, 1)
    write_pictures(folder / "test", 8, 2)
    return recipe(folder, "image-classification", "net.py:net", head=STEPS)


@pytest.fixture(scope="module")
def device(colours: Path) -> DeviceProfile:
    return load_profile(str(colours.with_name("board.toml")))


@pytest.fixture(scope="module")
def found(
    colours: Path,
    device: DeviceProfile,
    cache_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Found:
    """A search for a small file."""
    out = tmp_path_factory.mktemp("found")
    budget = Budget(smaller=2, drop=0.1)
    return optimize(load_recipe(colours), device, budget, Options(out, cache_folder, 5), Silent())


def names(found: Found, backend: str) -> set[str]:
    return {
        one.name.partition("-cpu-")[2] for one in found.finalists if one.backend == backend
    }  # fmt: skip


def test_every_way_is_measured_on_both_engines(found: Found) -> None:
    assert names(found, "onnxruntime") >= {
        "float32", "static-w8a8-channel", "dynamic-w8-channel", "weight-w8-channel",
    }  # fmt: skip
    assert names(found, "litert") >= {
        "float32", "static-w8a8-channel", "dynamic-w8-channel", "weight-w8-channel", "weight-f16",
    }  # fmt: skip
    for one in found.finalists:
        assert one.candidate == ORIGINAL
        assert one.evidence.n == 24
        assert one.cost.ram_bytes > 10e6
        assert one.cost.latency_ms > 0


def test_the_choice_is_the_best_of_all_engines(found: Found) -> None:
    assert found.choice is not None
    chosen = found.finalist(found.choice)
    within = [one for one in found.finalists if not found.budget.broken(one.cost)]
    assert {one.backend for one in within} == {"onnxruntime", "litert"}
    assert min((one.cost.drop, one.cost.latency_ms) for one in within) == (
        chosen.cost.drop, chosen.cost.latency_ms,
    )  # fmt: skip
    floats = [one for one in found.finalists if not one.quantized]
    assert all("size_bytes" in found.budget.broken(one.cost) for one in floats)


def test_what_was_not_done_is_said_once(found: Found) -> None:
    assert [note for note in found.notes if note.startswith("training was left out")] == [
        found.notes[0]
    ]
    assert "Training was left out: only encoders of texts" in search_page(found)


def test_the_bundle_answers_and_its_recipe_makes_it_again(
    found: Found, device: DeviceProfile, colours: Path, cache_folder: Path, tmp_path: Path
) -> None:
    assert found.chosen is not None
    assert found.choice is not None
    assert found.recipe is not None
    bundle = found.chosen.model.bundle
    assert bundle is not None
    manifest = verify(open_bundle(bundle)).manifest
    assert [one.id for one in manifest.variants] == [found.finalist(found.choice).name]
    with load(bundle) as model:
        (result,) = model([(colours.parent / "test" / "green" / "0.png").read_bytes()])
        assert isinstance(result, Classification)
        assert result.label == "green"
    (again,) = convert(found.recipe, [device], ConvertOptions(tmp_path, cache_folder), Silent())
    assert again.model.bundle is not None
    assert Artifact.of(bundle).sha256 == Artifact.of(again.model.bundle).sha256


def test_the_page_tells_of_classes_nodes_and_times(found: Found) -> None:
    page = search_page(found)
    assert "Which classes are taken for which" in page
    assert all(f"<span>{name}</span>" in page for name in ("red", "green", "blue"))
    assert "on XNNPACK (measured)" in page
    assert '<h3 class="soft">Latency</h3>' in page
    assert "<dt>model</dt><dd>net</dd>" in page


def test_a_budget_that_nothing_meets_ends_with_1_and_names_the_nearest(
    colours: Path, cache_folder: Path, edge_convert: EdgeConvert, tmp_path: Path
) -> None:
    code, out, err = edge_convert(
        "optimize", colours, "--profile", colours.with_name("board.toml"), "--budget",
        "size_bytes=1000,drop=10%", "--out", tmp_path, "--cache", cache_folder,
    )  # fmt: skip
    assert code == 1
    assert "no candidate meets it; the nearest is original/" in err
    assert "expected size 1.0 kB at most" in err
    assert "over budget" in out
    assert sorted(one.name for one in tmp_path.iterdir()) == ["optimize.html", "optimize.json"]
    told = json.loads((tmp_path / "optimize.json").read_text())
    assert told["choice"] is None
    assert told["notes"][0].startswith("training was left out")


@pytest.fixture(scope="module")
def rough(cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a convolution in ONNX, which only one engine takes."""
    folder = tmp_path_factory.mktemp("rough")
    brightness(folder / "net.onnx")
    write_pictures(folder / "calibration", 4, 1)
    write_pictures(folder / "test", 8, 2)
    return recipe(folder, "image-classification", "net.onnx", head=STEPS)


def test_what_is_the_same_as_another_is_left_out_and_float_may_be_the_choice(
    rough: Path, cache_folder: Path, tmp_path: Path
) -> None:
    """A kernel of 81 numbers: what scales and conversions add is more than what it saves."""
    board = load_profile(str(rough.with_name("board.toml")))
    budget = Budget(size_bytes=1.1 * (rough.parent / "net.onnx").stat().st_size, drop=0.1)
    found = optimize(
        load_recipe(rough), board, budget, Options(tmp_path, cache_folder, 5), Silent()
    )
    twin = "the file is that of ort-cpu-dynamic-w8-channel"
    assert f"onnxruntime weight_w8_channel was left out: {twin}" in found.notes
    assert found.choice == f"{ORIGINAL}/ort-cpu-float32"
    assert found.recipe is not None
    written = load_recipe(found.recipe)
    assert written.config(QuantizeConfig) is None
    assert written.source.model.endswith("net.onnx")
    assert written.steps.labels == ("red", "green", "blue")
    assert found.chosen is not None
    assert [one.id for one in found.chosen.model.candidates] == ["ort-cpu-float32"]


def test_a_file_in_which_nothing_takes_the_scheme_is_known(tmp_path: Path) -> None:
    scale = {"scale": np.full(4, 3, np.float32)}
    node = onnx.helper.make_node("Mul", ["x", "scale"], ["y"], "times")
    bare = save_onnx(tmp_path / "bare.onnx", scale, [node], ("x", ["N", 4]), ("y", ["N", 4]))
    full = linear(tmp_path / "full.onnx", np.ones((4, 3), np.float32))
    for path, idle in ((bare, True), (full, False)):
        made = path.with_name(f"quantized-{path.name}")
        made.write_bytes(
            quantizer("onnxruntime", "dynamic_w8_channel")(path.read_bytes(), ()).model
        )
        before, after = (
            Candidate("onnxruntime", precision, Artifact.of(file), (), {})
            for precision, file in (("float32", path), ("dynamic_w8_channel", made))
        )
        assert unchanged(after, before) is idle


def test_a_recipe_is_read_back_with_steps_shapes_and_files(rough: Path, tmp_path: Path) -> None:
    plain = load_recipe(rough)
    shaped = replace(plain, source=replace(plain.source, shapes={"x": (1, 3, 8, 8)}))
    again = parse_recipe(recipe_toml(shaped, tmp_path, "").encode(), tmp_path / "chosen.toml")
    assert again.steps == plain.steps
    assert again.source.shapes == {"x": (1, 3, 8, 8)}
    assert (tmp_path / again.source.model).resolve() == (rough.parent / "net.onnx").resolve()
    program = replace(plain, source=replace(plain.source, model="net.py:net"))
    (rough.parent / "net.py").touch()
    again = parse_recipe(recipe_toml(program, tmp_path, "").encode(), tmp_path / "chosen.toml")
    file, _, function = again.source.model.rpartition(":")
    assert (tmp_path / file).resolve() == (rough.parent / "net.py").resolve()
    assert function == "net"


def test_a_model_that_says_nothing_of_its_steps_needs_a_recipe(rough: Path) -> None:
    with pytest.raises(InputError, match="in ONNX, which does not say what stands around it"):
        base_recipe(str(rough.parent / "net.onnx"), None, rough.parent)
