"""The first bundle of a board: one signed release of the home, as a repository of its own.

The board has no network yet and believes signatures only, so it gets what `edge-agent install`
would read from a stick: every root, the metadata that the timestamp names, one release file, its
chunks.
Nothing is signed here; a bundle that the home has not signed is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import EdgeError, InputError, UntrustedError
from edge_runtime.fields import Json
from edge_runtime.fleet.authority import Authority
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.outcome import TIME
from edge_runtime.fleet.settings import OFFLINE_ROLES
from edge_runtime.fleet.tree import Tree, role_file
from edge_runtime.messages.fleet import Release, release_file
from edge_runtime.text import plain

ROLES = ("targets", "snapshot")


@dataclass(frozen=True, slots=True)
class FirstBundle:
    """A release, and the tree that it is in. A board takes it until `until`, by its own clock."""

    release: Release
    tree: Tree
    until: datetime | None

    def files(self) -> Iterator[tuple[str, bytes | Path]]:
        """The repository: each path in it, and the content.

        Raises:
            UntrustedError, IncompatibleError, DeviceError: the tree is damaged.
        """
        metadata = self.tree.metadata
        names = [role_file("root", version) for version in metadata.versions("root")]
        names += [role_file(role, metadata.versions(role)[-1]) for role in ROLES]
        for name in (*names, role_file("timestamp", 0)):
            data = metadata.read(name)
            if data is None:
                raise UntrustedError(f"{metadata.folder}: {name} is missing")
            yield f"metadata/{name}", data
        # Deltas lead from releases that a new board does not have.
        alone = dataclasses.replace(self.release, deltas=())
        yield f"metadata/{alone.file}", alone.to_bytes()
        manifest = self.tree.manifest(self.release)
        chunks = {c.sha256: c for e in (alone.manifest, *manifest.files) for c in e.chunks}
        for digest, chunk in sorted(chunks.items()):
            self.tree.chunks.get(chunk)  # Held to its digest here, where it can still be mended.
            yield f"chunks/{digest[:2]}/{digest}", self.tree.chunks.root / digest[:2] / digest

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        r = self.release
        return {
            "name": r.name,
            "version": r.version,
            "profile": r.profile,
            "manifest_sha256": r.manifest.sha256,
            "until": self.until.strftime(TIME) if self.until is not None else None,
        }


def find_bundle(home: Home, word: str, profile: str, now: datetime) -> FirstBundle:
    """The release that `word` says, for boards of `profile`.

    Args:
        word: NAME==VERSION, or the path of a bundle that is signed already.

    Raises:
        InputError: not signed, or not for this profile; it says how to sign it.
        UntrustedError, IncompatibleError, DeviceError: the bundle or the home is damaged.
    """
    name, equals, version = word.partition("==")
    digest = ""
    if not equals or Path(word).exists():
        bundle = verify(open_bundle(Path(word)), files=False)
        name, version = bundle.manifest.name, bundle.manifest.version
        digest = bundle.manifest_sha256
    authority = Authority.open(home, now)
    signed = authority.signed_releases()
    try:
        file = release_file(name, version, profile)
    except EdgeError:
        raise InputError(f"bundle {plain(word)!r}: expected NAME==VERSION or a file") from None
    found = authority.tree.releases().get(file)
    what = f"release {plain(name)}=={plain(version)} for {profile}"
    if file not in signed or found is None:
        same = [s.profile for s in signed.values() if (s.name, s.version) == (name, version)]
        if same and profile not in same:
            raise InputError(
                f"{what}: is signed for {plain(', '.join(same))} only; build and publish one for "
                f"{profile} too, or take a bundle that is"
            )
        raise InputError(
            f"{what}: is not signed in {home.folder}{_others(signed, profile)}; sign it first: "
            "edge-fleet publish FILE.edge --passphrase-file …"
        )
    if found.manifest.sha256 != signed[file].manifest_sha256:
        raise UntrustedError(f"{what}: {home.metadata / file} is of another bundle than is signed")
    if digest and digest != found.manifest.sha256:
        raise InputError(
            f"{plain(word)}: is another bundle than {what} that is signed; publish it under a "
            "version of its own"
        )
    outcome = authority.outcome()
    if not outcome.published:
        raise InputError(f"{what}: its metadata lacks signatures; see edge-fleet refresh --check")
    ends = {role.role: role.expires for role in outcome.roles if role.expires is not None}
    until = min(ends.values(), default=None)
    if until is not None and until <= now:
        locked = any(end <= now for role, end in ends.items() if role in OFFLINE_ROLES)
        raise InputError(
            f"{what}: the signed metadata expired at {until.strftime(TIME)}, no board would take "
            f"it; renew it first: edge-fleet refresh --home {home.folder}"
            f"{' --passphrase-file FILE' if locked else ''}"
        )
    return FirstBundle(found, authority.tree, until)


def _others(signed: object, profile: str) -> str:
    """Releases that there are for this profile, for a message."""
    names = [str(name) for name in signed] if isinstance(signed, dict) else []
    fitting = ["==".join(n.split("@")[:2]) for n in names if n.endswith(f"@{profile}.json")]
    return f" (there are {', '.join(map(plain, fitting[:10]))})" if fitting else ""
