"""The last pass: the variants that were good enough, as a bundle folder and one `.edge` file.

The order of variants is the profile's. The folder appears whole or not at all, and replaces one of
the same bundle; the archive is packed from it. Finally the bundle is opened again, and every
variant proves itself on the golden vectors as it will on the device.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from converters.draft import write_bundle
from converters.model import Job, Model
from converters.quiet import quiet
from converters.recipe import PackageConfig
from edge_runtime.bundle.archive import FolderReader, open_bundle, pack
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.bundle.verify import verify as verify_bundle
from edge_runtime.errors import DeviceError
from edge_runtime.fields import Json
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import self_test
from edge_runtime.messages.worker import SelfTestReport


def package(model: Model, config: PackageConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """Write `<out>/<name>-<version>-<profile>/` and `.edge`; `Model.bundle` is the latter.

    Raises:
        DeviceError: the folder cannot be written, or a variant fails its own golden vectors.
    """
    assert model.verdict is not None
    refused = {one.id for one in model.verdict.candidates if one.refused}
    packed = [
        one
        for one in model.candidates
        if one.id not in refused and (one.quantized or config.keep_float)
    ] or [one for one in model.candidates if one.id not in refused]
    stem = f"{job.recipe.name}-{job.recipe.version}-{job.profile.name}"
    folder, archive = job.out / stem, job.out / f"{stem}.edge"
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{stem}-", dir=job.out))
        try:
            write_bundle(model, job, made, packed)
            made.chmod(0o755)
            _prove(verify_bundle(FolderReader(made)), job)
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
        "refused": {one.id: one.refused for one in model.verdict.candidates if one.refused},
    }


def _prove(bundle: VerifiedBundle, job: Job) -> None:
    """Every variant must pass the device's self-test here, budgets of the board aside."""
    for report in self_tests(bundle):
        if not report.passed:
            raise DeviceError(f"variant {report.variant} fails its self-test: {report.reason}")


def self_tests(bundle: VerifiedBundle) -> list[SelfTestReport]:
    """The device's self-test of each variant, on this host, without a budget.

    Raises:
        IncompatibleError: a variant's engine is not installed or cannot load it.
    """
    reports = []
    for variant in bundle.manifest.variants:
        with quiet():  # engines greet when they load, or at the first run
            pipeline = Pipeline.open(bundle, variant)
            try:
                reports.append(self_test(bundle, pipeline))
            finally:
                pipeline.close()
    return reports


def open_verified(path: Path) -> VerifiedBundle:
    """The bundle at `path`, every digest checked.

    Raises:
        InputError: there is none.
        UntrustedError: it is not what its manifest says.
    """
    return verify_bundle(open_bundle(path))
