"""`edge-convert join`: bundles of one model, made for several boards, as one for all of them.

What makes it one model must be the same in all: name, version, task, interface, steps and golden
vectors. Each variant then names the boards that it was made for, in the order in which the bundles
are given; each board keeps its own order of preference. Date, provenance, and quality, which is of
the first variant, are the first bundle's, so equal inputs give equal bytes.

A file is there once, whoever brings it. Files that steps and golden vectors name must be the same;
a model's file that has another's name gets its board's added. Variants that are the same for two
boards become one, unless a board would then prefer them otherwise.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from converters.package import open_verified, self_tests
from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.bundle.files import FileEntry
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_VARIANTS, Manifest, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.bundle.verify import verify as verify_bundle
from edge_runtime.errors import DeviceError, IncompatibleError, InputError, UntrustedError
from edge_runtime.fields import Json
from edge_runtime.inference.backend import load_backend
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.text import plain, size

WORDS = 80
"""Characters of a value in a sentence about what differs."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What was written. `proofs` are of the variants that ran here, `unproved` says why others not.

    `saved_bytes` is what the bundles hold twice, and this one once.
    """

    bundle: VerifiedBundle
    folder: Path
    archive: Path
    size_bytes: int
    saved_bytes: int
    proofs: tuple[SelfTestReport, ...]
    unproved: Mapping[str, str]

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        m = self.bundle.manifest
        return {
            "name": m.name,
            "version": m.version,
            "bundle": str(self.archive),
            "folder": str(self.folder),
            "size_bytes": self.size_bytes,
            "saved_bytes": self.saved_bytes,
            "manifest_sha256": self.bundle.manifest_sha256,
            "profiles": {
                profile: {
                    "variants": [v.id for v in m.variants_for(profile)],
                    "size_bytes": _needed_bytes(m, profile),
                }
                for profile in m.profiles
            },
            "latency_p95_ms": {one.variant: one.latency_p95_ms for one in self.proofs},
            "unproved": dict(self.unproved),
        }

    def text(self) -> str:
        """For people."""
        m = self.bundle.manifest
        lines = [f"{m.name} {m.version} for {', '.join(m.profiles)}"]
        for profile in m.profiles:
            ids = ", ".join(v.id for v in m.variants_for(profile))
            lines.append(f"  {profile}: {ids} ({size(_needed_bytes(m, profile))})")
        lines += [
            f"  {one.variant}: golden vectors passed on this host, {one.accelerator.actual}"
            for one in self.proofs
        ]
        lines += [f"  {name}: unproved here, {why}" for name, why in self.unproved.items()]
        lines.append(f"  bundle: {self.archive} ({size(self.size_bytes)})")
        return "\n".join(plain(line) for line in lines)


def join(paths: Sequence[Path], out: Path) -> Joined:
    """Write `<out>/<name>-<version>-joined/` and `.edge`.

    Args:
        paths: two bundles or more, the one whose board is named first in front.

    Raises:
        InputError: fewer than two, not of one model, or two of them for one board.
        UntrustedError: one is not what its manifest says.
        DeviceError: `out` cannot be written, or a variant fails its golden vectors on this host.
    """
    if len(paths) < 2:
        raise InputError(f"join: expected two bundles or more, found {len(paths)}")
    bundles = [open_verified(path) for path in paths]
    for other in bundles[1:]:
        _demand_same(bundles[0], other)
    _demand_boards(bundles)
    files = _files(bundles)
    manifest = _manifest(bundles, files)
    first = bundles[0].manifest
    folder = out / f"{first.name}-{first.version}-joined"
    archive = folder.with_name(f"{folder.name}.edge")
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=out))
        try:
            _write(made, manifest, files)
            made.chmod(0o755)
            proofs, unproved = _prove(verify_bundle(FolderReader(made)))
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        size_bytes = pack(FolderReader(folder), archive)
    except OSError as reason:
        raise DeviceError(f"output {out}: {reason.strerror} ({reason.filename})") from None
    return Joined(
        bundle=verify_bundle(FolderReader(folder), files=False),
        folder=folder,
        archive=archive,
        size_bytes=size_bytes,
        saved_bytes=sum(one.manifest.size_bytes for one in bundles) - manifest.size_bytes,
        proofs=proofs,
        unproved=unproved,
    )


def _needed_bytes(manifest: Manifest, profile: str) -> int:
    needed = manifest.files_of(manifest.variants_for(profile))
    return sum(entry.size_bytes for entry in needed)


def _demand_same(first: VerifiedBundle, other: VerifiedBundle) -> None:
    """Raises InputError: they are not of one model; the first thing that differs is named."""
    a, b = first.manifest, other.manifest
    for what, one, two in (
        ("name", a.name, b.name),
        ("version", a.version, b.version),
        ("task", a.task, b.task),
        ("inputs", a.inputs, b.inputs),
        ("outputs", a.outputs, b.outputs),
        ("preprocess", a.preprocess, b.preprocess),
        ("postprocess", a.postprocess, b.postprocess),
        ("golden", a.golden, b.golden),
    ):
        if one != two:
            words = f": {one} here and {two} there" if isinstance(one, str) else ""
            raise InputError(f"join: {first.where} and {other.where} differ in {what}{words}")
    entries = {entry.path: entry for entry in a.files_of(())}
    for entry in b.files_of(()):
        same = entries.get(entry.path)
        if same is not None and same.sha256 != entry.sha256:
            what = "golden vectors" if entry.path == a.golden.file else "a file that steps read"
            raise InputError(
                f"join: {first.where} and {other.where} differ in {entry.path}, {what}: "
                f"{same.sha256[:12]}… here and {entry.sha256[:12]}… there"
            )


def _demand_boards(bundles: Sequence[VerifiedBundle]) -> None:
    """Raises InputError: two bundles are made for one board; which should it run?"""
    seen: dict[str, str] = {}
    for bundle in bundles:
        for profile in bundle.manifest.profiles:
            if profile in seen:
                raise InputError(
                    f"join: {seen[profile]} and {bundle.where} are both made for {profile}"
                )
            seen[profile] = bundle.where


@dataclass(slots=True)
class _Files:
    """The files of the joined bundle by path; `names` is what a bundle's file is called there."""

    entries: dict[str, tuple[FileEntry, VerifiedBundle]]
    names: dict[tuple[int, str], str]

    def add(self, path: str, entry: FileEntry, bundle: VerifiedBundle) -> None:
        self.entries[path] = replace(entry, path=path), bundle

    def known_as(self, entry: FileEntry) -> str | None:
        """The path of a variant's file with the same bytes; shared ones are everybody's."""
        for path in self.names.values():
            if self.entries[path][0].sha256 == entry.sha256:
                return path
        return None


