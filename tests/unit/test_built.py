"""What engines build is kept by file, driver and device, and thrown away when it is no good."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.built import FOLDER, KEPT, Builds
from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.profile import CPU, DeviceProfile, Engine, load_profile
from tests.fakes.bundles import manifest

TENSORRT = "TensorrtExecutionProvider"


def board(**changed: Any) -> DeviceProfile:
    """A board whose ONNX Runtime builds with TensorRT, and has a CPU."""
    usual: dict[str, Any] = {"accelerator": "tensorrt", "build_s": 240.0}
    engine = Engine("onnxruntime", "", (TENSORRT,), 1, {TENSORRT: {"trt_fp16_enable": "1"}})
    engines = (dataclasses.replace(engine, **usual | changed), Engine("litert", "", (), 1, {}))
    return dataclasses.replace(load_profile("generic-x86_64"), engines=engines)


def variants() -> tuple[Manifest, Variant, Variant]:
    """A manifest, its variant for TensorRT and one for the CPU."""
    made = manifest()
    on_cpu, other = made.variants
    placement = dataclasses.replace(other.placement, accelerator="tensorrt")
    accelerated = dataclasses.replace(other, placement=placement)
    return dataclasses.replace(made, variants=(accelerated, on_cpu)), accelerated, on_cpu


def told(builds: Builds, made: Manifest, variant: Variant) -> Mapping[str, Any]:
    engine = builds.engine(made, variant)
    assert engine is not None
    options = engine.options[TENSORRT]
    assert isinstance(options, Mapping)
    return options


def test_tensorrt_keeps_its_engine_in_the_state_folder_beside_the_profiles_own_options(
    tmp_path: Path,
) -> None:
    made, variant, _ = variants()
    options = told(Builds(tmp_path, board()), made, variant)
    assert options["trt_fp16_enable"] == "1"
    assert options["trt_engine_cache_enable"] == "1"
    folder = Path(str(options["trt_engine_cache_path"]))
    assert folder.parent == tmp_path / FOLDER
    assert folder.is_dir()
    again = told(Builds(tmp_path, board()), made, variant)
    assert again["trt_engine_cache_path"] == str(folder)


def test_another_file_device_driver_or_way_to_run_it_is_another_build(tmp_path: Path) -> None:
    made, variant, _ = variants()
    machine = tmp_path / "machine-id"
    machine.write_text("one")
    library = tmp_path / "libnvinfer.so"
    library.write_bytes(b"1")
    options = {TENSORRT: {"trt_fp16_enable": "1", "library": str(library)}}

    usual = board(options=options)

    def folder(profile: DeviceProfile = usual, of: Variant = variant) -> str:
        return str(told(Builds(tmp_path, profile, machine), made, of)["trt_engine_cache_path"])

    first = folder()
    found = {first, folder(of=dataclasses.replace(variant, file=made.golden.file))}
    found.add(folder(board(options=options | {"graph_optimization_level": "all"})))
    machine.write_text("two")
    found.add(folder())
    machine.write_text("one")
    assert folder() == first
    library.write_bytes(b"2 and longer")
    found.add(folder())
    assert len(found) == 5


def test_an_engine_that_builds_nothing_is_as_the_profile_has_it(tmp_path: Path) -> None:
    made, _, on_cpu = variants()
    builds = Builds(tmp_path, board())
    assert builds.engine(made, on_cpu) is builds._profile.engine("litert", CPU)
    assert not (tmp_path / FOLDER).exists()


def test_a_build_that_is_no_good_is_thrown_away_and_made_anew(tmp_path: Path) -> None:
    made, variant, _ = variants()
    builds = Builds(tmp_path, board())
    folder = Path(str(told(builds, made, variant)["trt_engine_cache_path"]))
    (folder / "rotten.engine").write_bytes(b"?")
    builds.forget(made, variant)
    assert not folder.exists()
    assert told(builds, made, variant)["trt_engine_cache_path"] == str(folder)
    assert list(folder.iterdir()) == []


def test_the_latest_builds_stay(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        folder = tmp_path / FOLDER / f"{number:032x}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    Builds(tmp_path, board()).prune()
    assert sorted(one.name for one in (tmp_path / FOLDER).iterdir()) == [
        f"{number:032x}" for number in range(3, KEPT + 3)
    ]


def test_a_disk_that_takes_no_folder_costs_the_build_and_nothing_else(tmp_path: Path) -> None:
    made, variant, _ = variants()
    (tmp_path / FOLDER).write_text("in the way")
    assert told(Builds(tmp_path, board()), made, variant) == {"trt_fp16_enable": "1"}


@pytest.mark.parametrize(
    ("usual", "most", "found"), [(60, 270, 240), (300, 270, 270), (60, 90, 90)]
)
def test_a_proof_that_builds_has_the_time_for_it_within_the_workers(
    tmp_path: Path, usual: float, most: float, found: float
) -> None:
    _, variant, on_cpu = variants()
    builds = Builds(tmp_path, board())
    assert builds.limit_s(variant, usual, most) == found
    assert builds.limit_s(on_cpu, usual, most) == min(usual, most)
