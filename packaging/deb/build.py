"""Build the Debian packages of edge-agent for all boards, on any machine with Python and pip.

    .venv/bin/python packaging/deb/build.py                                  # all of them
    .venv/bin/python packaging/deb/build.py --suite deb12 --arch arm64
    .venv/bin/python packaging/deb/build.py --sign-key release@example.org

Steps, for each target: 1. wheels, by lock and hash; 2. files, without ballast; 3. the archive;
4. its bill of materials beside it. At the end the sums of all packages in the folder, and their
signature where a key is named. No step depends on the clock: times come from SOURCE_DATE_EPOCH,
else from the last commit, else from CHANGELOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tomllib

import package
import sums
import wheels
from locks import read_lock
from package import ROOT, Release
from suites import ARCHES, SUITES, PackagingError, Target, arch_named, suite_named

CACHE = ROOT / "build" / "deb"
MAX_DEB_BYTES = 45_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Build and say what was built."""
    arguments = _parser().parse_args(argv)
    try:
        suites = [suite_named(name) for name in arguments.suite or SUITES]
        arches = [arch_named(name) for name in arguments.arch or ARCHES]
        targets = [Target(suite, arch) for suite in suites for arch in arches]
        release = Release.parse(arguments.version or _version(), _epoch())
        if arguments.sign_key:
            sums.check_key(arguments.sign_key)
        built = [_one(target, release, arguments) for target in targets]
        sums.write(arguments.out, arguments.sign_key, _say)
    except PackagingError as error:
        print(f"deb: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(built))
    return 0


def _one(target: Target, release: Release, arguments: argparse.Namespace) -> dict[str, object]:
    begin = time.monotonic()
    _say(f"== {target}: {target.suite.title}, Python {target.suite.python_version}")
    found = wheels.download(read_lock(target), target, arguments.cache / "wheels")
    _say(f"   1/3 {len(found)} wheels, {sum(w.path.stat().st_size for w in found) / 1e6:.0f} MB")
    _say("   2/3 files; what is new is compressed, which takes a minute or two the first time")
    built = package.build(
        target, release, found, arguments.cache / "blocks", lambda line: _say(f"       {line}")
    )
    size = len(built.deb)
    if size > MAX_DEB_BYTES:
        raise PackagingError(f"{built.file_name} has {size} bytes, more than {MAX_DEB_BYTES}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / built.file_name
    # Whole or not at all: somebody may be waiting for it.
    passing = path.with_suffix(".new")
    passing.write_bytes(built.deb)
    passing.replace(path)
    (arguments.out / built.sbom_name).write_text(built.sbom)
    _say(f"   3/3 {path}: {size / 1e6:.1f} MB, {time.monotonic() - begin:.0f} s")
    return {
        "suite": target.suite.name,
        "arch": target.arch.name,
        "version": release.debian(target),
        "package": str(path),
        "sbom": str(arguments.out / built.sbom_name),
        "size_bytes": size,
        "installed_bytes": built.installed_kib * 1024,
    }


def _version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def _epoch() -> int:
    """The one time of everything of ours, in seconds since 1970.

    Raises:
        PackagingError: SOURCE_DATE_EPOCH is no number, or there is nothing to take a time from.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            given = done.stdout.strip()
        except FileNotFoundError:
            given = ""
    if not given.isdecimal():
        raise PackagingError(
            f"SOURCE_DATE_EPOCH: expected seconds since 1970, found {given!r}; set it where there "
            "is no git history"
        )
    return int(given)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build.py",
        description="Build the Debian packages of edge-agent.",
        epilog="examples:\n"
        "  build.py                                  all suites, all architectures\n"
        "  build.py --suite deb12 --arch arm64       a Raspberry Pi with bookworm\n"
        "  build.py --version 0.2.0 --sign-key you@example.org --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", action="append", help="one of " + ", ".join(SUITES))
    parser.add_argument("--arch", action="append", help="one of " + ", ".join(ARCHES))
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--version", help="another version than that of pyproject.toml")
    parser.add_argument("--sign-key", metavar="KEY", help="sign the sums with this key of gpg's")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="FOLDER", help=argparse.SUPPRESS
    )
    parser.add_argument("--json", action="store_true", help="what was built, on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
