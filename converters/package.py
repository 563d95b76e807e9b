"""The last pass: the variants that were good enough, as a bundle folder and one `.edge` file.

The order of variants is the profile's. The folder appears whole or not at all, and replaces one of
the same bundle; the archive is packed from it. Finally the bundle is opened again, and every
variant proves itself on the golden vectors as it will on the device.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters.configs import PackageConfig
from converters.draft import on_this_host, write_bundle
from converters.model import Candidate, Job, Model
from converters.placement.candidate import not_shippable
from converters.quiet import quiet
from edge_runtime.bundle.archive import FolderReader, open_bundle, pack
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.bundle.verify import verify as verify_bundle
from edge_runtime.errors import DeviceError, IncompatibleError, InputError
from edge_runtime.fields import Json
from edge_runtime.inference.golden import load_golden
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import self_test
from edge_runtime.messages.worker import SelfTestReport
from edge_runtime.profile import CPU, DeviceProfile, load_profile, profile_names


def package(model: Model, config: PackageConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """Write `<out>/<name>-<version>-<profile>/` and `.edge`; `Model.bundle` is the latter.

    Raises:
        DeviceError: the folder cannot be written, or a variant fails its own golden vectors.
    """
    assert model.verdict is not None
    packed = [_shipped(one) for one in _chosen(model, config, job)]
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


def _chosen(model: Model, config: PackageConfig, job: Job) -> list[Candidate]:
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
        and not _left_out(one, job)
    ]
    if not good:
        raise InputError(f"package: no variant of {', '.join(engines)} is good enough")
    if config.engines:
        good.sort(key=lambda one: engines.index(one.backend))
    good.sort(key=lambda one: not one.asked_for)
    return [one for one in good if one.asked_for or config.keep_float] or good


def _left_out(candidate: Candidate, job: Job) -> bool:
    """Whether the board could not run the candidate's file as it is, which is then told."""
    engine = job.profile.engine(candidate.backend, candidate.accelerator)
    why = not_shippable(candidate, engine) if engine else ""
    if why:
        job.progress.say(f"  left out  {candidate.id}: {why}")
    return bool(why)


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
    """The device's self-test of each variant, on this host's CPU, without a budget.

    What the manifest says of the outputs is held against what the reference gave; the self-test
    itself holds what each engine gives against the reference. Of a variant for an accelerator only
    the numbers are proved, by the CPU; one that a vendor's compiler has made for its chip has no
    report, for nothing here can run it.

    Args:
        variants: of the bundle's; all of them where none are given.

    Raises:
        IncompatibleError: a variant's engine is not installed or cannot load it.
    """
    reports = []
    promised = _promise_broken(bundle)
    for variant in bundle.manifest.variants if variants is None else variants:
        here = variant.placement.accelerator == CPU
        with quiet():  # engines greet when they load, or at the first run
            try:
                pipeline = Pipeline.open(bundle, variant if here else on_this_host(variant))
            except IncompatibleError:
                if here:
                    raise
                continue
            try:
                if not here and not _runs(bundle, pipeline):
                    continue
                report = self_test(bundle, pipeline)
                if report.passed and promised:
                    report = replace(report, passed=False, reason=promised)
                reports.append(report)
            finally:
                pipeline.close()
    return reports


def _runs(bundle: VerifiedBundle, pipeline: Pipeline) -> bool:
    """Whether this host's engine can run the file: one that was compiled for a chip it cannot."""
    try:
        pipeline.run(load_golden(bundle)[0].inputs)
    except DeviceError:
        return False
    return True


def _promise_broken(bundle: VerifiedBundle) -> str:
    """How a golden output differs from the shape that the manifest gives it, or nothing."""
    for index, case in enumerate(load_golden(bundle)):
        for spec in bundle.manifest.outputs:
            found = case.outputs[spec.name].shape
            if len(found) != len(spec.shape) or any(
                isinstance(dim, int) and dim != size
                for dim, size in zip(spec.shape, found, strict=True)
            ):
                return (
                    f"the manifest gives output {spec.name} the shape "
                    f"[{', '.join(map(str, spec.shape))}], in golden case {index} it is "
                    f"[{', '.join(map(str, found))}]"
                )
    return ""


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
