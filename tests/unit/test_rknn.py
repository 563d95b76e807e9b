"""The engine for Rockchip's NPUs, with a stand-in for Rockchip's library: no board was at hand."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import DeviceError, IncompatibleError
from edge_runtime.fields import Json
from edge_runtime.inference.backend import Tensor, load_backend
from edge_runtime.inference.golden import load_golden, worst
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import self_test
from edge_runtime.profile import Engine, load_profile
from tests.fakes.rockchip import RKNNLite, compiled, module
from tests.fakes.tiny import FIXTURE, TEXTS, tiny_bundle, variant_json

LENGTH = 128
SHAPES = [[1, LENGTH], [1, LENGTH]]
Open = Callable[..., Pipeline]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[RKNNLite]:
    """The stand-in, where the device would have Rockchip's."""
    pytest.importorskip("onnxruntime")
    made = module()
    monkeypatch.setitem(sys.modules, "rknnlite", ModuleType("rknnlite"))
    monkeypatch.setitem(sys.modules, "rknnlite.api", made)
    return RKNNLite


def bundle_of(folder: Path, model: bytes | None = None, **changed: Any) -> VerifiedBundle:
    variant = variant_json(
        "npu",
        "model.rknn",
        backend="rknn",
        providers=[],
        signatures=[{"name": "model", "dims": {"sequence": LENGTH}}],
        placement={
            "accelerator": "rknpu",
            "share": {"value": 1.0, "evidence": "vendor-compiled", "where": "rknn-toolkit2"},
            "off": [],
        },
        tolerance={"metric": "cosine", "floor": 0.99},
        **changed.pop("variant", {}),
    )
    data = compiled((FIXTURE / "model.onnx").read_bytes(), SHAPES) if model is None else model
    return tiny_bundle(folder, [variant], {"model.rknn": data}, **changed)


@pytest.fixture
def opened(library: type[RKNNLite], tmp_path: Path) -> Open:
    """Opens a bundle's one variant with options of the profile."""

    def open_it(bundle: VerifiedBundle | None = None, **options: Json) -> Pipeline:
        found = bundle or bundle_of(tmp_path / "bundle")
        return Pipeline.open(found, found.manifest.variants[0], engine(**options))

    return open_it


def engine(**options: Json) -> Engine:
    return Engine("rknn", "float", (), 1, options, accelerator="rknpu")


def feeds(length: int = 12) -> dict[str, Tensor]:
    ids = np.full((1, length), 7, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_a_compiled_file_passes_the_self_test_and_every_case_is_padded(
    opened: Open, library: type[RKNNLite], tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path / "one")
    pipeline = opened(bundle)
    assert pipeline.lengths == (LENGTH,)
    report = self_test(bundle, pipeline, engine=engine())
    assert report.passed, report.reason
    assert (report.cases, report.share) == (len(TEXTS), None)
    (chip,) = library.made
    for given, order in chip.seen:
        assert [one.shape for one in given] == [(1, LENGTH)] * 2
        assert [one.dtype for one in given] == [np.int64] * 2
        assert order == "nchw"
    pipeline.close()


def test_inputs_are_handed_over_in_the_manifests_order(
    opened: Open, library: type[RKNNLite]
) -> None:
    given = feeds(LENGTH)
    given["attention_mask"][0, 5:] = 0
    opened().run(dict(reversed(given.items())))
    (seen, _) = library.made[0].seen[-1]
    assert seen[0][0, 0] == 7
    assert seen[1][0].sum() == 5


def test_rows_go_one_by_one_and_answers_are_float32(
    opened: Open, library: type[RKNNLite], tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path / "one")
    pipeline = opened(bundle)
    many = {name: np.repeat(value, 3, axis=0) for name, value in feeds().items()}
    found = pipeline.run(many)["logits"]
    assert found.shape == (3, 4)
    assert found.dtype == np.float32
    assert len(library.made[0].seen) == 3
    for golden in load_golden(bundle):
        assert worst(pipeline.run(golden.inputs), golden) > 0.9999


def test_what_runs_is_told_with_its_cores(opened: Open, library: type[RKNNLite]) -> None:
    told = opened(core_mask="NPU_CORE_0_1_2").accelerator
    assert told.requested == "rknn: NPU_CORE_0_1_2"
    assert told.actual.startswith("rknn-toolkit-lite2 ")
    assert told.actual.endswith(": NPU_CORE_0_1_2")
    assert told.degraded == ""  # there is nothing else that could run such a file
    assert library.made[0].mask == RKNNLite.NPU_CORE_0_1_2


def test_the_model_is_read_from_memory_that_is_gone_after_the_load(
    opened: Open, library: type[RKNNLite]
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    pipeline = opened()
    (chip,) = library.made
    assert chip.data is not None
    assert chip.data.startswith(b"RKNN")
    assert chip.path.startswith("/proc/self/fd/")
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the listing's own, at most
    pipeline.run(feeds())


def test_stdout_stays_clean_and_the_greeting_is_on_stderr(
    opened: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    opened().close()
    out, err = capfd.readouterr()
    assert out == ""
    assert "librknnrt version" in err
    assert "Driver Information" in err


def test_closing_releases_the_npu_once_and_a_closed_session_says_so(
    opened: Open, library: type[RKNNLite]
) -> None:
    pipeline = opened()
    pipeline.close()
    pipeline.close()
    assert library.made[0].releases == 1
    with pytest.raises(RuntimeError, match="variant npu is closed"):
        pipeline.run(feeds())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("driver", "cannot load model.rknn .*failed to open rknpu module, need to insmod"),
        ("platform", "cannot load model.rknn .*RKNN_ERR_TARGET_PLATFORM_UNMATCH"),
        ("magic", "model.rknn is not an RKNN model"),
    ],
)
def test_a_file_that_does_not_start_is_incompatible_with_the_librarys_reason(
    opened: Open, library: type[RKNNLite], tmp_path: Path, fault: str, message: str
) -> None:
    onnx = (FIXTURE / "model.onnx").read_bytes()
    models = {"platform": compiled(onnx, SHAPES, "rk3566"), "magic": onnx}
    bundle = bundle_of(tmp_path / "other", models.get(fault))
    library.faults = {fault}
    with pytest.raises(IncompatibleError, match=message) as caught:
        opened(bundle)
    assert "Traceback" not in str(caught.value)
    assert [chip.releases for chip in library.made] == [1] * len(library.made)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("busy", "variant npu: the NPU failed .*RKNN_ERR_TIMEOUT"),
        ("raises", "variant npu: the NPU failed .*the bus is gone"),
        ("shape", r"the NPU answers the shapes \[\[4\]\], the manifest's outputs have \[2\]"),
    ],
)
def test_an_npu_that_fails_in_a_run_is_a_device_error(
    opened: Open, library: type[RKNNLite], fault: str, message: str
) -> None:
    pipeline = opened()
    library.faults = {fault}
    with pytest.raises(DeviceError, match=message):
        pipeline.run(feeds())
    library.faults = set()
    assert pipeline.run(feeds())["logits"].shape == (1, 4)


