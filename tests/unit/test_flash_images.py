"""Images that lie or are damaged: refused in one sentence, before a tool is let near them."""

from __future__ import annotations

import binascii
import gzip
import lzma
import os
import struct
import zipfile
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.flash import source
from edge_runtime.fleet.flash.carve import carve, put_back
from edge_runtime.fleet.flash.fat import Fat, is_fat
from edge_runtime.fleet.flash.partitions import Partition, grow, read_table
from edge_runtime.fleet.flash.source import unpack
from edge_runtime.fleet.flash.superblock import is_ext, read_space
from edge_runtime.fleet.flash.system import find_system
from edge_runtime.fleet.flash.tools import IMAGE

MIB = 1 << 20
SECTORS = 64 * MIB // 512
ROOT = Partition(2, 8 * MIB, 16 * MIB, "83")


def mbr(folder: Path, *partitions: tuple[int, int, int], size: int = 64 * MIB) -> Path:
    """An image with partitions of (type, first sector, sectors)."""
    entries = b"".join(
        struct.pack("<B3sB3sII", 0, b"", kind, b"", start, count)
        for kind, start, count in partitions
    )
    image = folder / "mbr.img"
    with image.open("wb") as file:
        file.write(bytes(446) + entries.ljust(64, b"\0") + b"\x55\xaa")
        file.truncate(size)
    return image


def gpt(
    folder: Path,
    *partitions: tuple[int, int],
    spoil: Callable[[bytearray, bytearray], None] = lambda _head, _entries: None,
) -> Path:
    """An image with partitions of (first sector, last sector); `spoil` comes before checksums."""
    entries = bytearray(128 * 128)
    for n, (first, last) in enumerate(partitions):
        entry = b"\x01" * 32 + struct.pack("<QQQ", first, last, 0) + "APP".encode("utf-16-le")
        entries[n * 128 : n * 128 + len(entry)] = entry
    head = bytearray(struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, SECTORS - 1, 34, SECTORS - 34,
        b"\x02" * 16, 2, 128, 128, binascii.crc32(entries)))  # fmt: skip
    spoil(head, entries)
    struct.pack_into("<I", head, 88, binascii.crc32(entries))
    struct.pack_into("<I", head, 16, 0)
    struct.pack_into("<I", head, 16, binascii.crc32(head))
    image = mbr(folder, (0xEE, 1, SECTORS - 1))
    with image.open("r+b") as file:
        file.seek(512)
        file.write(head.ljust(512, b"\0") + entries)
    return image


def put(image: Path, at: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(data)


# Partition tables.


def test_partitions_are_found(tmp_path: Path) -> None:
    table = read_table(mbr(tmp_path, (0x0C, 2048, 2048), (0x83, 4096, 8192)))
    assert [(p.number, p.kind) for p in table.partitions] == [(1, "0c"), (2, "83")]
    assert table.partitions[1].start_bytes == 2 * MIB
    table = read_table(gpt(tmp_path, (40960, 49151), (2048, 4095)))
    assert (table.scheme, table.partitions[0].name) == ("gpt", "APP")
    assert table.is_last(table.partitions[0])
    assert not table.is_last(table.partitions[1])


@pytest.mark.parametrize(
    ("partitions", "words"),
    [
        pytest.param([(0x83, 2048, SECTORS)], "cut off", id="behind the end"),
        pytest.param([(0x83, 0xFFFFFFFF, 0xFFFFFFFF)], "cut off", id="far behind the end"),
        pytest.param([(0x0C, 2048, 4096), (0x83, 4096, 4096)], "overlap", id="overlapping"),
        pytest.param([(0x83, 2048, 0)], "0 sectors", id="empty one"),
        pytest.param([(0x83, 0, 2048)], "starts at 0", id="over the table"),
        pytest.param([], "empty", id="no partition"),
        pytest.param([(0xEE, 1, 100)], "no GPT header", id="GPT that is none"),
    ],
)
def test_a_lying_mbr_is_refused(
    tmp_path: Path, partitions: list[tuple[int, int, int]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_table(mbr(tmp_path, *partitions))


def _head(form: str, at: int, *values: int) -> Callable[[bytearray, bytearray], None]:
    return lambda head, _entries: struct.pack_into(form, head, at, *values)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_head("<Q", 32, 10 * SECTORS), "cut off", id="backup behind the end"),
        pytest.param(_head("<I", 80, 1 << 30), "entries", id="a billion entries"),
        pytest.param(_head("<I", 84, 1), "entries of 1 bytes", id="entries of a byte"),
        pytest.param(_head("<I", 12, 1 << 20), "header is damaged", id="header of a MiB"),
        pytest.param(_head("<Q", 24, 7), "header is damaged", id="header of another sector"),
        pytest.param(_head("<Q", 72, 0), "sector 0", id="entries over the MBR"),
        pytest.param(_head("<Q", 40, 4), "no room for itself", id="partitions over the entries"),
        pytest.param(_head("<Q", 48, 50), "allowed are 34 to 50", id="partition out of bounds"),
        pytest.param(
            lambda _head, entries: struct.pack_into("<Q", entries, 40, (1 << 64) - 1),
            "allowed are", id="partition without an end",
        ),
    ],
)  # fmt: skip
def test_a_lying_gpt_is_refused(
    tmp_path: Path, spoil: Callable[[bytearray, bytearray], None], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_table(gpt(tmp_path, (40960, 49151), spoil=spoil))


@pytest.mark.parametrize(("at", "words"), [(512 + 60, "header"), (1024 + 60, "entries")])
def test_a_damaged_gpt_is_refused(tmp_path: Path, at: int, words: str) -> None:
    image = gpt(tmp_path, (40960, 49151))
    put(image, at, b"\xff")
    with pytest.raises(InputError, match=f"{words}.* damaged"):
        read_table(image)


def test_a_text_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 4096)
    with pytest.raises(InputError, match="no partition table"):
        read_table(tmp_path / "a")