def _files(bundles: Sequence[VerifiedBundle]) -> _Files:
    """Shared files first, under their own names, for steps name them; then those of variants."""
    files = _Files({}, {})
    for bundle in bundles:
        for entry in bundle.manifest.files_of(()):
            if entry.path not in files.entries:
                files.add(entry.path, entry, bundle)
    for index, bundle in enumerate(bundles):
        m = bundle.manifest
        for variant in m.variants:
            entry = m.file(variant.file)
            if (index, entry.path) in files.names:
                continue
            path = files.known_as(entry)
            if path is None:
                path = _free(entry.path, m.profile, files.entries)
                files.add(path, entry, bundle)
            files.names[index, entry.path] = path
    return files


def _free(path: str, profile: str, taken: Mapping[str, object]) -> str:
    """`path`, with the board's name added where another file is called so."""
    used = {other.casefold() for other in taken}
    old, count = PurePosixPath(path), 1
    found = path
    while found.casefold() in used:
        number = f"-{count}" if count > 1 else ""
        found = str(old.with_name(f"{old.stem}-{profile}{number}{old.suffix}"))
        count += 1
    return found


def _manifest(bundles: Sequence[VerifiedBundle], files: _Files) -> Manifest:
    """Raises InputError: more variants, files or chunks than a manifest may have."""
    variants: list[Variant] = []
    for index, bundle in enumerate(bundles):
        m = bundle.manifest
        theirs = [
            replace(v, file=files.names[index, v.file], profiles=v.profiles or (m.profile,))
            for v in m.variants
        ]
        variants = _merged(variants, theirs)
    first = bundles[0].manifest
    if len(variants) > MAX_VARIANTS:
        raise InputError(
            f"join: {len(variants)} variants, a bundle may have {MAX_VARIANTS} of them"
        )
    entries = sorted((entry for entry, _ in files.entries.values()), key=lambda one: one.path)
    return replace(first, variants=tuple(variants), files=tuple(entries))


