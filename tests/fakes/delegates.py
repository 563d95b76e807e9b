"""The delegate of `tests/fakes/delegate`, compiled here, and bundles and boards that use it."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny import variant_json

SOURCE = Path(__file__).parent / "delegate"
ACCELERATOR = "vx"
SHARE = 31 / 80
"""Of the tiny classifier's operators, which the delegate takes: ADD, SUB, MUL, FULLY_CONNECTED."""
COVERAGE = 0.3

PROFILE = """\
name = "generic-x86_64"
title = "A board with the tests' delegate"
arch = "x86_64"
ram_bytes = 2_147_483_648
storage_bytes = 8_589_934_592
cpu_features = ["avx2"]
python = ["3.11"]
{engines}
[budget]
latency_ms = 2000.0
ram_bytes = {ram_bytes}

[sources]
arch = "own choice"
ram_bytes = "own choice"
storage_bytes = "own choice"
cpu_features = "own choice"
python = "own choice"
engine = "own choice"
budget = "own choice"
"""
ENGINE = """
[[engine]]
backend = "litert"
accelerator = "{accelerator}"
coverage = {coverage}
quantization = "dynamic_w8_channel"
threads = 1

[engine.options]
delegate = "{library}"

[engine.options.delegate_options]
{options}
"""
CPU_ENGINE = """
[[engine]]
backend = "litert"
quantization = "dynamic_w8_channel"
threads = 1
"""


@functools.cache
def library() -> Path:
    """The delegate as a shared library, compiled once for each state of its source."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    sources = sorted(SOURCE.iterdir())
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"edge-test-delegate-{digest}.so"
    if not made.exists():
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "delegate.so"
            command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC"]
            command += ["-shared", "-fvisibility=hidden", "-o", str(fresh)]
            subprocess.run([*command, str(SOURCE / "delegate.c")], check=True)
            shutil.move(fresh, made)
    return made


def board(
    folder: Path,
    *options: Mapping[str, str],
    names: Sequence[str] = (ACCELERATOR, "ethos-u65"),
    coverage: float = COVERAGE,
    path: Path | None = None,
    ram_bytes: int = 0,
) -> str:
    """A profile with an engine for each of `options` of the delegate, then the CPU; its path."""
    engines = [
        ENGINE.format(
            accelerator=name,
            coverage=coverage,
            library=path or library(),
            options="\n".join(f'{key} = "{value}"' for key, value in given.items()),
        )
        for name, given in zip(names, options, strict=False)
    ]
    file = folder / "board.toml"
    text = PROFILE.format(engines="".join([*engines, CPU_ENGINE]), ram_bytes=ram_bytes)
    file.write_text(text)
    return str(file)


def accelerated(id: str = "npu", accelerator: str = ACCELERATOR, **changed: Any) -> dict[str, Any]:
    """A variant that runs the tiny float model on the delegate."""
    share = {"value": SHARE, "evidence": "rule-checked", "where": ""}
    placement = {"accelerator": accelerator, "share": share, "off": []}
    return variant_json(id, "model-float.tflite", placement=placement) | changed


def on_cpu(id: str = "cpu") -> dict[str, Any]:
    """The same on the CPU."""
    return variant_json(id, "model-float.tflite")