def test_a_bad_image_is_called_as_its_owner_calls_it(tmp_path: Path) -> None:
    (tmp_path / IMAGE).write_text("x" * 4096)
    with pytest.raises(InputError, match=r"^pi\.img: no disk image"):
        find_system(tmp_path, "pi.img")
    image = mbr(tmp_path, (0x83, 2048, SECTORS - 2048))
    table = read_table(image)
    with pytest.raises(InputError, match=r"^pi\.img: \d+ bytes are more"):
        grow(image, table, table.partitions[0], 1 << 41, "pi.img")


def test_the_last_partition_grows_and_nothing_else_changes(tmp_path: Path) -> None:
    (tmp_path / "gpt").mkdir()
    for image in (mbr(tmp_path, (0x0C, 2048, 2048), (0x83, 4096, SECTORS - 4096)),
                  gpt(tmp_path / "gpt", (40960, SECTORS - 34), (2048, 4095))):  # fmt: skip
        before = read_table(image)
        last = next(p for p in before.partitions if before.is_last(p))
        grown = grow(image, before, last, 8 * MIB)
        after = read_table(image)
        assert image.stat().st_size == 72 * MIB
        assert grown in after.partitions
        assert grown.size_bytes - last.size_bytes > 7 * MIB
        assert grown.size_bytes % 4096 == 0
        assert [p for p in after.partitions if p.number != last.number] == [
            p for p in before.partitions if p.number != last.number
        ]


def test_mbr_cannot_say_more_than_two_tebibytes(tmp_path: Path) -> None:
    image = mbr(tmp_path, (0x83, 2048, SECTORS - 2048))
    table = read_table(image)
    with pytest.raises(InputError, match="more than its partition table can say"):
        grow(image, table, table.partitions[0], 1 << 41)


# File systems.


def ext4(folder: Path, **changed: tuple[str, int, int]) -> Path:
    """A superblock of 16 MiB in blocks of 4 KiB; `changed` fields as (form, offset, value)."""
    block = bytearray(1024)
    fields = {
        "inodes": ("<I", 0, 1024), "blocks": ("<I", 4, 4096), "free": ("<I", 12, 1000),
        "free_inodes": ("<I", 16, 900), "shift": ("<I", 24, 2), "per_group": ("<I", 32, 32768),
        "inodes_per_group": ("<I", 40, 1024), "magic": ("<H", 56, 0xEF53), "state": ("<H", 58, 1),
        **changed,
    }  # fmt: skip
    for form, at, value in fields.values():
        struct.pack_into(form, block, at, value)
    image = mbr(folder, (0x0C, 2048, 2048), (0x83, 16384, 32768))
    put(image, ROOT.start_bytes + 1024, bytes(block))
    return image


