"""What the long-lived processes may load: the supervisor's memory is paid on every device."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ENGINES = {"onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow"}
HOST = {"converters", "torch", "transformers", "onnx", "matplotlib", "jinja2", "rich"}
NUMBERS = {"numpy", "tokenizers", "safetensors"}
TRUST = {"tuf", "securesystemslib", "cryptography", "urllib3"}


def loaded_by(statement: str) -> set[str]:
    """Top-level names in `sys.modules` after `statement` ran in a fresh interpreter."""
    script = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in json.loads(result.stdout)}


def test_the_measure_sees_what_an_import_loads() -> None:
    assert "numpy" in loaded_by("import numpy")


@pytest.mark.parametrize(
    "module", ["edge_runtime", "edge_runtime.agent.supervisor", "edge_runtime.update.driver"]
)
def test_what_never_runs_a_model_loads_no_numpy_no_engine_and_no_cryptography(module: str) -> None:
    assert loaded_by(f"import {module}") & (ENGINES | HOST | NUMBERS | TRUST) == set()


@pytest.mark.parametrize("command", ["agent", "fleet"])
def test_help_of_a_command_loads_no_engine(command: str) -> None:
    loaded = loaded_by(f"import edge_runtime.{command}.cli")
    assert loaded & (ENGINES | (HOST - {"rich"})) == set()


def test_a_pipeline_without_a_bundle_loads_no_engine() -> None:
    """Engines are read from a table when a bundle names one: a device may have only that one."""
    assert loaded_by("import edge_runtime.inference.pipeline") & (ENGINES | HOST) == set()
