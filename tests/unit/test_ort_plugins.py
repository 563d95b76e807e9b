"""Plug-ins of ONNX Runtime that cannot be had. A real one that can: tests/contract/test_qnn.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_runtime.errors import DeviceError
from edge_runtime.inference.ort_plugins import PLUGINS, device, is_plugin, located
from edge_runtime.inference.pipeline import Pipeline
from tests.fakes.tiny import tiny_bundle, variant_json

QNN = "QNNExecutionProvider"
CPU = "CPUExecutionProvider"
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package in the place of the plug-in's, with that code."""
    site = tmp_path / "site"
    info = site / "onnxruntime_qnn-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-qnn\nVersion: 9.9\n")

    def put(code: str) -> None:
        (site / "onnxruntime_qnn.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "onnxruntime_qnn", raising=False)

    yield put
    sys.modules.pop("onnxruntime_qnn", None)


@pytest.fixture
def ort() -> Any:
    return pytest.importorskip("onnxruntime", reason='pip install "edge-runtime[onnxruntime]"')


def test_a_plugin_that_is_not_installed_is_told_and_the_cpu_answers(
    ort: Any, tmp_path: Path
) -> None:
    if PLUGINS[QNN].version is not None:
        pytest.skip("the plug-in is installed beside the tests")
    bundle = tiny_bundle(tmp_path, [variant_json("v", "model.onnx", providers=[QNN, CPU])])
    pipeline = Pipeline.open(bundle, bundle.manifest.variants[0])
    assert pipeline.accelerator.actual.endswith(f": {CPU}")
    assert pipeline.accelerator.degraded == (
        f"{QNN} does not run here (no part of this ONNX Runtime, and its plug-in onnxruntime-qnn "
        f"is not installed); {CPU} runs instead"
    )
    pipeline.close()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_driver", "No module named 'no_such_driver'"),
        ("raise OSError('libcdsprpc.so: cannot open')", "libcdsprpc.so: cannot open"),
        ("get_library_path = lambda: '/no/such/lib.so'", "Failed to load library /no/such/lib.so"),
        ("get_library_path = lambda: __file__", "site/onnxruntime_qnn.py: "),
        ("", "get_library_path"),
    ],
    ids=["dependency", "driver", "no library", "no ELF", "an engine of old"],
)
def test_a_plugin_that_does_not_load_says_why(
    ort: Any, tmp_path: Path, install: Install, code: str, says: str
) -> None:
    install(code)
    bundle = tiny_bundle(tmp_path, [variant_json("v", "model.onnx", providers=[QNN, CPU])])
    pipeline = Pipeline.open(bundle, bundle.manifest.variants[0])
    why = pipeline.accelerator.degraded
    assert f"{QNN} does not run here (its plug-in onnxruntime-qnn 9.9 does not work (" in why
    assert says in why
    pipeline.close()


def test_an_engine_that_takes_no_plugins_says_which_does(install: Install) -> None:
    install("get_library_path = lambda: '/no/such/lib.so'")
    old = ModuleType("onnxruntime")
    vars(old).update(__version__="1.21.1", get_available_providers=lambda: [CPU])
    assert is_plugin(old, QNN)
    with pytest.raises(DeviceError) as caught:
        device(old, QNN)
    assert str(caught.value) == (
        "ONNX Runtime 1.21.1 takes no plug-ins as onnxruntime-qnn 9.9, 1.23 or newer does"
    )


def test_a_provider_that_is_built_in_is_no_plugin() -> None:
    engine = ModuleType("onnxruntime")
    vars(engine).update(get_available_providers=lambda: [QNN, CPU])
    assert not is_plugin(engine, QNN)
    assert not is_plugin(engine, CPU)
    assert not is_plugin(engine, "NonsuchExecutionProvider")


def test_a_library_is_taken_from_beside_the_plugins_where_it_lies_there(
    install: Install, tmp_path: Path
) -> None:
    install("get_library_path = lambda: __file__")
    (tmp_path / "site/libQnnHtp.so").touch()
    (tmp_path / "site/burst").touch()

    def path(value: str) -> str:
        return located(QNN, {"backend_path": value})["backend_path"]

    assert path("libQnnHtp.so") == str(tmp_path / "site/libQnnHtp.so")
    assert path("libQnnGpu.so") == "libQnnGpu.so"  # The system's loader may know it.
    assert path("/usr/lib/libQnnHtp.so") == "/usr/lib/libQnnHtp.so"
    others = {"htp_performance_mode": "burst", "soc_model": "35"}
    assert located(QNN, others) == others


def test_the_table_costs_no_engine_and_no_numbers() -> None:
    code = (
        "import sys, edge_runtime.inference.ort_plugins\n"
        "print({'numpy', 'onnxruntime', 'onnxruntime_qnn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