def test_the_room_in_an_ext4_is_found(tmp_path: Path) -> None:
    image = ext4(tmp_path)
    assert is_ext(image, ROOT)
    space = read_space(image, ROOT, "x")
    assert (space.size_bytes, space.free_bytes, space.free_inodes) == (16 * MIB, 4096000, 900)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"blocks": ("<I", 4, 4097)}, "its partition has 16777216", id="too large"),
        pytest.param({"wide": ("<I", 96, 0x80), "hi": ("<I", 336, 9)}, "its partition", id="huge"),
        pytest.param({"shift": ("<I", 24, 40)}, "superblock is damaged", id="blocks of a PiB"),
        pytest.param({"free": ("<I", 12, 9999)}, "superblock is damaged", id="more free than all"),
        pytest.param({"per_group": ("<I", 32, 0)}, "superblock is damaged", id="no groups"),
        pytest.param({"state": ("<H", 58, 0)}, "not left clean", id="was mounted"),
        pytest.param({"journal": ("<I", 96, 4)}, "not left clean", id="journal to replay"),
        pytest.param({"magic": ("<H", 56, 0)}, "is none", id="none"),
    ],
)
def test_a_lying_ext4_is_refused(
    tmp_path: Path, changed: dict[str, tuple[str, int, int]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_space(ext4(tmp_path, **changed), ROOT, "x")


def fat(folder: Path, **changed: tuple[str, int, int]) -> tuple[Path, Partition]:
    sector = bytearray(512)
    sector[0], sector[82:87], sector[510:] = 0xEB, b"FAT32", b"\x55\xaa"
    fields = {
        "bytes": ("<H", 11, 512), "per": ("<B", 13, 1), "reserved": ("<H", 14, 32),
        "fats": ("<B", 16, 2), "total": ("<I", 32, 2048), "fat": ("<I", 36, 16), **changed,
    }  # fmt: skip
    for form, at, value in fields.values():
        struct.pack_into(form, sector, at, value)
    image = mbr(folder, (0x0C, 2048, 2048), (0x83, 16384, 32768))
    image.rename(folder / "image")
    put(folder / "image", MIB, bytes(sector))
    return folder, Partition(1, MIB, MIB, "0c")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"total": ("<I", 32, 1 << 20)}, "its partition has 2048", id="too large"),
        pytest.param({"bytes": ("<H", 11, 4096)}, "sectors of 4096 bytes", id="large sectors"),
        pytest.param({"per": ("<B", 13, 0)}, "0 a cluster", id="no cluster"),
        pytest.param({"reserved": ("<H", 14, 0)}, "no room", id="over its own boot sector"),
        pytest.param({"fat": ("<I", 36, 1 << 31)}, "no room", id="nothing but tables"),
        pytest.param({"fats": ("<B", 16, 200)}, "no room", id="200 tables"),
    ],
)
def test_a_lying_fat_is_refused(
    tmp_path: Path, changed: dict[str, tuple[str, int, int]], words: str
) -> None:
    folder, partition = fat(tmp_path, **changed)
    assert is_fat(folder / "image", partition)
    with pytest.raises(InputError, match=words):
        Fat(folder, partition, "x")


def test_a_carved_partition_goes_back_where_it_was(tmp_path: Path) -> None:
    image = mbr(tmp_path, (0x83, 16384, 32768))
    put(image, ROOT.start_bytes - 3, b"abcdefg")
    put(image, ROOT.end_bytes - 2, b"xyz")
    before = image.read_bytes()
    carve(image, ROOT, tmp_path / "carved")
    carved = (tmp_path / "carved").read_bytes()
    assert carved == before[ROOT.start_bytes : ROOT.end_bytes]
    put(tmp_path / "carved", 9 * MIB, b"new")
    put_back(tmp_path / "carved", image, ROOT)
    at = ROOT.start_bytes + 9 * MIB
    assert image.read_bytes() == before[:at] + b"new" + before[at + 3 :]


# Packed images.

CONTENT = bytes(3 * MIB) + b"content" * 1000 + bytes(2 * MIB) + b"end" + bytes(12345)


def packed(folder: Path, content: bytes = CONTENT) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.img").write_bytes(content)
    half = len(content) // 2
    (folder / "a.img.xz").write_bytes(
        lzma.compress(content[:half]) + bytes(8) + lzma.compress(content[half:])
    )
    (folder / "a.img.gz").write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "read me")
        archive.writestr("sd-blob.img", content)
    return {name: folder / name for name in ("a.img", "a.img.xz", "a.img.gz", "a.zip")}


