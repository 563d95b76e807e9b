"""Hostile bundles: archives that mean two things, folders that lead outside, files that lie.

Each attack builds one under a folder of the test and hands out its path; opening and verifying it
must end in the expected error.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.archive import pack
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.errors import EdgeError, UntrustedError
from tests.fakes.bundles import FILES, folder_reader, manifest, manifest_json, write_bundle
from tests.hostile.attack import TRICKS
from tests.hostile.manifests import MANIFEST_ATTACKS


@dataclass(frozen=True)
class BundleAttack:
    """`build(folder)` makes the bundle; `says` must be part of the error's sentence."""

    name: str
    build: Callable[[Path], Path]
    says: str
    error: type[EdgeError] = UntrustedError

    @property
    def id(self) -> str:
        """For pytest."""
        return f"bundle: {self.name}"


def _edge(tmp: Path) -> bytearray:
    pack(folder_reader(tmp / "sound"), tmp / "sound.edge")
    return bytearray((tmp / "sound.edge").read_bytes())


def _patched(change: Callable[[bytearray], bytes]) -> Callable[[Path], Path]:
    """A sound archive with its bytes changed."""

    def build(tmp: Path) -> Path:
        (tmp / "bad.edge").write_bytes(change(_edge(tmp)))
        return tmp / "bad.edge"

    return build


def _put(data: bytearray, at: int, form: str, *values: int) -> bytes:
    struct.pack_into(form, data, at, *values)
    return bytes(data)


def _end(data: bytearray) -> int:
    return len(data) - 22


def _entry(data: bytearray, index: int = 1) -> int:
    """Where the directory entry of a member stands."""
    at: int = struct.unpack_from("<I", data, _end(data) + 16)[0]
    for _ in range(index):
        at += 46 + struct.unpack_from("<H", data, at + 28)[0]
    return at


def _local(data: bytearray, index: int = 1) -> int:
    """Where the local header of a member stands."""
    at: int = struct.unpack_from("<I", data, _entry(data, index) + 42)[0]
    return at


def _set_end(offset: int, form: str, value: int) -> Callable[[Path], Path]:
    return _patched(lambda data: _put(data, _end(data) + offset, form, value))


def _set_entry(offset: int, form: str, value: int, index: int = 1) -> Callable[[Path], Path]:
    return _patched(lambda data: _put(data, _entry(data, index) + offset, form, value))


def _set_local(offset: int, form: str, value: int, index: int = 1) -> Callable[[Path], Path]:
    return _patched(lambda data: _put(data, _local(data, index) + offset, form, value))


def _rename(old: bytes, new: bytes) -> Callable[[Path], Path]:
    assert len(old) == len(new)
    return _patched(lambda data: bytes(data).replace(old, new))


def _inserted(
    where: Callable[[bytearray], int], extra: bytes, shift: int
) -> Callable[[Path], Path]:
    """Bytes put in somewhere, the directory's offset mended by `shift`."""

    def change(data: bytearray) -> bytes:
        at = where(data)
        offset = struct.unpack_from("<I", data, _end(data) + 16)[0]
        _put(data, _end(data) + 16, "<I", offset + shift)
        return bytes(data[:at]) + extra + bytes(data[at:])

    return _patched(change)


def _zipped(fill: Callable[[zipfile.ZipFile], None]) -> Callable[[Path], Path]:
    """An archive made with Python's zipfile; the manifest is its first member."""

    def build(tmp: Path) -> Path:
        with zipfile.ZipFile(tmp / "bad.edge", "w") as file:
            file.writestr(MANIFEST_NAME, manifest().to_bytes())
            fill(file)
        return tmp / "bad.edge"

    return build


def _member(file: zipfile.ZipFile, name: str, mode: int, data: bytes = b"") -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    file.writestr(info, data)


def _twice(file: zipfile.ZipFile) -> None:
    for data in (b"{}", b"[]"):
        file.writestr("Tokenizer.json" if data == b"[]" else "tokenizer.json", data)


