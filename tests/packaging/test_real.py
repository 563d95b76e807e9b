"""The real package of this machine's processor: small, clean by lintian, and all of it imports.

Building it downloads wheels and compresses them, once; what is remembered lies in build/deb.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.checkout import ARCH, DEB, ROOT, module

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(1500)]

LIMIT_BYTES = 45_000_000
SUITES = {(3, 10): "jammy", (3, 11): "deb12", (3, 13): "deb13"}

IMPORTS = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import edge_runtime, device_profiles
for module in pkgutil.walk_packages(edge_runtime.__path__, "edge_runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import ai_edge_litert.interpreter, onnxruntime, tokenizers, safetensors.numpy
import PIL.Image, PIL.JpegImagePlugin, PIL.PngImagePlugin
import cryptography.x509, paho.mqtt.client, securesystemslib.signer, tuf.ngclient, numpy
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
assert numpy.allclose(numpy.linalg.inv(numpy.eye(4)), numpy.eye(4))
assert len(numpy.fft.rfft(numpy.random.default_rng(1).random(8))) == 5
stray = [n for n, m in sys.modules.items() if "site-packages" in (getattr(m, "__file__", "") or "")]
assert not stray, stray
print("all", len(sys.modules))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the builder says of the package for this Python and processor."""
    suite = SUITES.get(sys.version_info[:2])
    if suite is None:
        pytest.skip(f"no package is for Python {platform.python_version()}")
    command = [
        *(sys.executable, str(DEB / "build.py"), "--suite", suite, "--arch", ARCH),
        *("--out", str(tmp_path_factory.mktemp("out")), "--json"),
    ]
    said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    answer: list[dict[str, Any]] = json.loads(said)
    return answer[0]


@pytest.fixture(scope="module")
def tree(built: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package unpacked."""
    folder = tmp_path_factory.mktemp("tree")
    subprocess.run(["dpkg-deb", "-x", built["package"], folder], check=True)
    return folder / "usr/lib/edge-agent"


def test_it_is_within_its_limit(built: dict[str, Any]) -> None:
    assert 20_000_000 < built["size_bytes"] <= LIMIT_BYTES


def test_every_module_of_the_agent_and_both_engines_import_from_it_alone(tree: Path) -> None:
    # -S: nothing of this environment helps.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", IMPORTS, tree],
        env={"ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("all ")


def test_no_engine_in_it_can_open_a_connection(tree: Path) -> None:
    """So none reports to its vendor, whatever it is told: it has no way to resolve a name."""
    elf: Any = module("elf")
    seen = 0
    for name in ("onnxruntime", "ai_edge_litert"):
        for path in (tree / name).rglob("*.so*"):
            data = path.read_bytes()
            assert elf.is_elf(data)
            assert b"\0getaddrinfo\0" not in data, path
            seen += len(data)
    assert seen > 30_000_000


def test_lintian_finds_no_error(built: dict[str, Any]) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed")
    done = subprocess.run(
        ["lintian", "--fail-on", "error", "--tag-display-limit", "0", built["package"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
