"""A repository of signed metadata that does what a test asks of it, honest or not.

    repo = SignedRepository()
    repo.add("demo@1.0.0@board.json", b"…")
    repo.publish()                      # targets, snapshot, timestamp: the next version of each
    repo.rotate("timestamp", "new")     # keys are made from labels: the same label, the same key
    repo.publish("root", "timestamp")

`files` is what stands in `metadata/` now, by name, and `artifacts` what stands in `targets/`: an
attack changes these bytes, or signs its own with `signed_bytes`. `honest` is what would stand there
without attacks, `ever` all that was signed for it. `expiry_s` holds, by role, when the next version
expires, where not as usual. A client gets to all this as a folder (`write`), as retained messages
(`publish_retained`) or from a web server (`serving`).
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signature, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edge_runtime.link.base import Link
from edge_runtime.messages.topics import Topics
from edge_runtime.update.clock import BUILD_S

DAY_S = 86_400.0
NOW_S = BUILD_S + 30 * DAY_S
"""When these tests take place: after the software was made, whatever today is."""
LIFE_S = {
    "root": 365 * DAY_S,
    "targets": 90 * DAY_S,
    "snapshot": 30 * DAY_S,
    "timestamp": 7 * DAY_S,
}
UNVERSIONED = "timestamp"


class FakeReadings:
    """A machine's clocks, moved by hand."""

    def __init__(self, now_s: float = NOW_S, *, synchronized: bool = True) -> None:
        self.wall_s = now_s
        self.is_synchronized = synchronized
        self.up_s = 100.0
        self.boot = "boot-1"

    def now_s(self) -> float:
        return self.wall_s

    def synchronized(self) -> bool:
        return self.is_synchronized

    def uptime_s(self) -> float:
        return self.up_s

    def boot_id(self) -> str:
        return self.boot

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.wall_s += seconds
        self.up_s += seconds

    def reboot(self, wall_s: float | None = None) -> None:
        """Start anew, perhaps with another idea of the time."""
        self.boot = f"boot-{int(self.boot.removeprefix('boot-')) + 1}"
        self.up_s = 1.0
        if wall_s is not None:
            self.wall_s = wall_s


@cache
def signer(label: str) -> CryptoSigner:
    """The Ed25519 key of that name: the same in every run."""
    seed = hashlib.sha256(label.encode()).digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))


def date(time_s: float) -> datetime:
    """As metadata tells time."""
    return datetime.fromtimestamp(time_s, timezone.utc).replace(microsecond=0)


def signed_at_text(time_s: float) -> str:
    """The value of `signed_at`."""
    return f"{date(time_s):%Y-%m-%dT%H:%M:%SZ}"


