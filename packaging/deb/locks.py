"""The exact wheels of each target: lock files, and how they are made anew.

    .venv/bin/python packaging/deb/locks.py                # all of them
    .venv/bin/python packaging/deb/locks.py --suite deb12 --arch arm64

The roots are the device's dependencies in pyproject.toml. From there on requirements are followed
one round after the other: pip picks the newest wheels that meet what is known so far (`--no-deps`,
for the target's platform), their metadata adds requirements, until nothing is new. pip alone would
judge markers by the Python that runs it and not by the target's. Where `constraints/` has a version
for that Python it is taken: what a package carries is what the tests run on.

A lock has one hash for each wheel, and names no host: `pip download --require-hashes` takes the
wheels from whatever index the builder is set up for and refuses any other bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from suites import ARCHES, SUITES, PackagingError, Target, arch_named, suite_named

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LOCKS = HERE / "locks"

# The extras of a device: both engines, and tasks that look at pictures.
EXTRAS = ("onnxruntime", "litert", "images")

# What the metadata of others asks for and a device never imports: each with the reason. The tests
# import every module of the agent without them.
NEVER_IMPORTED = {
    "backports-strenum": "ai-edge-litert: only its ahead-of-time compiler",
    "coloredlogs": "onnxruntime: only its tools for transformers",
    "flatbuffers": "both engines: only to write models",
    "huggingface-hub": "tokenizers: only to download; a bundle brings its tokenizer",
    "ml-dtypes": "ai-edge-litert: only its ahead-of-time compiler",
    "packaging": "onnxruntime: only its tools",
    "protobuf": "both engines: only their tools; ONNX files are read in C++",
    "pycparser": "cffi: only to compile interfaces",
    "sympy": "onnxruntime: only symbolic shape inference, a tool of the host",
    "tqdm": "ai-edge-litert: only its ahead-of-time compiler",
}

# The environments whose tests stand for a Python.
CONSTRAINTS = {"3.10": "device.txt", "3.11": "host.txt", "3.13": "device.txt"}

MAX_ROUNDS = 12

Item = dict[str, Any]
"""One entry of pip's installation report, https://pip.pypa.io/en/stable/reference/installation-report/."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One wheel: a name in canonical form, its version and the SHA-256 of its bytes."""

    name: str
    version: str
    sha256: str


def lock_file(target: Target) -> Path:
    """Where a target's lock lies."""
    return LOCKS / f"{target}.txt"


def read_lock(target: Target) -> list[Pin]:
    """The wheels of a target, by name.

    Raises:
        PackagingError: there is no lock, or a line of it is no pin.
    """
    path = lock_file(target)
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise PackagingError(f"{path}: no lock for {target}; make it with locks.py") from None
    pins = []
    for line in lines:
        if line and not line.startswith("#"):
            pinned, found, sha256 = line.partition(" --hash=sha256:")
            name, equals, version = pinned.partition("==")
            if not found or not equals:
                raise PackagingError(
                    f"{path}: expected NAME==VERSION --hash=sha256:…, found {line}"
                )
            pins.append(Pin(name, version, sha256))
    return pins


def device_requirements(pyproject: Path, target: Target) -> list[Requirement]:
    """What pyproject.toml asks for on this device."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in EXTRAS for line in extras[name])]
    return list(_wanted(map(Requirement, lines), target))


def tested_versions(constraints: Path, target: Target) -> dict[str, str]:
    """The exact versions, as ==1.2.3, that a constraints file has for this target, by name."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    requirements = map(Requirement, filter(None, lines))
    return {
        canonicalize_name(each.name): str(each.specifier) for each in _wanted(requirements, target)
    }


def resolve(target: Target) -> list[Pin]:
    """The wheels that meet all requirements of the target: those tested, else the newest.

    Raises:
        PackagingError: pip found none, or no fixed point is reached.
    """
    roots = device_requirements(ROOT / "pyproject.toml", target)
    tested = tested_versions(
        ROOT / "constraints" / CONSTRAINTS[target.suite.python_version], target
    )
    known = {str(requirement) for requirement in roots}
    refused: set[str] = set()
    for _ in range(MAX_ROUNDS):
        report = _pick(sorted({*_pinned(known, tested), *refused}), target)
        if too_new := set(_too_new(report, target)):
            refused |= too_new
            continue
        found = {str(requirement) for requirement in roots}
        for item in report:
            asked = map(Requirement, item["metadata"].get("requires_dist", ()))
            extras = _extras_of(item["metadata"]["name"], known)
            found |= {str(each) for each in _wanted(asked, target, extras)}
        if found == known:
            return sorted(map(_pin, report), key=lambda pin: pin.name)
        known = found
    raise PackagingError(f"{target}: the requirements do not settle after {MAX_ROUNDS} rounds")


