"""The last pass: the variants that were good enough, as a bundle folder and one `.edge` file.

The order of variants is the profile's. The folder appears whole or not at all, and replaces one of
the same bundle; the archive is packed from it. Finally the bundle is opened again, and every
variant proves itself on the golden vectors as it will on the device.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from converters.configs import PackageConfig
from converters.draft import write_bundle
from converters.model import Candidate, Job, Model, Verdict
from converters.placement.candidate import not_shippable
from converters.proofs import prove
from edge_runtime.bundle.archive import FolderReader, open_bundle, pack
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.bundle.verify import verify as verify_bundle
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fields import Json
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.profile import DeviceProfile, load_profile, profile_names


def package(model: Model, config: PackageConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """Write `<out>/<name>-<version>-<profile>/` and `.edge`; `Model.bundle` is the latter.

    Raises:
        DeviceError: the folder cannot be written, or a variant fails its own golden vectors.
    """
    assert model.verdict is not None
    left_out = _left_out(model.candidates, model.verdict, job)
    packed = [_shipped(one) for one in _chosen(model, config, job, left_out)]
    folder, archive = _places(job)
    stem = folder.name
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{stem}-", dir=job.out))
        try:
            write_bundle(model, job, made, packed)
            made.chmod(0o755)
            proved = _prove(verify_bundle(FolderReader(made)))
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        size = pack(FolderReader(folder), archive)
    except OSError as reason:
        raise DeviceError(f"output {job.out}: {reason.strerror} ({reason.filename})") from None
    manifest_sha256 = sha256_hex((folder / MANIFEST_NAME).read_bytes())
    return replace(model, bundle=archive), {
        "bundle": str(archive),
        "folder": str(folder),
        "size_bytes": size,
        "manifest_sha256": manifest_sha256,
        "variants": [one.id for one in packed],
        "latency_p95_ms": {one.variant: one.latency_p95_ms for one in proved},
        "refused": {one.id: one.refused for one in model.verdict.candidates if one.refused},
        "left_out": left_out,
    }


def discard(job: Job) -> None:
    """Remove what `package` wrote before to the same place: nobody takes it for this job's."""
    folder, archive = _places(job)
    archive.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _places(job: Job) -> tuple[Path, Path]:
    """Where the bundle goes, as a folder and as an archive."""
    stem = f"{job.recipe.name}-{job.recipe.version}-{job.profile.name}"
    return job.out / stem, job.out / f"{stem}.edge"


def _shipped(candidate: Candidate) -> Candidate:
    """With what a vendor's compiler made of the file, where it has to be made on the host."""
    if candidate.compiled is None:
        return candidate
    return replace(candidate, artifact=candidate.compiled)


def _chosen(
    model: Model, config: PackageConfig, job: Job, left_out: Mapping[str, Json]
) -> list[Candidate]:
    """The candidates to pack, the preferred first: those that an engine of the profile asks for.

    Raises:
        InputError: none of the engines that are to be packed has a variant that is good enough.
    """
    assert model.verdict is not None
    refused = {one.id for one in model.verdict.candidates if one.refused}
    order = [(engine.backend, engine.accelerator) for engine in job.profile.engines]
    engines = config.engines or tuple(dict.fromkeys(backend for backend, _ in order))
    good = [
        one
        for one in model.candidates
        if one.backend in engines
        and (one.backend, one.accelerator) in order
        and one.id not in refused
        and one.id not in left_out
    ]
    if not good:
        raise InputError(f"package: no variant of {', '.join(engines)} is good enough")
    if config.engines:
        good.sort(key=lambda one: engines.index(one.backend))
    good.sort(key=lambda one: not one.asked_for)
    return [one for one in good if one.asked_for or config.keep_float] or good


def _left_out(candidates: Sequence[Candidate], verdict: Verdict, job: Job) -> dict[str, Json]:
    """Good candidates whose file the board could not run as it is, and why; it is told."""
    refused = {one.id for one in verdict.candidates if one.refused}
    found: dict[str, Json] = {}
    for one in candidates:
        engine = job.profile.engine(one.backend, one.accelerator)
        if engine is None or one.id in refused:
            continue
        if why := not_shippable(one, engine):
            job.progress.say(f"  left out  {one.id}: {why}")
            found[one.id] = why
    return found


def _prove(bundle: VerifiedBundle) -> list[SelfTestReport]:
    """Every variant that runs here must pass the device's self-test, the board's budget aside."""
    reports = self_tests(bundle)
    for report in reports:
        if not report.passed:
            raise DeviceError(f"variant {report.variant} fails its self-test: {report.reason}")
    return reports


def self_tests(
    bundle: VerifiedBundle, variants: Sequence[Variant] | None = None
) -> list[SelfTestReport]:
    """The reports of `prove`: none of a variant that nothing here can run.

    Raises:
        IncompatibleError: the engine of a variant for the CPU is not installed or cannot load it.
    """
    return [one.report for one in prove(bundle, variants) if one.report is not None]


def profile_of(bundle: VerifiedBundle) -> DeviceProfile | None:
    """The profile that the bundle was made for, where it is a shipped one and still the same."""
    manifest = bundle.manifest
    if manifest.profile not in profile_names():
        return None
    profile = load_profile(manifest.profile)
    return profile if profile.sha256 == manifest.profile_sha256 else None


def is_bundle(named: str) -> bool:
    """Whether `named` is meant as a bundle and not as a model: by its ending or its manifest."""
    path = Path(named)
    return path.suffix == ".edge" or (path / MANIFEST_NAME).exists()


def open_verified(path: Path) -> VerifiedBundle:
    """The bundle at `path`, every digest checked.

    Raises:
        InputError: there is none.
        UntrustedError: it is not what its manifest says.
    """
    return verify_bundle(open_bundle(path))
