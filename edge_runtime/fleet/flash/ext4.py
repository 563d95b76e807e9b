"""An ext4 inside an image, through e2fsprogs: look, put things in, grow, and prove it afterwards.

`debugfs` ends with 0 whatever went wrong, never overwrites, and makes files as it likes. So nothing
that it says is believed: what was written is read back, byte for byte, with its owner and mode, and
`e2fsck` must find the file system clean before and after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.flash.carve import carve, put_back
from edge_runtime.fleet.flash.entries import Entry, File, Folder, Link, sha256_of
from edge_runtime.fleet.flash.partitions import SECTOR, Partition
from edge_runtime.fleet.flash.superblock import Space, read_space
from edge_runtime.fleet.flash.tools import IMAGE, last_words, run
from edge_runtime.text import plain

_WORD = re.compile(r"(?:\.{0,2}/)?[A-Za-z0-9._+@~=-]+(?:/[A-Za-z0-9._+@~=-]+)*")
"""What debugfs reads as one word."""
_FILE_TYPE, _FOLDER_TYPE = 0o100000, 0o040000
_SAID_BYTES = 1 << 20
_LOOK_S = 120.0
CARVED = "carved"
_COMMANDS, _BACK = "commands", "back"


class Ext4:
    """The ext4 in `partition` of the image that is called `image` in `folder`.

    Raises:
        InputError: there is none, it is larger than its partition, or was not left clean.
    """

    def __init__(self, folder: Path, partition: Partition, where: str) -> None:
        self.where = f"{where}: ext4 in partition {partition.number}"
        self._folder = folder
        self._partition = partition
        self._drive = f"{IMAGE}?offset={partition.start_bytes}"
        self.space()

    def space(self) -> Space:
        """Looked up anew. Raises InputError: see the class."""
        return read_space(self._folder / IMAGE, self._partition, self.where)

    # Looking.

    def kind(self, path: str) -> str:
        """`regular`, `directory`, `symlink`, … or "" where there is nothing."""
        found = re.search(r"Type: (\w+)", self._stat(path))
        return found[1] if found else ""

    def link(self, path: str) -> str:
        """What a short symbolic link at `path` leads to, or "" where there is none."""
        found = re.search(r'Fast link dest: "([^"\n]*)"', self._stat(path))
        return found[1] if found else ""

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """The first bytes of a regular file; None where there is none. No link is followed."""
        if self.kind(path) != "regular":
            return None
        return self._look(f"cat {_word(path)}", max_bytes)[0]

    def check(self) -> None:
        """Raises InputError: e2fsck finds fault with it."""
        ran = run("e2fsck", "-fn", self._drive, folder=self._folder)
        if ran.code != 0:
            lines = ran.out.decode("utf-8", "replace").splitlines()
            faults = [line for line in lines if line.strip() and not line.startswith("Pass")]
            said = plain(faults[0], 200) if faults else last_words(ran.err)
            raise InputError(f"{self.where}: is damaged, e2fsck says: {said}")

    def _stat(self, path: str) -> str:
        out, err = self._look(f"stat {_word(path)}", _SAID_BYTES)
        text = out.decode("utf-8", "replace")
        if not text.startswith("Inode:") and "not found" not in err:
            raise InputError(f"{self.where}: cannot be read: {last_words(err)}")
        return text

    def _look(self, command: str, max_bytes: int) -> tuple[bytes, str]:
        ran = run(
            "debugfs", "-R", command, self._drive,
            folder=self._folder, max_out_bytes=max_bytes, timeout_s=_LOOK_S,
        )  # fmt: skip
        return ran.out, ran.err

    # Changing.

    def grow(self, partition: Partition, carved: Path) -> None:
        """Fill `partition`, which is the same one, grown.

        Args:
            carved: a file that may be made meanwhile, on a disk with room for the partition.

        Raises:
            DeviceError: resize2fs failed, or the disk did.
        """
        # resize2fs knows offsets, but cuts a regular file off at the file system's size, counted
        # from the file's beginning: the end of the partition would be gone. So it gets a copy.
        copy = self._folder / CARVED
        copy.symlink_to(carved.resolve())
        try:
            carve(self._folder / IMAGE, partition, carved)
            sectors = f"{partition.size_bytes // SECTOR}s"
            ran = run("resize2fs", "-f", CARVED, sectors, folder=self._folder)
            if ran.code != 0:
                raise DeviceError(f"{self.where}: cannot be grown: {last_words(ran.err)}")
            put_back(carved, self._folder / IMAGE, partition)
        except OSError as reason:
            raise DeviceError(
                f"{self.where}: cannot be grown in {plain(str(carved.parent))} ({reason.strerror})"
            ) from None
        finally:
            copy.unlink()
            carved.unlink(missing_ok=True)
        self._partition = partition
        space = self.space()
        if space.size_bytes + space.group_bytes <= partition.size_bytes:
            raise DeviceError(f"{self.where}: could not be grown to all of its partition")

    def add(self, entries: Sequence[Entry]) -> None:
        """Put `entries` in, in this order, and prove that they are there as they should be.

        Raises:
            InputError: one of them is there already; nothing was changed.
            DeviceError: something else is there afterwards.
        """
        made = list(self._new(entries))
        commands: list[str] = []
        for number, entry in enumerate(made):
            path = _word(entry.path)
            match entry:
                case Link(target=target):
                    commands.append(f"symlink {path} {_word(target)}")
                case Folder(mode=mode):
                    commands += [f"mkdir {path}", *_owned(path, _FOLDER_TYPE | mode)]
                case File(mode=mode):
                    staged = self._stage(f"in-{number}", entry)
                    commands += [f"write {staged} {path}", *_owned(path, _FILE_TYPE | mode)]
        self._change(commands)
        for number in range(len(made)):
            (self._folder / f"in-{number}").unlink(missing_ok=True)
        self._prove(made)

    def replace_link(self, link: Link) -> None:
        """Make `link`, in place of one that may be there.

        Raises:
            DeviceError: it did not become one.
        """
        path = _word(link.path)
        self._change([*([f"rm {path}"] if self.kind(link.path) else []),
                      f"symlink {path} {_word(link.target)}"])  # fmt: skip
        if self.link(link.path) != link.target:
            raise DeviceError(f"{self.where}: {link.path} cannot be set")

    def _new(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """Without the folders that are there. Raises InputError: a file or link is."""
        fresh: set[PurePosixPath] = set()
        for entry in entries:
            path = PurePosixPath(entry.path)
            # In a folder that is made now there is nothing yet, and asking takes a process.
            there = "" if path.parent in fresh else self.kind(entry.path)
            if there and not (isinstance(entry, Folder) and there == "directory"):
                raise InputError(
                    f"{self.where}: has {entry.path} already, as if it had been flashed or used; "
                    "take a fresh image"
                )
            if isinstance(entry, Folder) and not there:
                fresh.add(path)
            if not there:
                yield entry

    def _stage(self, name: str, entry: File) -> str:
        """The content under a name that debugfs reads as one word."""
        staged = self._folder / name
        if isinstance(entry.content, bytes):
            staged.touch(mode=0o600)
            staged.write_bytes(entry.content)
        else:
            staged.symlink_to(entry.content.resolve())
        return name

    def _change(self, commands: Sequence[str]) -> None:
        (self._folder / _COMMANDS).write_text("\n".join(commands) + "\n")
        run("debugfs", "-w", "-f", _COMMANDS, self._drive, folder=self._folder)

    def _prove(self, entries: Sequence[Entry]) -> None:
        """Raises DeviceError: an entry is not there, or not as it should be."""
        looks = [f"ls -p {_word(p)}" for p in sorted({str(_parent(e)) for e in entries})]
        (self._folder / _COMMANDS).write_text("\n".join(looks) + "\n")
        ran = run("debugfs", "-f", _COMMANDS, self._drive, folder=self._folder)
        found: dict[str, tuple[int, str, str]] = {}
        parent = ""
        for line in ran.out.decode("utf-8", "replace").splitlines():
            if line.startswith("debugfs: ls -p "):
                parent = line.removeprefix("debugfs: ls -p ")
            elif len(parts := line.split("/")) == 8 and parts[2].isdigit():
                found[f"{parent}/{parts[5]}"] = (int(parts[2], 8), parts[3], parts[4])
        for entry in entries:
            mode, *owner = found.get(entry.path, (0, "", ""))
            wanted = {
                Folder: _FOLDER_TYPE, File: _FILE_TYPE, Link: 0o120000
            }[type(entry)] | (0o777 if isinstance(entry, Link) else entry.mode)  # fmt: skip
            if mode != wanted or owner != ["0", "0"]:
                raise DeviceError(
                    f"{self.where}: {entry.path} could not be written: it has mode {mode:o} and "
                    f"owner {':'.join(owner) or 'nobody'}, expected {wanted:o} and 0:0"
                )
            if isinstance(entry, Link) and self.link(entry.path) != entry.target:
                raise DeviceError(f"{self.where}: {entry.path} leads elsewhere")
        self._prove_content([entry for entry in entries if isinstance(entry, File)])

    def _prove_content(self, files: Sequence[File]) -> None:
        for start in range(0, len(files), _AT_ONCE):
            some = files[start : start + _AT_ONCE]
            dumps = [f"dump {_word(f.path)} {_BACK}-{n}" for n, f in enumerate(some)]
            (self._folder / _COMMANDS).write_text("\n".join(dumps) + "\n")
            run("debugfs", "-f", _COMMANDS, self._drive, folder=self._folder)
            for number, file in enumerate(some):
                back = self._folder / f"{_BACK}-{number}"
                if not back.is_file() or sha256_of(back) != file.sha256:
                    raise DeviceError(f"{self.where}: {file.path} reads back as something else")
                back.unlink()


_AT_ONCE = 64


def _owned(path: str, mode: int) -> list[str]:
    return [
        f"set_inode_field {path} mode 0{mode:o}",
        f"set_inode_field {path} uid 0",
        f"set_inode_field {path} gid 0",
    ]


def _parent(entry: Entry) -> PurePosixPath:
    return PurePosixPath(entry.path).parent


def _word(path: str) -> str:
    """`path`, which debugfs takes as one word."""
    if not _WORD.fullmatch(path):
        raise RuntimeError(f"{path!r} is no path for debugfs")
    return path
