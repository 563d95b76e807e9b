"""The vendored wheels: downloaded once, checked against their lock, unpacked without ballast.

pip downloads (with `--require-hashes`, so that no other bytes are accepted); unpacking is ours: a
wheel is a zip, and what a device never imports stays out. Nothing of a wheel is run or compiled
here, so a package for ARM64 is built on any processor.
"""

from __future__ import annotations

import calendar
import hashlib
import re
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name, parse_wheel_filename

from locks import Pin, for_target, lock_file, pip
from suites import PackagingError, Target

# What no device needs, by pattern of the path in the wheel ("*" also matches "/"): the reason
# stands behind each. The tests import every module of the agent without them.
DROPPED = {
    "*/tests/*": "tests",
    "*/test/*": "tests",
    "numpy/testing/*": "tests",
    "numpy/conftest.py": "tests",
    "numpy/_core/*_tests.*.so": "tests",
    "numpy/_core/_simd.*.so": "tests of numpy's own SIMD layer",
    "*.pyi": "types, for tools",
    "*/py.typed": "types, for tools",
    "*.pxd": "to compile against",
    "*.pyx": "to compile against",
    "*.h": "to compile against",
    "*.hpp": "to compile against",
    "*.c": "to compile against",
    "*.a": "static libraries",
    "*.lib": "static libraries",
    "numpy/*/include/*": "to compile against",
    "numpy/f2py/*": "compiles Fortran",
    "numpy/distutils/*": "compiles extensions",
    "numpy/_pyinstaller/*": "for PyInstaller",
    "cffi/*": "compiles interfaces; cryptography needs only _cffi_backend",
    "onnxruntime/backend/*": "an interface for the onnx package",
    "onnxruntime/datasets/*": "examples",
    "onnxruntime/quantization/*": "a tool of the host",
    "onnxruntime/tools/*": "tools of the host",
    "onnxruntime/transformers/*": "a tool of the host",
    "onnxruntime/ThirdPartyNotices.txt": "is in the package's documentation",
    "onnxruntime/LICENSE": "is in the package's documentation",
    "onnxruntime/Privacy.md": "is in the package's documentation",
    "onnxruntime/capi/libonnxruntime.so*": "for programs in C: the Python module has all of it",
    "ai_edge_litert/aot/*": "the compiler of the host",
    "ai_edge_litert/tools/*": "tools of the host",
    "ai_edge_litert/*_pb2.py": "for protobuf, which is not here",
    "ai_edge_litert/schema_py_generated.py": "for flatbuffers, which is not here",
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so": "a GPU in browsers' terms: no profile has one",
    "ai_edge_litert/vendors/*": "for compiled models and their SDKs; the agent runs delegates",
    "securesystemslib/_vendor/ed25519/test_data/*": "tests",
    "securesystemslib/_vendor/*.sh": "tests",
    "*/.gitignore": "of the wheel's repository",
    "tokenizers/tools/*": "a visualizer",
    "PIL/_avif.*.so": "pictures are JPEG or PNG",
    "PIL/_webp.*.so": "pictures are JPEG or PNG",
    "PIL/_imagingft.*.so": "draws text",
    "PIL/_imagingtk.*.so": "for Tk windows",
    "PIL/_imagingcms.*.so": "colour management",
    "pillow.libs/libavif-*": "of _avif",
    "pillow.libs/libharfbuzz-*": "of _imagingft",
    "pillow.libs/libfreetype-*": "of _imagingft",
    "pillow.libs/libbrotli*": "of _imagingft",
    "pillow.libs/liblcms2-*": "of _imagingcms",
    "pillow.libs/libwebp*": "of _webp",
}

# Of a wheel's metadata only this stays: versions are read from it. Licences go to /usr/share/doc.
KEPT_METADATA = ("METADATA",)
LICENCE_NAMES = re.compile(r"(licen[cs]e|copying|notice|authors|thirdpartynotices)", re.IGNORECASE)

# Times of vendored files come from their wheel, so that two releases with the same wheels have
# the same bytes there. A wheel without a time worth the name gets this one.
OLDEST = 946_684_800  # 2000-01-01


@dataclass(frozen=True, slots=True)
class Wheel:
    """One downloaded wheel whose bytes are those of its pin."""

    pin: Pin
    path: Path

    @property
    def name(self) -> str:
        """As its project writes it, in canonical form."""
        return self.pin.name


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a wheel says about itself."""

    name: str
    version: str
    licence: str
    homepage: str


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a wheel that is kept; `path` is below the site folder."""

    path: PurePosixPath
    data: bytes
    mtime: int


