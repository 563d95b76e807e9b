"""The layers of pyproject.toml's import-linter contracts hold, and their configuration is alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="only where the source is judged, not on a device")
import grimp

ROOT = Path(__file__).parents[2]


def lint_imports(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
            "--no-logo",
            "--config",
            str(config),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_no_module_imports_against_the_direction() -> None:
    result = lint_imports(ROOT / "pyproject.toml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_contract_that_is_broken_is_noticed(tmp_path: Path) -> None:
    """The linter really reads our packages: a direction turned round must be an error."""
    config = tmp_path / "turned.toml"
    config.write_text(
        """
        [tool.importlinter]
        root_packages = ["edge_runtime", "converters"]
        [[tool.importlinter.contracts]]
        name = "turned round"
        type = "layers"
        layers = ["edge_runtime.errors", "edge_runtime.bundle"]
        """,
        encoding="utf-8",
    )
    result = lint_imports(config)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "edge_runtime.bundle is not allowed to import edge_runtime.errors" in result.stdout


def test_the_device_imports_nothing_that_it_does_not_install() -> None:
    """The tests' environment holds more than a device does, so an import could pass unnoticed."""
    installed = {
        *("numpy", "paho", "safetensors", "tokenizers", "tomli", "PIL"),
        *("onnxruntime", "ai_edge_litert", "tflite_runtime", "tuf", "cryptography"),
    }
    graph = grimp.build_graph("edge_runtime", include_external_packages=True, cache_dir=None)
    foreign = {
        (importer, imported)
        for imported in graph.modules
        if graph.is_module_squashed(imported)
        and imported not in installed
        and imported not in sys.stdlib_module_names
        for importer in graph.find_modules_that_directly_import(imported)
        if not importer.startswith("edge_runtime.fleet")
    }
    assert foreign == set()
