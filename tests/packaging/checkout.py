"""A copy of the checkout with small wheels in place of the real ones, to build packages from.

The builder is run as people run it: a command of its own, in another folder, with another umask,
time zone and cache each time. Only its wheels are small: pure Python, and one shared library of
this machine's processor.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy.random.bit_generator

ROOT = Path(__file__).parents[2]
DEB = ROOT / "packaging" / "deb"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
SUITE = "deb13"
EPOCH = 1_790_000_000
# A library as vendors make them: from a manylinux wheel.
LIBRARY = Path(numpy.random.bit_generator.__file__).read_bytes()
COPIED = (
    "packaging/deb", "packaging/systemd", "edge_runtime", "device_profiles", "constraints",
)  # fmt: skip


def module(name: str) -> ModuleType:
    """A module of packaging/deb, which is no package."""
    if str(DEB) not in sys.path:
        sys.path.append(str(DEB))
    return importlib.import_module(name)


def wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes], licence: str) -> str:
    """Write a wheel; its line in a lock."""
    info = f"{name}-{version}.dist-info"
    about = (
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
        f"License-Expression: {licence}\nProject-URL: Homepage, https://{name}.example\n"
    )
    members = {
        **files,
        f"{info}/METADATA": about.encode(),
        f"{info}/RECORD": b"",
        f"{info}/licenses/LICENSE": b"Copyright (c) 2020 Somebody Else\n\nDo as you like.\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member, (2024, 2, 29, 12, 0, 0)), data)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder to build in."""

    folder: Path

    @property
    def wheels(self) -> Path:
        """What the builder finds downloaded."""
        return self.folder / "cache" / "wheels"

    def lock(self, *lines: str, suite: str = SUITE, arch: str = ARCH) -> None:
        """Put these lines in the place of a lock."""
        path = self.folder / f"packaging/deb/locks/{suite}-{arch}.txt"
        path.write_text("# a lock\n" + "".join(lines))

    def build(
        self, *words: str, umask: int = 0o022, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the builder for this machine's processor."""
        command = [
            *(sys.executable, "packaging/deb/build.py", "--suite", SUITE, "--arch", ARCH),
            *("--out", "out", "--cache", "cache", "--json", *words),
        ]
        # Whatever is asked of an index here is a fault: the wheels are there.
        index = {"PIP_ARGS": "--no-index", "SOURCE_DATE_EPOCH": str(EPOCH)}
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **index, **variables},
            umask=umask,
            capture_output=True,
            text=True,
            check=False,
        )

    def built(self, *words: str, umask: int = 0o022, **variables: str) -> Path:
        """The package that the builder makes."""
        done = self.build(*words, umask=umask, **variables)
        assert done.returncode == 0, done.stderr
        answer: list[dict[str, str]] = json.loads(done.stdout)
        return self.folder / answer[0]["package"]


def checkout(folder: Path) -> Checkout:
    """A copy with a lock of two small wheels."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    made = Checkout(folder)
    made.wheels.mkdir(parents=True)
    pure = {
        "gentle/__init__.py": b"WORD = 'hello'\n",
        "gentle/tests/test_gentle.py": b"assert False\n",
        "gentle/__init__.pyi": b"WORD: str\n",
        "gentle-1.0.data/scripts/gentle": b"#!python\n",
    }
    native = {"swift/__init__.py": b"", "swift/_swift.so": LIBRARY, "swift/swift.h": b"int x;"}
    made.lock(
        wheel(made.wheels, "gentle", "1.0", pure, "MIT"),
        wheel(made.wheels, "swift", "2.5", native, "BSD-3-Clause OR Apache-2.0"),
    )
    return made


def listing(deb: Path) -> dict[str, str]:
    """Path and mode of everything in a package, by dpkg-deb."""
    said = subprocess.run(["dpkg-deb", "-c", deb], capture_output=True, text=True, check=True)
    rows = (line.split(None, 5) for line in said.stdout.splitlines())
    return {row[5].removeprefix("."): row[0] + " " + row[1] for row in rows}


def field(deb: Path, name: str) -> str:
    """A field of the control file, by dpkg-deb."""
    return subprocess.check_output(["dpkg-deb", "-f", deb, name], text=True).strip()
