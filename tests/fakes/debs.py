"""Debian packages of the agent, honest and not, made without dpkg."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from edge_runtime.bundle.agent_package import MACHINES, SITE, own_platform
from edge_runtime.bundle.deb import MAGIC, Deb

ROOT = Path(__file__).parents[2]
PYTHON, MACHINE = own_platform().removeprefix("python").split("-", 1)
ARCH = next(arch for arch, machine in MACHINES.items() if machine == MACHINE)
SUITE = {"3.10": "jammy", "3.11": "deb12", "3.13": "deb13"}.get(PYTHON, "other")


def control(version: str = "0.2.0", *, python: str = PYTHON, arch: str = ARCH, **more: str) -> str:
    """The fields of a package of the agent."""
    minor = int(python.partition(".")[2])
    fields = {
        "Package": "edge-agent",
        "Version": f"{version}+{SUITE}",
        "Architecture": arch,
        "Depends": f"python3 (>= {python}), python3 (<< 3.{minor + 1}), adduser",
        "Description": "the agent\n a second line",
        **more,
    }
    return "".join(f"{key}: {value}\n" for key, value in fields.items())


def member(name: str, data: bytes = b"", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive; `more` are attributes of its TarInfo."""
    info = tarfile.TarInfo(f"./{name}")
    info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def tree(files: Mapping[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The software's folder, with these files, and what a package has besides."""
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    site = Path(SITE)
    above = [str(parent) for parent in reversed(site.parents) if str(parent) != "."]
    made = [member(f, type=tarfile.DIRTYPE, mode=0o755) for f in [*above, SITE]]
    made += [member(f"{SITE}/{f}", type=tarfile.DIRTYPE, mode=0o755) for f in folders]
    made += [member(f"{SITE}/{name}", data) for name, data in sorted(files.items())]
    made.append(member("usr/bin/edge-agent", b"#!/bin/sh\n", mode=0o755))
    made.append(member("usr/lib/systemd/system/edge-agent.service", b"[Unit]\n"))
    return made


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Uncompressed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as made:
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": lambda data: b"\x28\xb5\x2f\xfd" + data,
}


def ar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """As dpkg-deb writes it."""
    out = MAGIC
    for name, data in members:
        head = f"{name:<16}{1_700_000_000:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
        out += head.encode() + data + b"\n" * (len(data) % 2)
    return out


def deb(
    members: Iterable[tuple[tarfile.TarInfo, bytes]],
    fields: str | None = None,
    pack: str = ".xz",
) -> bytes:
    """A package."""
    head = tar([member("control", (fields or control()).encode()), member("postinst", b"exit 1")])
    return ar(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", PACK[".gz"](head)),
            (f"data.tar{pack}", PACK[pack](tar(members))),
        ]
    )


def changed(package: Path, version: str, more: Mapping[str, str]) -> bytes:
    """A real package as another version, with something added to some of its files."""
    members = []
    with open(package, "rb") as file:
        found = Deb(file, str(package))
        was = found.control["version"].partition("+")[0]
        for entry, data in found.walk(SITE):
            path = entry.path.replace(
                f"edge_runtime-{was}.dist-info", f"edge_runtime-{version}.dist-info"
            )
            if data is None:
                members.append(member(f"{SITE}/{path}", type=tarfile.DIRTYPE, mode=0o755))
                continue
            content = data.read() + more.get(path, "").encode()
            if path.endswith(f"{version}.dist-info/METADATA"):
                content = content.replace(
                    f"Version: {was}".encode(), f"Version: {version}".encode()
                )
            mode = 0o755 if entry.executable else 0o644
            members.append(member(f"{SITE}/{path}", content, mode=mode))
    return deb(members, control(version))


def named(name: str, marker: bytes = b"") -> bytes:
    """What a package of this file name promises: `edge-agent_0.2.0+deb12_arm64.deb`."""
    _, version, arch = name.removesuffix(".deb").split("_")
    return small(version.partition("+")[0], marker, Version=version, arch=arch)


def small(version: str = "0.2.0", marker: bytes = b"", **more: str) -> bytes:
    """A package whose software is two files."""
    files = {
        "edge_runtime/__init__.py": b"VERSION = " + repr(version).encode() + b"\n" + marker,
        f"edge_runtime-{version}.dist-info/METADATA": f"Version: {version}\n".encode(),
    }
    return deb(tree(files), control(version, **more))