def _merged(ours: list[Variant], theirs: Sequence[Variant]) -> list[Variant]:
    """Both, each in its own order, those that are the same once. The first of `ours` stays first.

    What only the others have goes right before the next that both have, else to the end.
    """
    made = list(ours)
    waiting: list[Variant] = []
    start = 0
    for variant in theirs:
        place = next((i for i in range(start, len(made)) if _same(made[i], variant)), None)
        if place is None or (place == 0 and waiting):
            waiting.append(variant)
            continue
        both = (*made[place].profiles, *variant.profiles)
        made[place] = replace(made[place], profiles=both)
        made[place:place] = waiting
        start = place + len(waiting) + 1
        waiting = []
    made += waiting
    return _named(made)


def _same(one: Variant, other: Variant) -> bool:
    return replace(one, profiles=()) == replace(other, profiles=())


def _named(variants: Sequence[Variant]) -> list[Variant]:
    """With the board's name added to an id that another one has already."""
    used: set[str] = set()
    made: list[Variant] = []
    for variant in variants:
        found, count = variant.id, 1
        while found in used:
            number = f"-{count}" if count > 1 else ""
            found = f"{variant.id}-{variant.profiles[0]}{number}"[-128:].lstrip("._-")
            count += 1
        used.add(found)
        made.append(replace(variant, id=found))
    return made


def _write(out: Path, manifest: Manifest, files: _Files) -> None:
    """Raises InputError: a reader would refuse the manifest, such as for its size."""
    data = manifest.to_bytes()
    where = f"bundle {manifest.name} {manifest.version}"
    try:
        Manifest.from_bytes(data, where=where)
    except UntrustedError as reason:
        raise InputError(f"join: {reason}") from None
    for path, (entry, bundle) in files.entries.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        source = next(e.path for e in bundle.manifest.files if e.sha256 == entry.sha256)
        (out / path).write_bytes(bundle.read(source))
    (out / MANIFEST_NAME).write_bytes(data)


def _prove(bundle: VerifiedBundle) -> tuple[tuple[SelfTestReport, ...], dict[str, str]]:
    """The self-test of each variant that can run here, and why the others cannot.

    Raises:
        DeviceError: one runs and fails.
    """
    unproved: dict[str, str] = {}
    here: list[Variant] = []
    for variant in bundle.manifest.variants:
        try:
            missing = load_backend(variant.backend).available()
        except IncompatibleError as reason:
            missing = str(reason)
        if missing is None:
            here.append(variant)
        else:
            unproved[variant.id] = missing
    reports = self_tests(bundle, here)
    for report in reports:
        if not report.passed:
            raise DeviceError(
                f"join: variant {report.variant} fails its self-test: {report.reason}"
            )
    proved = {report.variant for report in reports}
    for variant in here:
        if variant.id not in proved:
            unproved[variant.id] = (
                f"{variant.file} is made for {variant.placement.accelerator}, which is not here"
            )
    return tuple(reports), unproved
