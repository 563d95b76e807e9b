"""The bundle: which of its variants would run here, in order, and why the others not.

The active one is read from the state folder without touching it: what is spoiled stays for the
agent to find. Whether a variant then computes what it should, the self-test proves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.doctor.boards import suggested
from edge_runtime.agent.doctor.engines import Engines, Fault
from edge_runtime.agent.doctor.equipment import remedy, start_fault
from edge_runtime.agent.doctor.finding import Finding, obstacle, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.agent.opening import stored_bundle
from edge_runtime.agent.state_folder import REPORTED
from edge_runtime.bundle import durable
from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import MAX_MESSAGE_BYTES, Reported
from edge_runtime.profile import DeviceProfile, load_profile
from edge_runtime.text import plain, size
from edge_runtime.update.journal import Journal
from edge_runtime.update.record import Record


@dataclass(frozen=True, slots=True)
class Seen:
    """A bundle's manifest. `installed`: its files are in the state folder already."""

    manifest: Manifest
    what: str
    installed: bool = False

    def size_bytes(self, profile: DeviceProfile | None) -> int:
        """Of what this board needs of it."""
        m = self.manifest
        variants = m.variants_for(profile.name) if profile is not None else ()
        return sum(entry.size_bytes for entry in m.files_of(variants or m.variants))


def record(scene: Scene) -> Record | None:
    """The journal, where there is one. Raises DeviceError: it may not be read."""
    folder = scene.state_dir
    return Journal(folder / "journal.json").load() if folder is not None else None


def seen(scene: Scene) -> Seen | None:
    """The bundle that was given, or the active one, or the configured first one.

    Raises:
        EdgeError: it is none, or is spoiled.
        OSError: it cannot be read.
    """
    if scene.bundle is not None:
        return _given(scene.bundle, "given")
    if scene.config is None:
        return None
    found = record(scene)
    if found is not None and found.active is not None:
        bundle = stored_bundle(scene.config.state_dir, found.active.manifest_sha256)
        what = "active" if found.good else "active, on trial"
        return Seen(bundle.manifest, what, installed=True)
    first = scene.config.first_bundle
    return _given(first, "the first bundle, not installed yet") if first is not None else None


def _given(path: Path, what: str) -> Seen:
    try:
        return Seen(verify(open_bundle(path), files=False).manifest, what)
    except ValueError as reason:  # A name that no file can have.
        raise InputError(f"{plain(str(path))}: {reason}") from None


def present(scene: Scene, engines: Engines) -> Iterator[Finding]:
    """The bundle, then each variant in order of preference."""
    if scene.bundle is None and scene.config is None:
        return
    try:
        bundle = seen(scene)
    except (EdgeError, OSError) as reason:
        spoiled = "the agent fetches it anew by itself" if scene.bundle is None else ""
        yield obstacle(
            "bundle.present",
            plain(str(reason)),
            spoiled or "give an .edge file or a bundle's folder, as edge-convert wrote it",
        )
        return
    if bundle is None:
        yield _none(scene)
        return
    yield from _variants(scene, engines, bundle)


def _none(scene: Scene) -> Finding:
    if scene.config is not None and scene.config.broker is None:
        return warning(
            "bundle.present",
            "none, and no broker to get one from",
            "edge-agent install --config … FILE, or first_bundle in the configuration",
        )
    return ok("bundle.present", "none yet; the operator deploys one: edge-fleet deploy")


