"""Which distributions and processors get a package, and what each of them brings.

A suite fixes the Python that its packages run on and the C library that wheels may ask for; an
architecture fixes which wheels. 32-bit boards are named here only to be refused in one sentence:
the engines have no wheels for them.
"""

from __future__ import annotations

from dataclasses import dataclass

# The oldest tag that a wheel may carry; everything from there to the suite's own is accepted.
OLDEST_GLIBC_MINOR = 5


class PackagingError(Exception):
    """What the builder was asked for cannot be done. One sentence."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One distribution release."""

    name: str
    title: str
    python: tuple[int, int]
    # Of GLIBC_2.x and GLIBCXX_3.4.x, the newest symbols that its C and C++ libraries have.
    glibc_minor: int
    glibcxx_minor: int

    @property
    def python_version(self) -> str:
        """As 3.11."""
        return ".".join(map(str, self.python))

    @property
    def abi(self) -> str:
        """As cp311."""
        return "cp{}{}".format(*self.python)


@dataclass(frozen=True, slots=True)
class Arch:
    """One processor, in the words of Debian, of wheels and of ELF files."""

    name: str
    machine: str
    elf_machine: int


@dataclass(frozen=True, slots=True)
class Target:
    """What one package is for."""

    suite: Suite
    arch: Arch

    def __str__(self) -> str:
        return f"{self.suite.name}-{self.arch.name}"

    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there, the newest first."""
        newest = range(self.suite.glibc_minor, OLDEST_GLIBC_MINOR - 1, -1)
        tags = [f"manylinux_2_{minor}_{self.arch.machine}" for minor in newest]
        older = ["manylinux2014"] + (["manylinux2010"] if self.arch.name == "amd64" else [])
        return tags + [f"{name}_{self.arch.machine}" for name in older]

    def markers(self) -> dict[str, str]:
        """The environment in which a requirement's marker (PEP 508) is judged for this target."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.suite.python_version}.0",
            "os_name": "posix",
            "platform_machine": self.arch.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.suite.python_version}.0",
            "python_version": self.suite.python_version,
            "sys_platform": "linux",
            "extra": "",
        }


SUITES = {
    suite.name: suite
    for suite in (
        Suite("deb12", "Debian 12, Raspberry Pi OS bookworm", (3, 11), 36, 30),
        Suite("deb13", "Debian 13, Raspberry Pi OS trixie", (3, 13), 41, 33),
        Suite("jammy", "Ubuntu 22.04, JetPack 6", (3, 10), 35, 30),
    )
}

# The machine numbers are those of the ELF specification: EM_AARCH64, EM_X86_64.
ARCHES = {arch.name: arch for arch in (Arch("arm64", "aarch64", 183), Arch("amd64", "x86_64", 62))}

WITHOUT_ENGINES = ("armhf", "armel", "armv7l", "armv6l", "i386")


def suite_named(name: str) -> Suite:
    """The suite of this name.

    Raises:
        PackagingError: there is none.
    """
    if name not in SUITES:
        raise PackagingError(f"suite {name!r} is unknown; these are known: {', '.join(SUITES)}")
    return SUITES[name]


def arch_named(name: str) -> Arch:
    """The architecture of this name.

    Raises:
        PackagingError: there is none, or no engine has wheels for it.
    """
    if name in WITHOUT_ENGINES:
        raise PackagingError(
            f"there is no package for {name}: neither ONNX Runtime nor LiteRT publishes wheels for "
            "32-bit processors; flash a 64-bit system (arm64), which every board with an ARMv8 "
            "core runs, see docs/packages.md"
        )
    if name not in ARCHES:
        raise PackagingError(
            f"architecture {name!r} is unknown; these are known: {', '.join(ARCHES)}"
        )
    return ARCHES[name]
