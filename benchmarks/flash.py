"""How long `edge-fleet flash` takes, writing to a card aside: medians of whole commands.

    .venv/bin/python -m benchmarks.flash [--runs 3] [--image-gb 4] [--content-gb 2] [--json]

The image is laid out as Raspberry Pi OS is, its ext4 filled with files of this machine's /usr. It
is flashed with a package and a bundle of realistic sizes, as it is and out of an .xz, and the
partition must grow. The .xz is packed fast (`xz -1`); vendors pack tighter, which unpacks no
slower. The goal is 60 s for an image of 4 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.fleet.enroll import enroll
from tests.fakes import images
from tests.fakes.bundles import FILES, write_bundle
from tests.fakes.trusted import PASSPHRASE, new_home, sign

GOAL_S = 60.0
GB = 10**9
PACKAGE_BYTES = 40 << 20
BUNDLE_BYTES = 25 << 20
CONTENT = (Path("/usr/lib"), Path("/usr/share"), Path("/usr/bin"), Path(sys.prefix))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--image-gb", type=float, default=4.0)
    parser.add_argument("--content-gb", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="flash-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        image, content = _image(folder, arguments.image_gb, arguments.content_gb)
        _desk(folder)
        packed = folder / "image.img.xz"
        with packed.open("wb") as out:
            subprocess.run(["xz", "-1", "-T0", "-c", image], stdout=out, check=True)
        found = {
            kind: _measure(folder, source, arguments.runs)
            for kind, source in (("img", image), ("xz", packed))
        }
        sizes = {"image": image.stat().st_size, "content": content, "xz": packed.stat().st_size}
    if arguments.json:
        print(json.dumps({"seconds": found, "bytes": sizes, "goal_s": GOAL_S}))
    else:
        print(f"image {sizes['image'] / GB:.1f} GB, {content / GB:.1f} GB of it files; "
              f"xz {sizes['xz'] / GB:.1f} GB; {arguments.runs} runs each")  # fmt: skip
        for kind, seconds in found.items():
            median, cpu = (statistics.median(seconds[key]) for key in ("wall", "cpu"))
            verdict = "meets" if median <= GOAL_S else "MISSES"
            spread = ", ".join(f"{s:.1f}" for s in sorted(seconds["wall"]))
            print(f"  .{kind:<4} median {median:5.1f} s ({spread}), {cpu:.1f} s of processor, "
                  f"{verdict} the goal of {GOAL_S:.0f} s")  # fmt: skip
    return 0 if all(statistics.median(s["wall"]) <= GOAL_S for s in found.values()) else 1


def _image(folder: Path, image_gb: float, content_gb: float) -> tuple[Path, int]:
    """As Raspberry Pi OS: so full that it must grow."""
    (folder / "desk").write_text("one block\n")
    root = images.tree(
        folder / "root", "bookworm", "usr/lib/raspberrypi-sys-mods/init_config",
        "usr/sbin/NetworkManager", "etc/NetworkManager/NetworkManager.conf",
    )  # fmt: skip
    total = 0
    for top in CONTENT:
        for path in top.rglob("*"):
            if total > content_gb * GB:
                break
            if path.is_file() and not path.is_symlink():
                to = root / "opt" / path.relative_to("/")
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
                total += path.stat().st_size
    root_mib = int(image_gb * GB) // images.MIB - images.BOOT_MIB - 4
    image = images.mbr_image(
        folder / "image.img", root, {"cmdline.txt": images.CMDLINE}, root_mib
    )  # fmt: skip
    # What is free is given to a file, so that growing is part of what is measured.
    drive = f"{image}?offset={(4 + images.BOOT_MIB) * images.MIB}"
    blocks = int(
        re.findall(r"Free blocks: +([0-9]+)", images.run("debugfs", "-R", "stats", drive))[0]
    )
    images.run("debugfs", "-w", "-R", f"write {folder / 'desk'} /filler", drive)
    images.run("debugfs", "-w", "-R", f"fallocate /filler 1 {blocks - 8192}", drive)
    shutil.rmtree(root)
    return image, total


def _desk(folder: Path) -> None:
    now = datetime.now(timezone.utc)
    home = new_home(folder / "fleet", now, broker="mqtts://broker.example")
    enroll(home, "press-7", "generic-aarch64", passphrase=PASSPHRASE)
    files = {**FILES, "model.onnx": os.urandom(BUNDLE_BYTES)}
    sign(home, write_bundle(folder / "bundle", files, profile="generic-aarch64")[0], now)
    images.deb(folder / "dist", "deb12", payload=os.urandom(PACKAGE_BYTES))


def _measure(folder: Path, image: Path, runs: int) -> dict[str, list[float]]:
    """Seconds by the clock, and of the processors' time, which other work here does not change."""
    wall: list[float] = []
    cpu: list[float] = []
    for _ in range(runs):
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "edge_runtime.fleet.cli", "flash", image, "--device", "press-7",
             "--bundle", "demo==1.0.0", "--force", "--json"],
            cwd=folder, check=True, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.monotonic() - begun)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall": wall, "cpu": cpu}


if __name__ == "__main__":
    sys.exit(main())