def _variants(scene: Scene, engines: Engines, bundle: Seen) -> Iterator[Finding]:
    m, profile = bundle.manifest, scene.profile or _fitting(scene)
    name = f"{m.name} {m.version}"
    values: dict[str, Json] = {"name": m.name, "version": m.version}
    if profile is None:
        yield unknown("bundle.present", f"{name}: no profile to hold it to", "give --profile NAME")
        return
    if profile.tasks and m.task not in profile.tasks:
        yield obstacle(
            "bundle.present",
            f"{name} is for task {m.task}, this device takes {', '.join(profile.tasks)}",
            "deploy another bundle, or correct tasks in the configuration",
            values=values,
        )
        return
    faults = {v.id: _fault(scene, engines, profile, m, v) for v in m.variants}
    runs = [v.id for v in m.variants if faults[v.id] is None]
    words = f"{name}, {bundle.what}, {size(bundle.size_bytes(profile))}"
    if runs:
        text = f"{words}: {len(runs)} of {len(m.variants)} variants would run, {runs[0]} first"
        yield ok("bundle.present", text, values={"runs": runs, **values})
    else:
        yield obstacle(
            "bundle.present",
            f"{words}: none of its {len(m.variants)} variants would run here",
            "mend what keeps them from it, below, or convert it for this board: edge-convert run "
            f"RECIPE --profile {profile.name}",
            values={"runs": [], **values},
        )
    for rank, v in enumerate(m.variants, 1):
        yield _variant(profile, rank, v, faults[v.id])


def _variant(profile: DeviceProfile, rank: int, v: Variant, fault: Fault | None) -> Finding:
    engine = profile.engine_of(v)
    on = engine.id if engine is not None else v.backend
    values: dict[str, Json] = {
        "rank": rank, "engine": on, "runs": fault is None, "precision": v.precision,
    }  # fmt: skip
    if fault is None:
        return ok("bundle.variant", f"yes, by {on}", subject=v.id, values=values)
    if v.profiles and profile.name not in v.profiles:
        text = f"no, it is for other boards: {', '.join(v.profiles)}"
        return ok("bundle.variant", text, subject=v.id, values=values)
    advice = remedy(engine, fault, profile.name)
    return warning("bundle.variant", f"no: {fault.text}", advice, subject=v.id, values=values)


def _fault(
    scene: Scene, engines: Engines, profile: DeviceProfile, m: Manifest, v: Variant
) -> Fault | None:
    """Why a variant would not run: by the profile, then on this very machine."""
    if reason := profile.misfits(m)[v.id]:
        return Fault("board", reason)
    features = scene.cpu_features
    missing = [name for name in v.needs.cpu_features if name not in features]
    if features and missing:
        return Fault("machine", f"needs CPU features {', '.join(missing)}, missing here")
    memory = scene.memory_bytes
    if memory is not None and v.needs.ram_bytes > memory:
        return Fault(
            "machine", f"needs {size(v.needs.ram_bytes)} of memory, {size(memory)} is here"
        )
    engine = profile.engine_of(v)
    if engine is None:  # `misfits` has said so already.
        return Fault("board", f"the profile has no engine for {v.backend}")
    return start_fault(scene, engines, engine, v.providers)


def _fitting(scene: Scene) -> DeviceProfile | None:
    """The shipped profile that fits this machine best."""
    best = suggested(scene)
    return load_profile(best[0]) if best is not None else None


def degraded(scene: Scene) -> Iterator[Finding]:
    """What the agent reported last of where its model really runs."""
    folder = scene.state_dir
    if folder is None:
        return
    try:
        said = Reported.from_bytes(durable.read(folder / REPORTED, MAX_MESSAGE_BYTES))
    except FileNotFoundError:
        return
    except (OSError, EdgeError) as reason:
        yield unknown("bundle.degraded", f"what the agent reported cannot be read ({reason})")
        return
    found = said.accelerator
    if found is None:
        return
    when = "" if scene.agent_pid is not None else " when the agent ran last"
    words = f"{plain(found.variant)} runs on {plain(found.actual)}{when}"
    values: dict[str, Json] = {
        "variant": found.variant,
        "actual": found.actual,
        "degraded": bool(found.degraded),
    }
    if found.degraded:
        yield warning(
            "bundle.degraded",
            f"{words}; {plain(found.requested)} was wanted: {plain(found.degraded)}",
            "mend what is said of that engine above; the agent returns to it by itself",
            values=values,
        )
    else:
        yield ok("bundle.degraded", f"{words}, as wanted", values=values)
