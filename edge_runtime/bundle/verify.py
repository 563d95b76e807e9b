"""From bytes that anybody may have written to a bundle whose every byte is accounted for.

`verify` is the only maker of `VerifiedBundle`, and whoever unpacks, loads or runs a bundle takes
one. Steps: 1. read the manifest, bounded; 2. compare its digest, before anything is parsed;
3. parse; 4. read every file and compare size, digest and chunk list. Steps the caller still owes:
where `manifest_sha256` comes from (a signed or desired release), and whether the profile fits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.errors import UntrustedError

_MADE_BY_VERIFY = object()


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle that agrees with its manifest. Only `verify` makes one."""

    manifest: Manifest
    manifest_sha256: str
    where: str
    _reader: Reader = field(repr=False)
    _maker: object = field(repr=False)

    def __post_init__(self) -> None:
        if self._maker is not _MADE_BY_VERIFY:
            raise RuntimeError("only verify() makes a VerifiedBundle")

    def read(self, path: str) -> bytes:
        """A file's bytes, their digest checked now: what is parsed is what was verified.

        Raises:
            UntrustedError: not among the manifest's files, or no longer what it was.
            DeviceError: the disk failed, or the chunk store lost or spoiled a chunk.
        """
        entry = self.manifest.file(path)
        data = self._reader.read(path, entry.size_bytes)
        entry.check(data, self.where)
        return data


def verify(
    reader: Reader, *, manifest_sha256: str | None = None, files: bool = True
) -> VerifiedBundle:
    """The bundle behind `reader`, believed only as far as the manifest's digest is.

    Args:
        reader: where the bytes come from.
        manifest_sha256: what the manifest's bytes must hash to; None where the caller wants
            integrity only (a bundle of one's own making).
        files: False leaves step 4 to each `VerifiedBundle.read`, for a bundle that was verified
            when it was installed.

    Raises:
        UntrustedError: any step fails.
        IncompatibleError: the manifest's format is not one that this software reads.
        DeviceError: the disk failed.
    """
    data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)  # 1
    found = sha256_hex(data)
    if manifest_sha256 is not None and found != manifest_sha256:  # 2
        raise UntrustedError(
            f"{reader.where}: {MANIFEST_NAME} has digest {found}, expected {manifest_sha256}"
        )
    manifest = Manifest.from_bytes(data, where=f"{reader.where}: {MANIFEST_NAME}")  # 3
    bundle = VerifiedBundle(manifest, found, reader.where, reader, _MADE_BY_VERIFY)
    for entry in manifest.files if files else ():  # 4
        entry.check_chunks(bundle.read(entry.path), reader.where)
    return bundle
