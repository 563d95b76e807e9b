"""The bundle: which of its variants would run here, in order, and why the others not.

The active one is read from the state folder without touching it: what is spoiled stays for the
agent to find. Files are held to their digests as far as time allows. Whether a variant then
computes what it should, the self-test proves.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.agent.doctor.boards import suggested
from edge_runtime.agent.doctor.engines import Engines, Fault
from edge_runtime.agent.doctor.equipment import REMEDIES, remedy, start_fault
from edge_runtime.agent.doctor.finding import Finding, obstacle, ok, unknown, warning
from edge_runtime.agent.doctor.integrity import Files
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.agent.doctor.seen import Seen, UnreadableRecord, seen
from edge_runtime.agent.state_folder import REPORTED
from edge_runtime.bundle import durable
from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.errors import EdgeError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import MAX_MESSAGE_BYTES, Reported
from edge_runtime.profile import DeviceProfile, load_profile
from edge_runtime.profile.engine import CPU
from edge_runtime.text import plain, size

MAX_LISTED = 20
MENDS_ITSELF = (
    "the agent fetches by itself what is lost or spoiled, where it has a source; without one "
    "install it once more: edge-agent install --config … FILE"
)


def present(scene: Scene, engines: Engines) -> Iterator[Finding]:
    """The bundle, then each variant in order of preference."""
    if scene.bundle is None and scene.config is None:
        return
    try:
        bundle = seen(scene)
    except UnreadableRecord as reason:
        yield warning(
            "bundle.present",
            f"which one is active cannot be told: {plain(str(reason))}",
            "run the doctor as the agent's user; where the file is spoiled or no file, stop the "
            "agent and move it away: it begins anew from the bundles that are whole",
        )
        return
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
    files = bundle.files(profile)
    values: dict[str, Json] = {
        "name": m.name, "version": m.version, "spoiled": sorted(files.faults)[:MAX_LISTED],
        "unread_bytes": files.unread_bytes,
    }  # fmt: skip
    if files.faults and not bundle.installed:
        yield obstacle(
            "bundle.present",
            f"{name} is spoiled: {_spoiled(files)}",
            "copy it here once more, or convert it anew; nothing of it would be installed",
            values={"runs": [], **values},
        )
        return
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
    faults = {v.id: _fault(scene, engines, profile, m, v, files) for v in m.variants}
    runs = [v.id for v in m.variants if faults[v.id] is None]
    words = f"{name}, {bundle.what}, {size(bundle.size_bytes(profile))}"
    text = (
        f"{words}: {len(runs)} of {len(m.variants)} variants would run, {(runs or [''])[0]} first"
    )
    if files.unread_bytes:
        text += f"; not all read in time, {size(files.unread_bytes)} are left"
    values = {"runs": list(runs), **values}
    if runs and files.faults:
        yield warning(
            "bundle.present", f"{text}; spoiled: {_spoiled(files)}", MENDS_ITSELF, values=values
        )
    elif runs:
        yield ok("bundle.present", text, values=values)
    elif any(fault is not None and fault.kind == "late" for fault in faults.values()):
        yield unknown(
            "bundle.present",
            f"{words}: whether a variant would run was not told in time",
            REMEDIES["late"],
            values=values,
        )
    elif files.faults:
        yield obstacle(
            "bundle.present", f"{words} is spoiled: {_spoiled(files)}", MENDS_ITSELF, values=values
        )
    else:
        yield obstacle(
            "bundle.present",
            f"{words}: none of its {len(m.variants)} variants would run here",
            "mend what keeps them from it, below, or convert it for this board: edge-convert run "
            f"RECIPE --profile {profile.name}",
            values=values,
        )
    for rank, v in enumerate(m.variants, 1):
        fault = faults[v.id]
        beside = _beside(scene, engines, profile, v) if fault is None else None
        yield _variant(profile, rank, v, fault, beside)


def _spoiled(files: Files) -> str:
    """Which files, the first one with what is wrong."""
    (path, why), *others = files.faults.items()
    more = f", and {len(others)} more of its files" if others else ""
    return plain(why if repr(path) in why else f"{path}: {why}") + more


def _beside(scene: Scene, engines: Engines, profile: DeviceProfile, v: Variant) -> Fault | None:
    """Why the engine's accelerator is out of reach for a variant that can start without it."""
    engine = profile.engine_of(v)
    if engine is None or engine.accelerator == CPU or not v.providers:
        return None
    return start_fault(scene, engines, engine)


def _variant(
    profile: DeviceProfile, rank: int, v: Variant, fault: Fault | None, beside: Fault | None
) -> Finding:
    engine = profile.engine_of(v)
    on = engine.id if engine is not None else v.backend
    values: dict[str, Json] = {
        "rank": rank, "engine": on, "runs": fault is None, "precision": v.precision,
    }  # fmt: skip
    if fault is None and beside is not None and beside.kind == "late":
        text = f"yes; whether on {v.placement.accelerator} is not known: {beside.text}"
        return unknown("bundle.variant", text, REMEDIES["late"], subject=v.id, values=values)
    if fault is None and beside is not None:
        return warning(
            "bundle.variant",
            f"yes, but not on {v.placement.accelerator}: {beside.text}",
            remedy(engine, beside, profile.name),
            subject=v.id,
            values=values,
        )
    if fault is None:
        return ok("bundle.variant", f"yes, by {on}", subject=v.id, values=values)
    if v.profiles and profile.name not in v.profiles:
        text = f"no, it is for other boards: {', '.join(v.profiles)}"
        return ok("bundle.variant", text, subject=v.id, values=values)
    advice = remedy(engine, fault, profile.name)
    if fault.kind == "late":
        return unknown("bundle.variant", fault.text, advice, subject=v.id, values=values)
    return warning("bundle.variant", f"no: {fault.text}", advice, subject=v.id, values=values)


def _fault(
    scene: Scene, engines: Engines, profile: DeviceProfile, m: Manifest, v: Variant, files: Files
) -> Fault | None:
    """Why a variant would not run: by the profile, then on this very machine."""
    if reason := profile.misfits(m)[v.id]:
        return Fault("board", reason)
    for entry in m.files_of((v,)):
        if entry.path in files.faults:
            return Fault("file", f"its file {entry.path} is spoiled: {files.faults[entry.path]}")
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