@pytest.mark.parametrize("name", ["a.img", "a.img.xz", "a.img.gz", "a.zip"])
def test_an_image_is_unpacked_with_its_zeros_as_holes(tmp_path: Path, name: str) -> None:
    image = packed(tmp_path)[name]
    seen: list[tuple[int, int]] = []
    size = unpack(image, tmp_path / "out", on_progress=lambda *now: seen.append(now))
    assert size == len(CONTENT)
    assert (tmp_path / "out").read_bytes() == CONTENT
    found = (tmp_path / "out").stat()
    assert found.st_blocks * 512 < MIB
    assert found.st_mode & 0o077 == 0
    assert seen == sorted(seen)
    assert seen[-1][1] == image.stat().st_size


@pytest.mark.parametrize("name", ["a.img", "a.img.xz", "a.img.gz", "a.zip"])
def test_what_is_cut_off_is_told(tmp_path: Path, name: str) -> None:
    image = packed(tmp_path)[name]
    image.write_bytes(image.read_bytes()[:-9])
    if name == "a.img":  # Nothing in it says how long it is: its partition table does.
        return
    with pytest.raises(InputError, match=r"cut off|damaged"):
        unpack(image, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.img.xz", "a.img.gz", "a.zip"])
def test_a_flipped_bit_is_told(tmp_path: Path, name: str) -> None:
    image = packed(tmp_path)[name]
    data = bytearray(image.read_bytes())
    data[len(data) * 3 // 5] ^= 4
    image.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged|cut off"):
        unpack(image, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.img", "a.img.xz", "a.img.gz", "a.zip"])
def test_a_bomb_is_refused_when_it_exceeds_the_room(tmp_path: Path, name: str) -> None:
    image = packed(tmp_path / "bomb", bytes(12 * MIB) + b"x")[name]
    with pytest.raises(InputError, match=r"more than 8.4 MB \(8388608 bytes\)"):
        unpack(image, tmp_path / "out", 8 * MIB)
    assert (tmp_path / "out").stat().st_blocks == 0


def test_the_card_that_is_too_small_is_named(tmp_path: Path) -> None:
    image = packed(tmp_path)["a.img"]
    with pytest.raises(InputError, match="all there is room for on /dev/sdx"):
        unpack(image, tmp_path / "out", MIB, room="on /dev/sdx")


def test_a_folder_that_is_full_is_named_and_not_the_image(tmp_path: Path) -> None:
    image = packed(tmp_path)["a.img.xz"]
    with pytest.raises(DeviceError, match=rf"^{tmp_path}/gone: the image cannot be written"):
        unpack(image, tmp_path / "gone" / "out")
    full = source._Target(tmp_path / "made")
    full._file = FileIO("/dev/full", "wb")
    with pytest.raises(DeviceError, match=rf"^{tmp_path}: .*No space left on device"):
        full.write(b"x" * MIB)


def test_an_image_is_a_file_and_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read, write = os.pipe()
    for image in (tmp_path / "pipe", Path(f"/dev/fd/{read}"), tmp_path):
        with pytest.raises(InputError, match=f"^{image}: .*expected a file"):
            unpack(image, tmp_path / "out")
    os.close(read)
    os.close(write)


def test_an_xz_that_wants_all_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = packed(tmp_path)["a.img.xz"]
    monkeypatch.setattr(source, "MAX_XZ_MEMORY_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"Memory usage limit"):
        unpack(image, tmp_path / "out")


def test_a_zip_has_one_image(tmp_path: Path) -> None:
    image = tmp_path / "two.zip"
    with zipfile.ZipFile(image, "w") as archive:
        archive.writestr("a.img", "x")
        archive.writestr("b.img", "x")
    with pytest.raises(InputError, match=r"holds 2 files \.img, expected one"):
        unpack(image, tmp_path / "out")


def test_a_zip_of_a_million_names_is_not_read(tmp_path: Path) -> None:
    image = packed(tmp_path)["a.zip"]
    data = bytearray(image.read_bytes())
    struct.pack_into("<I", data, len(data) - 22 + 12, 1 << 28)
    image.write_bytes(data)
    with pytest.raises(InputError, match="too many files"):
        unpack(image, tmp_path / "out")


def test_zstd_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.img.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(InputError, match="zstd -d"):
        unpack(tmp_path / "a.img.zst", tmp_path / "out")