def signed_bytes(signed: Signed, signers: Iterable[Signer]) -> bytes:
    """A metadata file, signed by whomever one likes."""
    metadata: Metadata[Any] = Metadata(copy.deepcopy(signed))
    for one in signers:
        metadata.sign(one, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def with_signature(data: bytes, keyid: str, by: Signer) -> bytes:
    """`data` with one more signature, made by `by` and said to be `keyid`'s."""
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    made = by.sign(metadata.signed_bytes)
    metadata.signatures[keyid] = Signature(keyid, made.signature)
    return metadata.to_bytes(JSONSerializer(compact=True))


class SignedRepository:
    """Root, timestamp, snapshot and targets in version 1, each with one key of its own."""

    def __init__(
        self, name: str = "fleet", *, now_s: float = NOW_S, consistent: bool = True
    ) -> None:
        self.name = name
        self.now_s = now_s
        self.hashes = True
        self.tells_time = True
        self.files: dict[str, bytes] = {}
        self.artifacts: dict[str, bytes] = {}
        self.honest: dict[str, bytes] = {}
        self.ever: set[bytes] = set()
        self._begun: set[str] = set()
        self.expiry_s: dict[str, float] = {}
        self.signers: dict[str, list[CryptoSigner]] = {}
        self.root = Root(consistent_snapshot=consistent)
        self.timestamp = Timestamp()
        self.snapshot = Snapshot()
        self.roles: dict[str, Targets] = {"targets": Targets()}
        for role in ("root", "timestamp", "snapshot", "targets"):
            self.rotate(role, role)
        self.publish("root", "targets", "snapshot", "timestamp")

    @property
    def targets(self) -> Targets:
        return self.roles["targets"]

    @property
    def all_roles(self) -> tuple[str, ...]:
        """In the order in which they are published."""
        return ("root", *reversed(self.roles), "snapshot", "timestamp")

    def signed(self, role: str) -> Signed:
        """What the next version of a role is made of: change it, then `publish`."""
        top: dict[str, Signed] = {
            "root": self.root,
            "timestamp": self.timestamp,
            "snapshot": self.snapshot,
        }
        return top.get(role) or self.roles[role]

    def rotate(self, role: str, *labels: str, threshold: int = 1) -> None:
        """Give a role these keys, and no others, in the next root, or in the next targets where it
        is one that those delegate to. The old root keys sign on.
        """
        holder: Root | Targets = self.root if role in self.root.roles else self.targets
        now = holder.get_delegated_role(role)
        for keyid in list(now.keyids):
            holder.revoke_key(keyid, role)
        made = [signer(f"{self.name}/{label}") for label in labels]
        for one in made:
            holder.add_key(one.public_key, role)
        now.threshold = threshold
        if role == "root" and self._begun:
            # A new root is signed by the keys of the one before it, too.
            before = [s for s in self.signers["root"] if s not in made]
            self.signers["root"] = [*made, *before]
        else:
            self.signers[role] = made

    def delegate(
        self,
        parent: str,
        name: str,
        paths: Sequence[str] = ("*",),
        *,
        terminating: bool = False,
        labels: Sequence[str] = (),
        threshold: int = 1,
    ) -> Targets:
        """Have `parent` delegate `paths` to `name`, after those before it. Publish both then."""
        role = DelegatedRole(name, [], threshold, terminating, list(paths))
        delegator = self.roles[parent]
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        assert delegator.delegations.roles is not None
        delegator.delegations.roles[name] = role
        made = [signer(f"{self.name}/{label}") for label in labels or (name,)]
        for one in made:
            delegator.add_key(one.public_key, name)
        self.signers[name] = made
        return self.roles.setdefault(name, Targets())

    def add(self, path: str, data: bytes, role: str = "targets") -> TargetFile:
        """A target of the next version of `role`."""
        target = TargetFile.from_data(path, data, ["sha256"])
        self.roles[role].targets[path] = target
        folder, slash, base = path.rpartition("/")
        hashed = f"{folder}{slash}{target.hashes['sha256']}.{base}"
        self.artifacts[hashed if self.root.consistent_snapshot else path] = data
        return target

    def publish(self, *roles: str) -> None:
        """The next version of these roles, in this order; of all but root where none is named."""
        for role in roles or self.all_roles[1:]:
            signed = self.signed(role)
            signed.version += role in self._begun
            self._begun.add(role)
            self._date(role, signed)
            self.put(role, signed_bytes(signed, self.signers[role]))

    def _date(self, role: str, signed: Signed) -> None:
        life_s = LIFE_S.get(role, LIFE_S["targets"])
        signed.expires = date(self.expiry_s.get(role, self.now_s + life_s))
        if self.tells_time and role in ("root", "timestamp"):
            signed.unrecognized_fields["signed_at"] = signed_at_text(self.now_s)

    def put(self, role: str, data: bytes) -> None:
        """Let `data`, which is signed, be a role's newest version: the others speak of it."""
        signed = self.signed(role)
        self.files[self.file(role)] = data
        self.honest[self.file(role)] = data
        self.ever.add(data)
        meta = MetaFile(signed.version)
        if self.hashes:
            meta = MetaFile.from_data(signed.version, data, ["sha256"])
        if role == "snapshot":
            self.timestamp.snapshot_meta = meta
        elif role not in ("root", "timestamp"):
            self.snapshot.meta[f"{role}.json"] = meta

    def file(self, role: str, version: int | None = None) -> str:
        """The file that holds a role, in its newest version or another."""
        number = self.signed(role).version if version is None else version
        name = quote(role, "")
        plain = role == UNVERSIONED or not (role == "root" or self.root.consistent_snapshot)
        return f"{name}.json" if plain else f"{number}.{name}.json"

    def again(self, role: str, *signers: Signer) -> bytes:
        """A role's newest version signed once more, by these or by nobody."""
        return signed_bytes(self.signed(role), signers)

    def replace(self, role: str, data: bytes) -> None:
        """Serve `data` in place of a role's newest version. Nothing else changes."""
        self.files[self.file(role)] = data

    def write(self, folder: Path) -> None:
        """As a tree: `metadata/` and `targets/`."""
        for part, files in (("metadata", self.files), ("targets", self.artifacts)):
            for name, data in files.items():
                path = folder / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def publish_retained(
    link: Link, topics: Topics, files: dict[str, bytes], before: dict[str, bytes] | None = None
) -> None:
    """Have the broker keep `files`, and nothing more of what it kept `before`."""
    before = before or {}
    for name in before.keys() - files.keys():
        link.publish(topics.metadata(name), b"", retain=True, wait_s=10)
    for name, data in files.items():
        if before.get(name) != data:
            link.publish(topics.metadata(name), data, retain=True, wait_s=10)
    link.flush(10)


class Site:
    """Where a repository is served, and what was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []


@contextmanager
def serving(repo: SignedRepository) -> Iterator[Site]:
    """`repo` on a web server of its own, as it is at the time of each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.partition("/")[2])
            site.asked.append(path)
            part, _, name = path.partition("/")
            # A role's name stands quoted in its file's name, and quoted again in the URL.
            files = {"metadata": repo.files, "targets": repo.artifacts}.get(part, {})
            data = files.get(name)
            if data is None:
                data = files.get(self.path.rpartition("/")[2]) if part == "metadata" else None
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
