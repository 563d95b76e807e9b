"""The programs that touch file systems: e2fsprogs for ext4, mtools for FAT.

They are run on a file, never on a mounted disk, with their output bounded and a time limit: what
they read may be damaged or hostile. An image is known to them as `image` in a folder of ours, so
that no name of a person's file is ever read as an option or an offset.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.text import plain

PACKAGES = {
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "mcopy": "mtools",
    "mdir": "mtools",
    "mtype": "mtools",
}
"""Each program and the Debian package that has it."""
IMAGE = "image"
MAX_OUT_BYTES = 32 << 20
TIMEOUT_S = 600.0
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program said. `whole` is false where it said more than was asked for."""

    code: int
    out: bytes
    err: str
    whole: bool


def demand(programs: Iterable[str] = tuple(PACKAGES)) -> None:
    """Raises InputError: programs are missing; it names the packages to install."""
    path = _path()
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if missing:
        packages = sorted({PACKAGES[name] for name in missing})
        raise InputError(
            f"needs the programs {', '.join(missing)}; on Debian and Ubuntu: "
            f"sudo apt-get install {' '.join(packages)}"
        )


def run(
    program: str,
    *words: str,
    folder: Path,
    max_out_bytes: int = MAX_OUT_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Ran:
    """Run `program` in `folder`; it is ended where it says more than `max_out_bytes`.

    Raises:
        InputError: it is missing, or takes longer than `timeout_s`.
    """
    demand([program])
    environment = {
        "PATH": _path(),
        "LC_ALL": "C",
        "HOME": str(folder),
        "MTOOLSRC": "/dev/null",
        # A Raspberry Pi's FAT is no multiple of the tracks that it says it has. `fat` checks.
        "MTOOLS_SKIP_CHECK": "1",
        "PAGER": "cat",
        "DEBUGFS_PAGER": "cat",
    }
    with (folder / ".said").open("w+b") as said:
        process = subprocess.Popen(
            [program, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            assert process.stdout is not None
            out = process.stdout.read(max_out_bytes + 1)
            if len(out) > max_out_bytes:
                process.kill()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        said.seek(0)
        err = said.read(64 << 10).decode("utf-8", "replace")
    if late.is_set():
        raise InputError(f"{program}: not done after {timeout_s:g} s, given up")
    return Ran(code, out[:max_out_bytes], err, len(out) <= max_out_bytes)


def last_words(err: str) -> str:
    """The last line that a program said, for a message."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return plain(lines[-1], 300) if lines else "it said nothing"


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"
