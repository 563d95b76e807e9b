"""Publishing for devices that trust signatures: into the home's repository, signed, then uploaded.

The order: 1. verify the bundle; 2. refuse to change what is signed under its name; 3. its chunks,
then its release file, into the tree; 4. sign it into targets, with snapshot and timestamp. With a
broker: 5. see that it is this fleet's, and not ahead; 6. chunks and release file there, as
`publish` does; 7. the signed metadata, timestamp last. Each step may be cut short and done again;
what is done already is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.fleet.authority import Authority
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.outcome import Outcome
from edge_runtime.fleet.publish import OnProgress, Publication, publish, release_in
from edge_runtime.fleet.repository import release_json
from edge_runtime.fleet.upload import Upload, check, upload
from edge_runtime.messages.fleet import Release


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """What signing a bundle did.

    `again`: it was signed or staged before; `added_bytes`: what was new in the tree; `complete`:
    devices that read the tree may have it.
    """

    release: Release
    again: bool
    added_bytes: int
    complete: bool
    outcome: Outcome

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            **release_json(self.release),
            "again": self.again,
            "added_bytes": self.added_bytes,
            "signed": self.complete,
            **self.outcome.as_json(),
        }


def sign_bundle(authority: Authority, reader: Reader, *, force: bool = False) -> SignedRelease:
    """Put the bundle behind `reader` into the home's repository, signed by the keys that are here.

    Raises:
        UntrustedError, IncompatibleError: the bundle is broken, or not to be read.
        InputError: another bundle is signed under its name, version and profile, and not `force`;
            or it cannot be signed now.
        TransferError: a signer failed.
        DeviceError: the disk failed.
    """
    bundle = verify(reader)  # 1
    release, manifest = release_in(bundle, reader)
    again = authority.check(release, replace=force)  # 2
    added_bytes = authority.tree.add(bundle, release, manifest)  # 3
    authority.add(release, replace=force)  # 4
    authority.settle()
    outcome = authority.outcome()
    signed = authority.signed_releases().get(release.file)
    named = signed is not None and signed.manifest_sha256 == release.manifest.sha256
    return SignedRelease(release, again, added_bytes, named and outcome.published, outcome)


def demand_complete(made: SignedRelease) -> None:
    """Raises InputError: signatures are missing, so that nothing can be published; says whose."""
    if made.complete:
        return
    r = made.release
    where = f"release {r.name}=={r.version} for {r.profile}"
    for staged in made.outcome.staged:
        if staged.missing:
            raise InputError(
                f"{where}: waits for {staged.missing} more signatures in {staged.file}; run "
                "`edge-fleet sign` where the keys are, then publish again"
            )
    raise InputError(f"{where}: is signed, but {'; '.join(made.outcome.notes)}")


def publish_signed(
    connection: Connection,
    authority: Authority,
    reader: Reader,
    *,
    force: bool = False,
    on_progress: OnProgress = lambda _done, _total: None,
) -> tuple[Publication, Upload]:
    """Upload a bundle that `sign_bundle` has completed, and then the signed metadata.

    Raises:
        InputError: the broker has newer metadata of this fleet, or another fleet's.
        TransferError: the broker stands still, forbids, or does not keep what it acknowledged.
    """
    check(connection, authority)  # 5
    offer = authority.tree.offer(release_in(verify(reader, files=False), reader)[0])
    made = publish(  # 6
        connection, reader, force=force, replace=True, offer=offer, on_progress=on_progress
    )
    return made, upload(connection, authority)  # 7
