"""Pictures and sounds that are none, are cut off, or claim to be larger than memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import partial

from edge_runtime.errors import InputError
from tests.hostile.attack import Attack
from tests.hostile.sound import EXAMPLES, wav


def png(width: int, height: int, rows: bytes = b"\0") -> bytes:
    """A PNG of a few bytes that says that it is of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data)


def _pictures() -> Iterator[Attack]:
    jpeg = EXAMPLES["picture"]()["jpeg-rgb"]
    for name, data, says in (
        ("nothing", b"", "not a JPEG or PNG file"),
        ("another format", b"GIF89a" + bytes(64), "not a JPEG or PNG file"),
        ("100 megapixels", png(10_000, 10_000), "at most 65536"),
        ("a side of 2**30", png(1 << 30, 1), "image"),
        ("a cut JPEG", jpeg[: len(jpeg) // 2], "image"),
        ("a JPEG that lies of its size", jpeg.replace(b"\x00\x10\x00\x18", b"\xff" * 4), "image"),
    ):
        yield Attack(name, "picture", partial(bytes, data), says, InputError)
    bomb = partial(png, 250, 250, bytes(64 << 20))
    yield Attack("more pixels than it says", "picture", bomb, error=None)


def _sounds() -> Iterator[Attack]:
    sound = wav(bytes(64))
    for name, data, says in (
        ("nothing", b"", "WAV"),
        ("another format", b"OggS" + bytes(64), "WAV"),
        ("no samples", wav(b""), "holds no samples"),
        ("another rate", wav(bytes(64), rate=44_100), "44100"),
        ("an hour", wav(bytes(2 * 8000 * 3)), "at most 1"),
        ("a cut header", sound[:30], "WAV"),
        ("a size that is not there", sound[:40] + b"\xff\xff\xff\x7f" + sound[44:], "audio"),
        ("no channels", wav(bytes(64), channels=0), "channel"),
        ("compressed", wav(bytes(64), tag=2), "audio"),
        ("not finite", wav(struct.pack("<f", float("nan")) * 8, tag=3, bits=32), "finite"),
    ):
        yield Attack(name, "sound", partial(bytes, data), says, InputError)


SENSE_ATTACKS: tuple[Attack, ...] = (*_pictures(), *_sounds())