def _same(file: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own.
        for data in (b"a", b"b"):
            file.writestr("x", data)


def _bomb(file: zipfile.ZipFile) -> None:
    file.writestr("model.onnx", b"\0" * (20 << 20), zipfile.ZIP_DEFLATED)


def _zip64(file: zipfile.ZipFile) -> None:
    with file.open("model.onnx", "w", force_zip64=True) as member:
        member.write(b"x")
    file.getinfo("model.onnx").extra = b"\1\0\x10\0" + b"\0" * 16


def _crowd(file: zipfile.ZipFile, members: int = 4096) -> None:
    for number in range(members):
        file.writestr(f"{number:x}".rjust(64, "x"), b"")


def _written(tmp: Path, data: bytes) -> Path:
    (tmp / "bad.edge").write_bytes(data)
    return tmp / "bad.edge"


def _folder(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A sound folder, then changed."""

    def build(tmp: Path) -> Path:
        (tmp / "outside").mkdir()
        (tmp / "outside" / "model.tflite").write_bytes(FILES["litert/model.tflite"])
        folder, _ = write_bundle(tmp / "bad")
        change(folder)
        return folder

    return build


def _linked_file(folder: Path) -> None:
    (folder / "litert" / "model.tflite").unlink()
    (folder / "litert" / "model.tflite").symlink_to(folder.parent / "outside" / "model.tflite")


def _linked_folder(folder: Path) -> None:
    (folder / "litert" / "model.tflite").unlink()
    (folder / "litert").rmdir()
    (folder / "litert").symlink_to(folder.parent / "outside")


def _as_folder(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()


def _as_pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def _as_socket(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "tokenizer.json"))


def _replaced(folder: Path, aim: str) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(aim)


def _as_hole(folder: Path) -> None:
    """The right size, and nothing in it."""
    os.truncate(folder / "model.onnx", 0)
    os.truncate(folder / "model.onnx", len(FILES["model.onnx"]))


def _in_a_circle(folder: Path) -> None:
    (folder / "litert" / "model.tflite").unlink()
    (folder / "litert" / "model.tflite").symlink_to("model.tflite")


def _linked_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).rename(folder.parent / "outside" / "m.json")
    (folder / MANIFEST_NAME).symlink_to(folder.parent / "outside" / "m.json")


def _changed_chunk(tmp: Path) -> Path:
    files = manifest_json()["files"]
    files[0]["chunks"][0][0] = "ab" * 32
    return write_bundle(tmp / "bad", files=files)[0]


def _flipped(data: bytearray) -> bytes:
    data[data.index(FILES["model.onnx"][:40])] ^= 1
    return bytes(data)


ARCHIVE_ATTACKS: tuple[BundleAttack, ...] = (
    # The end record.
    BundleAttack("empty", _patched(lambda data: b""), "0 bytes, an .edge file has"),
    BundleAttack("text", _patched(lambda data: b"hello" * 100), "not an .edge file"),
    BundleAttack("cut short", _patched(lambda data: bytes(data[:-1])), "not an .edge file"),
    BundleAttack("bytes behind", _patched(lambda data: bytes(data) + b"x"), "not an .edge file"),
    BundleAttack(
        "a comment",
        _patched(lambda data: _put(data, _end(data) + 20, "<H", 2) + b"hi"),
        "not an .edge file",
    ),
    BundleAttack("a comment of no bytes", _set_end(20, "<H", 9), "not an .edge file"),
    BundleAttack("another disk", _set_end(4, "<H", 1), "not an .edge file"),
    BundleAttack("no members", _set_end(8, "<I", 0), "0 members, expected 1..4097"),
    BundleAttack("65,535 members", _set_end(8, "<I", 0xFFFF_FFFF), "65535 members"),
    BundleAttack("4,098 members", _set_end(8, "<I", 4098 << 16 | 4098), "4098 members"),
    BundleAttack("one member more", _set_end(8, "<I", 7 << 16 | 7), "the directory ends early"),
    BundleAttack("one member less", _set_end(8, "<I", 5 << 16 | 5), "belong to no member"),
    BundleAttack("a huge directory", _set_end(12, "<I", 0xFFFF_FFFF), "does not end at"),
    BundleAttack("a directory elsewhere", _set_end(16, "<I", 0), "does not end at"),
    BundleAttack("zip64", _set_end(16, "<I", 0xFFFF_FFFF), "does not end at"),
    BundleAttack("bytes before", _inserted(lambda data: 0, b"MZ" * 8, 16), "disagree"),
    BundleAttack("bytes before, unsaid", _inserted(lambda data: 0, b"MZ", 0), "does not end at"),
    BundleAttack("bytes between", _inserted(_local, b"gap!", 4), "disagree"),
    BundleAttack(
        "bytes before the directory", _inserted(lambda d: _entry(d, 0), b"gap!", 4), "no member"
    ),
    # Members.
    BundleAttack("no entry signature", _set_entry(0, "<I", 0), "no plain relative path"),
    BundleAttack("an endless name", _set_entry(28, "<H", 0xFFFF), "no plain relative path"),
    BundleAttack("extra fields", _set_entry(30, "<H", 4), "extra fields"),
    BundleAttack("a member comment", _set_entry(32, "<H", 4), "extra fields, a comment"),
    BundleAttack("on another disk", _set_entry(34, "<H", 1), "another disk"),
    BundleAttack("encrypted", _set_entry(8, "<H", 1), "not stored plainly"),
    BundleAttack("sizes behind the bytes", _set_entry(8, "<H", 8), "not stored plainly"),
    BundleAttack("two sizes", _set_entry(20, "<I", 1), "not stored plainly"),
    BundleAttack(
        "a member over the end",
        _patched(lambda data: _put(data, _entry(data, 5) + 20, "<II", 1 << 30, 1 << 30)),
        "disagree",
    ),
    BundleAttack("an overlap", _set_entry(42, "<I", 0), "stands at 0, expected"),
    BundleAttack("another checksum", _set_entry(16, "<I", 0, 2), "header and directory disagree"),
    BundleAttack("a local signature", _set_local(0, "<I", 0), "header and directory disagree"),
    BundleAttack("a local method", _set_local(8, "<H", 8), "header and directory disagree"),
    BundleAttack("a local flag", _set_local(6, "<H", 8), "header and directory disagree"),
    BundleAttack("a local size", _set_local(22, "<I", 5), "header and directory disagree"),
    BundleAttack("a local name", _set_local(30, "<B", 0x2E), "header and directory disagree"),
    BundleAttack("local extra fields", _set_local(28, "<H", 4), "header and directory disagree"),
    BundleAttack("a parent path", _rename(b"litert/model", b"../../../mod"), "no plain relative"),
    BundleAttack("an absolute path", _rename(b"litert/model", b"/itert/model"), "no plain relat"),
    BundleAttack("a backslash", _rename(b"litert/model", b"litert\\model"), "no plain relative"),
    BundleAttack("a NUL", _rename(b"litert/model", b"litert\0model"), "no plain relative"),
    BundleAttack("no manifest", _rename(b"manifest.json", b"manifesto.jso"), "starts with"),
    BundleAttack(
        "a manifest that is not first",
        lambda tmp: _out_of_order(tmp),
        "starts with 'tokenizer.json', not manifest.json",
    ),
    BundleAttack(
        "compressed",
        _zipped(lambda file: file.writestr("x", b"x" * 99, zipfile.ZIP_DEFLATED)),
        "not stored plainly",
    ),
    BundleAttack("a folder", _zipped(lambda f: f.writestr("litert/", b"")), "no plain relative"),
    BundleAttack(
        "a link", _zipped(lambda f: _member(f, "x", stat.S_IFLNK | 0o777, b"/etc")), "a link"
    ),
    BundleAttack("a device", _zipped(lambda f: _member(f, "x", stat.S_IFCHR)), "a device"),
    BundleAttack("a member twice but for case", _zipped(_twice), "is there twice"),
    BundleAttack("a member twice", _zipped(_same), "is there twice"),
    BundleAttack("a bomb", _zipped(_bomb), "not stored plainly"),
    BundleAttack("a real zip64", _zipped(_zip64), "extra fields"),
    BundleAttack("a UTF-8 name", _zipped(lambda f: f.writestr("é.bin", b"")), "no plain relative"),
    *(
        BundleAttack(
            f"{what} in a name",
            _zipped(lambda f, text=text: f.writestr(f"m/{text}", b"")),  # type: ignore[misc]
            "no plain relative",
        )
        for what, text in TRICKS.items()
        if "\0" not in text  # Which zipfile would cut off; "a NUL" is above.
    ),
    BundleAttack(
        "17 folders deep", _zipped(lambda f: f.writestr("d/" * 16 + "x", b"")), "no plain relative"
    ),
    BundleAttack("a path of 600", _zipped(lambda f: f.writestr("x" * 600, b"")), "no plain relat"),
    BundleAttack("as many members as fit", _zipped(_crowd), "is missing"),
    BundleAttack("one more than fit", _zipped(lambda f: _crowd(f, 4097)), "4098 members"),
    BundleAttack("a tar", lambda tmp: _written(tmp, b"x" * 257 + b"ustar" + b"\0" * 500), "not an"),
    BundleAttack("a gzip", lambda tmp: _written(tmp, b"\x1f\x8b\x08" + b"\0" * 90), "not an .edge"),
    BundleAttack("an .edge in zeros", _patched(lambda d: bytes(d) + b"\0" * 5000), "not an .edge"),
    BundleAttack("two archives", _patched(lambda d: bytes(d) * 2), "does not end at"),
    BundleAttack("only a manifest", _zipped(lambda file: None), "is missing"),
    BundleAttack("damaged bytes", _patched(_flipped), "'model.onnx' is damaged"),
)


def _out_of_order(tmp: Path) -> Path:
    with zipfile.ZipFile(tmp / "bad.edge", "w") as file:
        file.writestr("tokenizer.json", b"{}")
        file.writestr(MANIFEST_NAME, manifest().to_bytes())
    return tmp / "bad.edge"


FOLDER_ATTACKS: tuple[BundleAttack, ...] = (
    BundleAttack("an empty folder", _folder(lambda f: (f / MANIFEST_NAME).unlink()), "is missing"),
    BundleAttack("a linked file", _folder(_linked_file), "is a link"),
    BundleAttack("a linked folder", _folder(_linked_folder), "is a link"),
    BundleAttack("a folder as file", _folder(_as_folder), "is not a plain file"),
    BundleAttack("a pipe as file", _folder(_as_pipe), "is not a plain file"),
    BundleAttack("a socket as file", _folder(_as_socket), "is a link or no plain file"),
    BundleAttack("a link to itself", _folder(_in_a_circle), "is a link"),
    BundleAttack("a linked manifest", _folder(_linked_manifest), "is a link"),
    BundleAttack("a hole", _folder(_as_hole), "'model.onnx' has digest"),
    BundleAttack(
        "a file without end",
        _folder(lambda f: os.truncate(f / "model.onnx", 1 << 42)),
        "has 4398046511104 bytes, at most",
    ),
    BundleAttack("a link to a device", _folder(lambda f: _replaced(f, "/dev/zero")), "is a link"),
    BundleAttack(
        "a larger file",
        _folder(lambda f: (f / "tokenizer.json").write_bytes(b"x" * 3)),
        "has 3 bytes, at most 2",
    ),
    BundleAttack(
        "a smaller file", _folder(lambda f: (f / "tokenizer.json").write_bytes(b"x")), "has 1 bytes"
    ),
    BundleAttack(
        "another file", _folder(lambda f: (f / "tokenizer.json").write_bytes(b"[]")), "has digest"
    ),
    BundleAttack(
        "a manifest without end",
        _folder(lambda f: os.truncate(f / MANIFEST_NAME, 1 << 40)),
        "at most 1048576 expected",
    ),
    BundleAttack("a chunk list of other bytes", _changed_chunk, "chunk abab"),
    *(
        BundleAttack(
            f"manifest: {attack.name}",
            _folder(lambda f, attack=attack: (f / MANIFEST_NAME).write_bytes(attack.build())),  # type: ignore[misc]
            "manifest.json",
        )
        if attack.error is None
        else BundleAttack(
            f"manifest: {attack.name}",
            _folder(lambda f, attack=attack: (f / MANIFEST_NAME).write_bytes(attack.build())),  # type: ignore[misc]
            "manifest.json",
            attack.error,
        )
        for attack in MANIFEST_ATTACKS
        if attack.name in ("half of one", "another format", "a path twice", "deep nesting")
    ),
)
ALL: tuple[BundleAttack, ...] = ARCHIVE_ATTACKS + FOLDER_ATTACKS
