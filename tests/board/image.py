"""What every board has in common: kernel, first file system, read-only disks. Made once, cached.

Debian's packages are unpacked and not configured, so nothing is run under emulation. The root disk
holds Debian's Python and the product's dependencies as wheels for aarch64; the code disk holds this
checkout and is made anew every time.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import DeviceError
from tests.board import host
from tests.board.cpio import initramfs
from tests.board.modules import in_order

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).with_name("guest")
SUITE = "bookworm"
PYTHON = (3, 11)
"""Of that Debian."""
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("busybox-static", "linux-image-cloud-arm64", "libstdc++6", "python3")
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c_generic")
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17",
             "manylinux2014")  # fmt: skip
MOUNT_POINTS = ("proc", "sys", "dev", "run", "tmp", "data", "opt/edge", "opt/site", "etc")
APPLETS = ("sh", "mount", "insmod", "switch_root", "echo")
FORM = 1
"""Of the cached part: raised when it is made in another way."""
SAID = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Image:
    """Files for the emulator."""

    kernel: Path
    initrd: Path
    root: Path
    code: Path


def cache_folder() -> Path:
    """`$EDGE_CACHE/board`, or `build/board` of this checkout."""
    base = os.environ.get("EDGE_CACHE")
    return Path(base) / "board" if base else ROOT / "build" / "board"


def ready(cache: Path) -> bool:
    """Whether `make` would find all but the code."""
    return (cache / _key() / "root.img").is_file()


def make(cache: Path, folder: Path, say: SAID, mirror: str = MIRROR) -> Image:
    """The image; `folder` gets the code disk.

    Raises:
        InputError: a program is missing.
        DeviceError: a package or a wheel cannot be had, or a program fails.
    """
    made = cache / _key()
    if not ready(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as name:
            new = Path(name) / made.name
            new.mkdir()
            _common(new, Path(name) / "tree", say, mirror)
            shutil.rmtree(made, ignore_errors=True)
            new.rename(made)
    code = folder / "code.img"
    say("the code disk")
    _code(code)
    return Image(made / "kernel", made / "initrd", made / "root.img", code)


def _key() -> str:
    """Names everything that goes into the cached part."""
    parts = [SUITE, *PACKAGES, *MODULES, *_requirements(), _constraints().read_text()]
    parts += [str(FORM), (GUEST / "init").read_text()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _common(made: Path, tree: Path, say: SAID, mirror: str) -> None:
    say(f"Debian {SUITE} for arm64")
    unpacked(tree, SUITE, PACKAGES, mirror)
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, made / "kernel")
    say("kernel modules and the first file system")
    (made / "initrd").write_bytes(_initrd(tree))
    shutil.rmtree(tree / "lib" / "modules")
    shutil.rmtree(tree / "boot")
    for point in MOUNT_POINTS:
        (tree / point).mkdir(parents=True, exist_ok=True)
    _link(tree / "bin" / "sh", "busybox")
    for applet in ("ip", "date", "uname", "sleep"):
        _link(tree / "bin" / applet, "busybox")
    _link(tree / "etc" / "inittab", "/opt/edge/guest/inittab")
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/tmp:/bin/sh\n")
    (tree / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    say("wheels for aarch64")
    _wheels(tree / "opt" / "site")
    say("byte code")
    _compile(tree, "/")
    say("the root disk")
    size_mib = (tree_size(tree) >> 20) * 5 // 4 + 32
    host.call(
        "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", tree,
        made / "root.img", f"{size_mib}M",
    )  # fmt: skip


def unpacked(tree: Path, suite: str, packages: Sequence[str], mirror: str) -> None:
    """Debian's packages for arm64 and all that they need, as `tree`; nothing is configured."""
    packed = tree.with_suffix(".tar")
    host.call(
        "mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64",
        f"--include={','.join(packages)}", suite, packed, mirror,
    )  # fmt: skip
    _unpack(packed, tree)
    packed.unlink()


def _unpack(packed: Path, tree: Path) -> None:
    """Files, folders and links; whose they are does not matter, and device nodes come later."""
    with tarfile.open(packed) as archive:
        for member in archive:
            if member.isfile() or member.isdir() or member.issym() or member.islnk():
                member.mode |= 0o700 if member.isdir() else 0o400
                archive.extract(member, tree, filter="tar")


def _initrd(tree: Path) -> bytes:
    busybox = (tree / "bin" / "busybox").read_bytes()
    files = {"init": (0o755, (GUEST / "init").read_bytes()), "bin/busybox": (0o755, busybox)}
    (modules,) = (tree / "lib" / "modules").iterdir()
    for number, path in enumerate(in_order(modules, MODULES)):
        files[f"modules/{number:02}-{path.name}"] = (0o644, path.read_bytes())
    folders = ("bin", "modules", "proc", "sys", "dev", "root")
    return initramfs(files, folders, {f"bin/{name}": "busybox" for name in APPLETS})


def _requirements() -> list[str]:
    """What a device carries, with the engine."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["onnxruntime"]]


def _constraints() -> Path:
    return ROOT / "constraints" / "host.txt"


def _wheels(folder: Path) -> None:
    version = ".".join(map(str, PYTHON))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    command += ["--only-binary=:all:", "--no-compile", "--implementation", "cp"]
    command += ["--python-version", version, "--constraint", str(_constraints())]
    for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_aarch64"]
    done = subprocess.run([*command, *_requirements()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"pip: no wheels for aarch64 ({done.stderr.strip()[-600:]})")


def _compile(tree: Path, shown: str) -> None:
    """Byte code of the board's own Python, where it is this one: else every start takes longer."""
    if sys.version_info[:2] == PYTHON:
        compileall.compile_dir(
            tree, quiet=2, maxlevels=20, stripdir=str(tree), prependdir=shown, workers=1
        )


def _code(image: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "edge"
        for package in ("edge_runtime", "device_profiles"):
            _copy(ROOT / package, tree / package)
        _copy(GUEST, tree / "guest")
        _copy(GUEST, tree / "tests" / "board" / "guest")
        for init in ("tests", "tests/board"):
            shutil.copyfile(ROOT / init / "__init__.py", tree / init / "__init__.py")
        _compile(tree, "/opt/edge")
        image.unlink(missing_ok=True)
        host.call(
            "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", tree, image, "24M"
        )


def _copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("__pycache__"))


def _link(path: Path, aim: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(aim)


def tree_size(tree: Path) -> int:
    """What it takes on this disk, in bytes."""
    return sum(path.lstat().st_blocks * 512 for path in tree.rglob("*"))
