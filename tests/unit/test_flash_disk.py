"""Which disks are written, and which are left alone; the kernel's answers are files here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.flash.disk import Disk, Machine, find_disk, verify, write

GB = 10**9
NUMBERS = {"sdx": "8:16", "sdx1": "8:17", "mapper": "253:0"}


class Kernel:
    """/sys and /proc with one disk, sdx, that has one partition."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.proc = folder / "sys", folder / "proc"
        self.disk = self.sys / "dev" / "block" / "8:16"
        self.part = self.disk / "sdx1"
        for path, text in {
            self.disk / "dev": "8:16", self.disk / "ro": "0", self.disk / "removable": "1",
            self.disk / "size": str(32 * GB // 512), self.part / "partition": "1",
            self.part / "dev": "8:17", self.proc / "self" / "mountinfo": "",
            self.proc / "swaps": "Filename Type\n",
        }.items():  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.sys / "dev" / "block" / "8:17").symlink_to(self.part)

    def find(self, path: str = "/dev/sdx", *, force: bool = False, mine: bool = True) -> Disk:
        machine = Machine(self.sys, self.proc, lambda p: NUMBERS[p.name], lambda _: mine)
        return find_disk(Path(path), force=force, machine=machine)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def mounted(number: str, source: str) -> str:
    return f"36 35 {number} / /media/card rw,noatime shared:1 - ext4 {source} rw\n"


def test_a_card_that_nobody_uses_is_taken(kernel: Kernel) -> None:
    assert kernel.find().size_bytes == 32 * GB // 512 * 512


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("proc/self/mountinfo", mounted("8:16", "/dev/sdx"), "mounted at /media/card"),
        ("proc/self/mountinfo", mounted("8:17", "/dev/sdx1"), "mounted at /media/card"),
        # A btrfs has a number of its own.
        ("proc/self/mountinfo", mounted("0:41", "/dev/sdx1"), "mounted at /media/card"),
        ("proc/swaps", "Filename\n/dev/sdx1 partition 100 0 -2\n", "swap"),
        ("sys/dev/block/8:16/holders/md0/x", "", "part of md0"),
        ("sys/dev/block/8:16/sdx1/holders/dm-3/x", "", "part of dm-3"),
        ("sys/dev/block/8:16/ro", "1", "read-only"),
        ("sys/dev/block/8:16/size", "0", "no medium"),
        ("sys/dev/block/8:16/partition", "3", "is a partition"),
    ],
)
def test_a_disk_in_use_is_never_written(
    kernel: Kernel, tmp_path: Path, file: str, text: str, words: str, force: bool
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        kernel.find(force=force)


def test_another_disk_may_be_mounted(kernel: Kernel) -> None:
    (kernel.proc / "self" / "mountinfo").write_text(mounted("259:1", "/dev/mapper"))
    kernel.find()


def test_a_large_or_built_in_disk_needs_force(kernel: Kernel) -> None:
    (kernel.disk / "size").write_text(str(600 * GB // 512))
    with pytest.raises(InputError, match="more than a card usually has"):
        kernel.find()
    (kernel.disk / "size").write_text(str(32 * GB // 512))
    (kernel.disk / "removable").write_text("0")
    with pytest.raises(InputError, match="built in"):
        kernel.find()
    kernel.find(force=True)
    (kernel.disk / "device").mkdir()
    (kernel.disk / "device" / "type").write_text("SD\n")
    kernel.find()


def test_a_disk_that_may_not_be_written_is_told_before_the_work(kernel: Kernel) -> None:
    with pytest.raises(InputError, match=r"/dev/sdx: you may not write it; run as root"):
        kernel.find(force=True, mine=False)


def test_a_file_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="no disk; for a file use --out"):
        find_disk(tmp_path / "x", force=True)
    with pytest.raises(InputError, match="cannot be looked at"):
        find_disk(tmp_path / "y", force=True)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    image, card = tmp_path / "image", tmp_path / "card"
    image.write_bytes(b"boot" + bytes(9 << 20) + b"end".ljust(512, b"."))
    card.write_bytes(b"\xff" * (12 << 20))
    disk = Disk(card, 12 << 20)
    seen: list[int] = []
    digest = write(disk, image, lambda done, _total: seen.append(done))
    assert digest == hashlib.sha256(image.read_bytes()).hexdigest()
    size = image.stat().st_size
    verify(disk, digest, size)
    assert card.read_bytes()[:size] == image.read_bytes()
    assert card.read_bytes()[size:] == b"\xff" * ((12 << 20) - size)
    assert seen[-1] == size
    with card.open("r+b") as file:
        file.seek(5 << 20)
        file.write(b"!")
    with pytest.raises(DeviceError, match="worn or fake"):
        verify(disk, digest, size)


def test_a_card_that_is_too_small_is_left_as_it_is(tmp_path: Path) -> None:
    image, card = tmp_path / "image", tmp_path / "card"
    image.write_bytes(bytes(4096))
    card.write_bytes(b"\xff" * 1024)
    with pytest.raises(InputError, match="take a larger card"):
        write(Disk(card, 1024), image)
    assert card.read_bytes() == b"\xff" * 1024


def test_a_card_that_lies_about_its_size_is_found_out(tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.write_bytes(bytes(1024))
    with pytest.raises(DeviceError, match="worn or fake"):
        verify(Disk(card, 4096), hashlib.sha256(bytes(4096)).hexdigest(), 4096)