def test_options_are_the_profiles_only_and_known(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="RKNN option 'turbo' is not known; known is core"):
        opened(turbo=True)
    with pytest.raises(IncompatibleError, match="core_mask = 'NPU_CORE_9' is not known"):
        opened(core_mask="NPU_CORE_9")
    # A constant that only a newer library has.
    with pytest.raises(IncompatibleError, match="NPU_CORE_ALL"):
        opened(core_mask="NPU_CORE_ALL")
    bundle = bundle_of(tmp_path / "bold", variant={"options": {"core_mask": "NPU_CORE_0"}})
    with pytest.raises(IncompatibleError, match="may not set the option 'core_mask'"):
        opened(bundle)


def test_outputs_that_the_library_cannot_give_are_refused(
    opened: Open, library: type[RKNNLite], tmp_path: Path
) -> None:
    labels = {"name": "logits", "dtype": "int64", "shape": ["batch", 4]}
    with pytest.raises(IncompatibleError, match=r"logits is float32 in .*, int64 in the manifest"):
        opened(bundle_of(tmp_path / "labels", outputs=[labels]))
    assert library.made[0].releases == 1


def test_without_the_library_the_engine_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rknnlite", None)
    assert load_backend("rknn").available() == (
        "no RKNN engine (rknn-toolkit-lite2 is not installed); "
        'install it with pip install "edge-runtime[rknn]"'
    )
    bundle = bundle_of(tmp_path / "bundle")
    with pytest.raises(IncompatibleError, match="variant npu: no RKNN engine"):
        Pipeline.open(bundle, bundle.manifest.variants[0])


def test_a_library_that_cannot_be_imported_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rknnlite").mkdir()
    (tmp_path / "rknnlite" / "__init__.py").write_text("")
    (tmp_path / "rknnlite" / "api.py").write_text("raise ImportError('wrong ELF class')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    for name in ("rknnlite", "rknnlite.api"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert load_backend("rknn").available() == (
        "rknn-toolkit-lite2 cannot be imported (wrong ELF class)"
    )
    sys.modules.pop("rknnlite", None)  # monkeypatch would bring it back at its end


def test_the_profile_of_the_board_runs_its_npu_by_this_engine() -> None:
    profile = load_profile("rk3588")
    found = profile.engine("rknn", "rknpu")
    assert found is not None
    assert profile.engines[0] == found
    assert found.compiler == "rknn"