def download(pins: Sequence[Pin], target: Target, cache: Path) -> list[Wheel]:
    """The wheels of a lock: from the cache where they are there, else by pip.

    Raises:
        PackagingError: pip cannot get one, or a wheel's bytes are not those of the lock.
    """
    cache.mkdir(parents=True, exist_ok=True)
    there = _cached(pins, cache)
    if len(there) < len(pins):
        command = pip(
            *("download", "--quiet", "--no-deps", "--require-hashes", f"--dest={cache}"),
            *(f"--requirement={lock_file(target)}", *for_target(target)),
        )
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PackagingError(f"{target}: pip cannot download: {done.stderr.strip()}")
        there = _cached(pins, cache)
    missing = [pin.name for pin in pins if pin not in there]
    if missing:
        raise PackagingError(f"{target}: not in {cache} after the download: {', '.join(missing)}")
    return [Wheel(pin, there[pin]) for pin in pins]


def metadata(wheel: Wheel) -> Metadata:
    """What the wheel's METADATA says; the licence as an SPDX expression where it is one."""
    with zipfile.ZipFile(wheel.path) as archive:
        text = archive.read(_metadata_name(archive, wheel)).decode()
    fields = HeaderParser().parsestr(text)
    urls = dict(_url(line) for line in fields.get_all("Project-URL", ()))
    homepage = fields.get("Home-page") or next(
        (urls[key] for key in ("homepage", "repository", "source", "documentation") if key in urls),
        f"https://pypi.org/project/{wheel.name}/",
    )
    licence = fields.get("License-Expression") or fields.get("License") or ""
    return Metadata(fields["Name"], fields["Version"], licence.split("\n")[0].strip(), homepage)


def members(wheel: Wheel) -> Iterator[Member]:
    """The files of a wheel that a device needs, sorted by path."""
    with zipfile.ZipFile(wheel.path) as archive:
        mtime = _mtime(archive)
        for name, path in _kept(archive):
            yield Member(path, archive.read(name), mtime)


def tops(wheel: Wheel) -> list[str]:
    """The names that a wheel puts into the site folder, sorted."""
    with zipfile.ZipFile(wheel.path) as archive:
        return sorted({path.parts[0] for _, path in _kept(archive)})


def licences(wheel: Wheel) -> Iterator[tuple[str, str]]:
    """Name and text of each licence and notice in the wheel, sorted by name."""
    with zipfile.ZipFile(wheel.path) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if name.endswith("/") or path.suffix in (".py", ".json", ".so"):
                continue
            above = path.parts[0].endswith(".dist-info") and "licenses" in path.parts[1:-1]
            if above or (len(path.parts) == 2 and LICENCE_NAMES.match(path.name)):
                yield path.name, archive.read(name).decode(errors="replace")


def is_dropped(path: str) -> bool:
    """Whether a path in a site folder is ballast."""
    top = path.partition("/")[0]
    if top.endswith(".dist-info"):
        return path.partition("/")[2] not in KEPT_METADATA
    return any(fnmatch(path, pattern) for pattern in DROPPED)


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(pins: Sequence[Pin], cache: Path) -> dict[Pin, Path]:
    """Pins whose wheel is in the cache with the right bytes."""
    by_release: dict[tuple[str, str], list[Pin]] = {}
    for pin in pins:
        by_release.setdefault((pin.name, pin.version), []).append(pin)
    found = {}
    for path in sorted(cache.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(path.name)
        for pin in by_release.get((canonicalize_name(name), str(version)), ()):
            if sha256_of(path) == pin.sha256:
                found[pin] = path
    return found


def _kept(archive: zipfile.ZipFile) -> Iterator[tuple[str, PurePosixPath]]:
    """Name and place of each member that a device needs, sorted by name."""
    for name in sorted(archive.namelist()):
        path = _placed(name)
        if path is not None and not is_dropped(str(path)):
            yield name, path


def _placed(name: str) -> PurePosixPath | None:
    """Where a member of a wheel goes below the site folder; None: nowhere.

    Raises:
        PackagingError: the member would leave the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise PackagingError(f"a wheel has a member that leaves its folder: {name}")
    if name.endswith("/"):
        return None
    if path.parts[0].endswith(".data"):
        # Scripts, headers and data of other schemes are not for us.
        return PurePosixPath(*path.parts[2:]) if path.parts[1] in ("purelib", "platlib") else None
    return path


def _metadata_name(archive: zipfile.ZipFile, wheel: Wheel) -> str:
    for name in archive.namelist():
        folder, _, file = name.partition("/")
        if folder.endswith(".dist-info") and file == "METADATA":
            return name
    raise PackagingError(f"{wheel.path}: no METADATA in it")


def _mtime(archive: zipfile.ZipFile) -> int:
    newest = max(info.date_time for info in archive.infolist())
    return max(_seconds(newest), OLDEST)


def _seconds(newest: tuple[int, ...]) -> int:
    """A zip has no time zone; it is taken as UTC, the same everywhere."""
    return calendar.timegm((*newest, 0, 0, 0))


def _url(line: str) -> tuple[str, str]:
    label, _, url = line.partition(",")
    return label.strip().lower(), url.strip()
