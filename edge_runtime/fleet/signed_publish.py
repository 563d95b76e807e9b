"""Publishing for devices that trust signatures: into the home's repository, signed, then uploaded.

The order: 1. verify the bundle; 2. refuse to change what is signed under its name; 3. its chunks,
then its release files, one for each profile, into the tree; 4. sign them into targets, with
snapshot and timestamp. With a broker: 5. see that it is this fleet's, and not ahead; 6. chunks and
release files there, as `publish` does; 7. the signed metadata, timestamp last. Each step may be cut
short and done again; what is done already is passed over.
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
from edge_runtime.fleet.publish import OnProgress, Publication, publish, releases_in
from edge_runtime.fleet.repository import release_json
from edge_runtime.fleet.upload import Upload, check, upload
from edge_runtime.messages.fleet import Release


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """What signing a bundle did.

    There is a release for each profile, the bundle's own in front. `again`: they were signed or
    staged before; `added_bytes`: what was new in the tree; `complete`: devices that read the tree
    may have them.
    """

    releases: tuple[Release, ...]
    size_bytes: int
    again: bool
    added_bytes: int
    complete: bool
    outcome: Outcome

    @property
    def release(self) -> Release:
        """That of the bundle's own profile."""
        return self.releases[0]

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            **release_json(self.release),
            "profiles": [release.profile for release in self.releases],
            "size_bytes": self.size_bytes,
            "again": self.again,
            "added_bytes": self.added_bytes,
            "signed": self.complete,
            **self.outcome.as_json(),
        }


def sign_bundle(authority: Authority, reader: Reader, *, force: bool = False) -> SignedRelease:
    """Put the bundle behind `reader` into the home's repository, signed by the keys that are here.

    Raises:
        UntrustedError, IncompatibleError: the bundle is broken, or not to be read.
        InputError: another bundle is signed under its name, version and a profile, and not
            `force`; or it cannot be signed now.
        TransferError: a signer failed.
        DeviceError: the disk failed.
    """
    bundle = verify(reader)  # 1
    releases, manifest = releases_in(bundle, reader)
    known = [authority.check(release, replace=force) for release in releases]  # 2
    added_bytes = sum(authority.tree.add(bundle, release, manifest) for release in releases)  # 3
    authority.add(releases, replace=force)  # 4
    authority.settle()
    outcome = authority.outcome()
    signed = authority.signed_releases()
    complete = outcome.published and all(
        release.file in signed and signed[release.file].manifest_sha256 == release.manifest.sha256
        for release in releases
    )
    return SignedRelease(
        releases, bundle.manifest.size_bytes, all(known), added_bytes, complete, outcome
    )


def demand_complete(made: SignedRelease) -> None:
    """Raises InputError: signatures are missing, so that nothing can be published; says whose."""
    if made.complete:
        return
    r = made.release
    profiles = ", ".join(release.profile for release in made.releases)
    where = f"release {r.name}=={r.version} for {profiles}"
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
    releases, _ = releases_in(verify(reader, files=False), reader)
    offers = {release.file: authority.tree.offer(release) for release in releases}
    made = publish(  # 6
        connection, reader, force=force, replace=True, offers=offers, on_progress=on_progress
    )
    return made, upload(connection, authority)  # 7
