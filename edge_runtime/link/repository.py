"""Repositories outside the broker: one tree, on a web server or in a folder.

    metadata/<file>          signed metadata and release files
    chunks/<aa>/<sha256>     everything else

A repository says what is under a name, and no more: nothing that it gives is to be believed before
it was held to a signature or a digest. What a name may be is decided here, before a server or a
file system sees it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from edge_runtime.bundle.files import MAX_CHUNK_BYTES, SHA256
from edge_runtime.errors import InputError
from edge_runtime.link.address import NO_FILES, TlsFiles, parse_source

METADATA_NAME = r"(?=.*[^.])[A-Za-z0-9@%._-]{1,320}"


class Place(Protocol):
    """Where files are. Any number of threads may ask at the same time."""

    @property
    def address(self) -> str:
        """For messages; never a secret."""

    def get(self, path: str, max_bytes: int) -> bytes | None:
        """The file at `path`, whose names are safe and parted by slashes; None: not there.

        Raises:
            TransferError: it cannot be had now; over a network, within a bounded time.
            MetadataError: it has more than `max_bytes`; no more than one more was read.
        """

    def rest(self) -> None:
        """Nothing will be asked for a while: close what is open and idle."""

    def close(self) -> None:
        """For ever; from any thread. What waits for an answer ends with a TransferError."""


class Repository:
    """The tree in one place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def address(self) -> str:
        """For messages; never a secret."""
        return self._place.address

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """The metadata file called `name`, not to be believed; None where there is none.

        Raises:
            InputError: `name` cannot be the name of one.
            TransferError: it cannot be had now.
            MetadataError: it has more than `max_bytes`.
        """
        if not re.fullmatch(METADATA_NAME, name):
            raise InputError(
                f"metadata file {name[:80]!r}: expected up to 320 letters, digits, "
                "'@', '%', '.', '-' or '_'"
            )
        return self._place.get(f"metadata/{name}", max_bytes)

    def chunk(self, sha256: str) -> bytes | None:
        """What is kept under the name of a chunk, not to be believed; None where nothing is.

        Raises:
            TransferError: it cannot be had now.
            MetadataError: it is larger than a chunk may be.
            RuntimeError: `sha256` is not a digest.
        """
        if not re.fullmatch(SHA256, sha256):
            raise RuntimeError(f"{sha256[:80]!r} is not a digest")
        return self._place.get(f"chunks/{sha256[:2]}/{sha256}", MAX_CHUNK_BYTES)

    def rest(self) -> None:
        """Close what is open and idle."""
        self._place.rest()

    def close(self) -> None:
        """For ever; from any thread. What waits for an answer ends with a TransferError."""
        self._place.close()


def open_place(url: str, files: TlsFiles = NO_FILES, *, allow_http: bool = False) -> Place:
    """The place that `url` names. It is not asked before something is wanted of it.

    Raises:
        InputError: the URL, or a file for TLS, is not usable.
    """
    source = parse_source(url, allow_http=allow_http)
    if isinstance(source, Path):
        from edge_runtime.link.folder import FolderPlace

        return FolderPlace(source)
    # A device that fetches over MQTT alone has no use for an HTTP library.
    from edge_runtime.link.web import WebPlace

    return WebPlace(source, files)


def open_repository(
    url: str, files: TlsFiles = NO_FILES, *, allow_http: bool = False
) -> Repository:
    """The repository in `open_place(url)`."""
    return Repository(open_place(url, files, allow_http=allow_http))