def write_lock(target: Target, pins: Sequence[Pin]) -> Path:
    """Write one lock file."""
    path = lock_file(target)
    head = (
        f"# Wheels of {target}: {target.suite.title}, Python {target.suite.python_version}.\n"
        "# Made by packaging/deb/locks.py from pyproject.toml; do not edit.\n"
    )
    lines = "".join(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n" for pin in pins)
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + lines)
    return path


def pip(*words: str) -> list[str]:
    """A pip command of this interpreter; PIP_ARGS is for an index of your own."""
    return [
        *(sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"),
        *words,
        *shlex.split(os.environ.get("PIP_ARGS", "")),
    ]


def for_target(target: Target) -> list[str]:
    """Pip's options that choose wheels for a target and never build anything."""
    abis = [f"--abi={abi}" for abi in (target.suite.abi, "abi3", "none")]
    return [
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={target.suite.python_version}",
        *abis,
        *(f"--platform={platform}" for platform in target.platforms()),
    ]


def _wanted(
    requirements: Iterable[Requirement], target: Target, extras: Iterable[str] = ()
) -> Iterable[Requirement]:
    """Those that hold on the target and that a device imports, without their markers."""
    environments = [target.markers() | {"extra": extra} for extra in ("", *extras)]
    for each in requirements:
        holds = each.marker is None or any(map(each.marker.evaluate, environments))
        if holds and canonicalize_name(each.name) not in NEVER_IMPORTED:
            each.marker = None
            yield each


def _pinned(known: Iterable[str], tested: Mapping[str, str]) -> list[str]:
    """What is known so far, and for each name of it the version that was tested."""
    names = {canonicalize_name(Requirement(each).name) for each in known}
    return sorted({*known, *(name + tested[name] for name in names if name in tested)})


def _extras_of(name: str, known: Iterable[str]) -> set[str]:
    wanted = canonicalize_name(name)
    requirements = map(Requirement, known)
    return {
        extra
        for requirement in requirements
        if canonicalize_name(requirement.name) == wanted
        for extra in requirement.extras
    }


def _pick(requirements: Sequence[str], target: Target) -> list[Item]:
    """What pip would install."""
    command = pip(
        *("install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report=-"),
        *("--ignore-requires-python", f"--target={HERE}", *for_target(target)),
    )
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PackagingError(f"{target}: pip finds no wheels:\n{done.stderr.strip()}")
    report: list[Item] = json.loads(done.stdout)["install"]
    return report


def _too_new(report: Iterable[Item], target: Target) -> Iterable[str]:
    """What excludes the picks that do not run on the target's Python.

    `pip install` compares Requires-Python with the Python that runs it; `_pick` has it not look.
    """
    for item in report:
        metadata = item["metadata"]
        supported = SpecifierSet(metadata.get("requires_python", ""))
        if not supported.contains(target.suite.python_version):
            yield f"{canonicalize_name(metadata['name'])}!={metadata['version']}"


def _pin(item: Item) -> Pin:
    metadata = item["metadata"]
    hashes = item["download_info"]["archive_info"].get("hashes", {})
    if "sha256" not in hashes:
        raise PackagingError(f"{metadata['name']}: the index gives no SHA-256")
    return Pin(canonicalize_name(metadata["name"]), metadata["version"], hashes["sha256"])


def main(argv: Sequence[str] | None = None) -> int:
    """Make locks anew."""
    parser = argparse.ArgumentParser(description="Make the lock files of the packages anew.")
    parser.add_argument("--suite", action="append", help="one of " + ", ".join(SUITES))
    parser.add_argument("--arch", action="append", help="one of " + ", ".join(ARCHES))
    arguments = parser.parse_args(argv)
    try:
        for suite in map(suite_named, arguments.suite or SUITES):
            for arch in map(arch_named, arguments.arch or ARCHES):
                target = Target(suite, arch)
                pins = resolve(target)
                print(f"{write_lock(target, pins).relative_to(ROOT)}: {len(pins)} wheels")
    except PackagingError as error:
        print(f"locks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
