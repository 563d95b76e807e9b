"""The Depends of a package, found in its shared libraries and not guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable

import elf
from archive import File
from suites import PackagingError, Target

# Which package of Debian and Ubuntu has a library, the same in all suites.
PACKAGES = {
    "libc6": {
        "ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6",
        "libpthread.so.0", "librt.so.1", "libutil.so.1",
    },
    "libgcc-s1": {"libgcc_s.so.1"},
    "libstdc++6": {"libstdc++.so.6"},
    "zlib1g": {"libz.so.1"},
}  # fmt: skip
OF_LIBRARY = {library: package for package, known in PACKAGES.items() for library in known}

# The first GCC whose libstdc++ has a version of its symbols.
# Source: https://gcc.gnu.org/onlinedocs/libstdc++/manual/abi.html
GLIBCXX = {21: "5.1", 22: "6.1", 23: "7.1", 24: "7.2", 25: "8.1", 26: "9.1", 27: "9.2", 28: "9.3",
           29: "11.1", 30: "12.1", 31: "13.1", 32: "13.2", 33: "14.1"}  # fmt: skip


def depends(files: Iterable[File], target: Target) -> str:
    """The field's value: Python, systemd, and what the libraries load.

    Raises:
        PackagingError: a library is for another processor, needs a newer C library than the suite
            has, or loads something that neither the package nor the table has.
    """
    libraries = {f.path.name: elf.read(f.data, str(f.path)) for f in files if elf.is_elf(f.data)}
    packages: set[str] = set()
    versions: set[str] = set()
    for name, library in libraries.items():
        if library.machine != target.arch.elf_machine:
            raise PackagingError(f"{name} is not for {target.arch.name}")
        versions |= library.versions
        for needed in library.needed:
            if needed in OF_LIBRARY:
                packages.add(OF_LIBRARY[needed])
            elif needed not in libraries:
                raise PackagingError(f"{name} needs {needed}, which no known package has")
    glibc = _newest(r"GLIBC_2\.(\d+)", versions)
    if glibc > target.suite.glibc_minor:
        raise PackagingError(
            f"wheels need glibc 2.{glibc}, {target.suite.title} has 2.{target.suite.glibc_minor}"
        )
    glibcxx = _newest(r"GLIBCXX_3\.4\.(\d+)", versions)
    if glibcxx > target.suite.glibcxx_minor:
        raise PackagingError(
            f"wheels need GLIBCXX_3.4.{glibcxx}, {target.suite.title} has "
            f"3.4.{target.suite.glibcxx_minor}"
        )
    bounds = {"libc6": f"2.{glibc}"}
    if glibcxx in GLIBCXX:
        bounds["libstdc++6"] = GLIBCXX[glibcxx]
    major, minor = target.suite.python
    fields = [
        f"python3 (>= {major}.{minor})",
        f"python3 (<< {major}.{minor + 1})",
        "init-system-helpers (>= 1.54~)",
        "systemd (>= 249)",
    ]
    for package in sorted(packages):
        fields.append(f"{package} (>= {bounds[package]})" if package in bounds else package)
    return ", ".join(fields)


def _newest(pattern: str, versions: Iterable[str]) -> int:
    matches = (re.fullmatch(pattern, version) for version in versions)
    return max((int(match[1]) for match in matches if match), default=0)
