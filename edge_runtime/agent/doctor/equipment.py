"""Findings on engines: what is installed, and which engines of the profile could run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_runtime.agent.doctor.accelerators import absent
from edge_runtime.agent.doctor.builds import BUILDS, build_of, plugin_of
from edge_runtime.agent.doctor.engines import SOURCES, Engines, Fault, Package
from edge_runtime.agent.doctor.finding import Finding, obstacle, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.fields import Json
from edge_runtime.inference.ort_plugins import PLUGINS
from edge_runtime.profile import Engine
from edge_runtime.text import plain


def packages(scene: Scene, engines: Engines) -> Iterator[Finding]:
    """What is installed, whether anything of it is needed or not."""
    for backend in SOURCES:
        for found in engines.packages(backend):
            if not found.absent:
                yield _package(found)
            if len(found.versions) > 1:
                yield warning(
                    "engine.clash",
                    f"{found.name} share the module {found.source.module}: which one runs depends "
                    "on which was installed last",
                    f"uninstall all of them, then install one: pip uninstall "
                    f"{' '.join(found.versions)}",
                    subject=backend,
                )
    for provider, plugin in PLUGINS.items():
        if version := plugin.version:
            yield ok(
                "engine.package",
                f"{plugin.installed}, a plug-in with {provider}",
                subject=plugin.package,
                values={"versions": {plugin.package: version}, "providers": [provider]},
            )


def _package(found: Package) -> Finding:
    subject = next(iter(found.versions), found.source.packages[0])
    if found.late:
        return unknown("engine.package", found.fault, REMEDIES["late"], subject=subject)
    if found.fault:
        return warning(
            "engine.package",
            f"{found.name} does not work: {found.fault}",
            f"install it anew, in a version for this Python and this machine: pip install "
            f"--force-reinstall {subject}",
            subject=subject,
        )
    providers = f", with {', '.join(found.providers)}" if found.providers else ""
    return ok(
        "engine.package",
        plain(f"{found.name}{providers}"),
        subject=subject,
        values={"versions": dict(found.versions), "providers": list(found.providers)},
    )


def profile_engines(scene: Scene, engines: Engines) -> Iterator[Finding]:
    """Each engine of the profile, in its order; one that runs is enough."""
    p = scene.profile
    if p is None:
        if any(engines.package(backend) for backend in SOURCES):
            return
        if any(engines.late(backend) for backend in SOURCES):
            yield unknown("engine.any", "no engine told in time", REMEDIES["late"])
        else:
            yield obstacle(
                "engine.any", "no engine works here", REMEDIES["engine"].format(backend="litert")
            )
        return
    faults = [(engine, start_fault(scene, engines, engine)) for engine in p.engines]
    for rank, (engine, fault) in enumerate(faults, 1):
        values: dict[str, Json] = {"rank": rank, "runs": fault is None}
        if fault is not None:
            yield _kept(engine, fault, values)
        elif beyond := _beyond(scene, engine):
            yield warning(
                "engine.profile",
                f"number {rank}, can start, but {beyond}",
                "correct threads and affinity of this engine in the profile: cores that are not "
                "here are left out, and threads without a core of their own slow it down",
                subject=engine.id,
                values=values,
            )
        else:
            text = f"number {rank}, can start"
            if plugin := engines.plugin(engine):
                text += f", with the plug-in {plugin}"
                values["plugin"] = plugin
            yield ok("engine.profile", text, subject=engine.id, values=values)
    running = [engine.id for engine, fault in faults if fault is None]
    text = f"{len(running)} of {len(faults)} of profile {p.name} can start"
    first, why = faults[0]
    if why is None or running:
        yield ok("engine.any", f"{text}, {running[0]} first")
    elif any(fault is not None and fault.kind == "late" for _, fault in faults):
        yield unknown("engine.any", f"{text}, as far as they told in time", REMEDIES["late"])
    else:
        yield obstacle("engine.any", text, remedy(first, why))


def _kept(engine: Engine, fault: Fault, values: Mapping[str, Json]) -> Finding:
    """An engine that cannot start. A profile that is wrong in itself is mended, not lived with."""
    advice = remedy(engine, fault)
    if fault.kind == "late":
        return unknown("engine.profile", fault.text, advice, subject=engine.id, values=values)
    if fault.kind == "options":
        return obstacle("engine.profile", fault.text, advice, subject=engine.id, values=values)
    return warning("engine.profile", fault.text, advice, subject=engine.id, values=values)


def _beyond(scene: Scene, engine: Engine) -> str:
    """What an engine counts on that this machine's processor lacks; empty where nothing is."""
    cores = scene.cores
    if not cores or scene.profile is None or scene.profile.arch != scene.architecture:
        return ""
    missing = [str(core) for core in engine.affinity if core not in cores]
    said = []
    if engine.threads > len(cores):
        said.append(f"wants {engine.threads} threads, {len(cores)} cores are here")
    if missing:
        said.append(f"affinity names cores that are not here: {', '.join(missing)}")
    return "; ".join(said)


def start_fault(
    scene: Scene, engines: Engines, engine: Engine, providers: tuple[str, ...] = ()
) -> Fault | None:
    """What keeps a variant of `engine` from starting on this machine: software, then device."""
    if (fault := engines.fault(engine, providers)) is not None:
        return fault
    missing = absent(scene, engine.accelerator)
    return Fault("device", missing) if missing else None


PACKAGED = ("/usr/lib/edge-agent/", "/var/lib/edge-agent-releases/")
"""Where this software stands that the package or an update of it brought: not an environment of
pip's."""
LOCAL = "/usr/local/lib/edge-agent"
"""Where its launcher looks first: the administrator's folder, for vendors' engines."""
REMEDIES: Mapping[str, str] = {
    "engine": 'pip install "edge-runtime[{backend}]"',
    "backend": "update this software, or take the engine out of the profile",
    "build": "install the build of ONNX Runtime that has it, in place of the plain one: {build}; "
    "until then variants for the CPU run",
    "provider": "install the libraries of {accelerator} in the versions that this build of ONNX "
    "Runtime names; until then variants for the CPU run",
    "plugin": "pip install {plugin}, in a version for this Python and this machine, beside an "
    "ONNX Runtime that takes it; until then variants for the CPU run",
    "delegate": "install the board maker's runtime for {accelerator}, or correct the path of the "
    "delegate in the profile; until then variants for the CPU run",
    "options": "correct it in the profile; an engine that needs no delegate leaves it out",
    "late": "try again: once read it is faster; where it stays so, it hangs",
    "file": "copy the bundle here once more; one that is installed the agent mends by itself",
    "device": "see device {accelerator}; until then variants for the CPU run",
    "board": "convert the model for this board: edge-convert run … --profile {profile}",
    "machine": "use the profile of this very board, and convert the model for it",
}
"""What to do, by the kind of a fault. A backend's extra of our package has its name."""


def remedy(engine: Engine | None, fault: Fault, profile: str = "") -> str:
    """What to do about `fault`."""
    backend, accelerator = (engine.backend, engine.accelerator) if engine else ("", "")
    # Without the engine itself, the build with the provider is the one to install.
    kind = "build" if fault.kind == "engine" and fault.provider in BUILDS else fault.kind
    advice = REMEDIES[kind].format(
        backend=backend,
        accelerator=accelerator,
        profile=profile,
        build=build_of(fault.provider, accelerator),
        plugin=plugin_of(fault.provider),
    )
    if kind in ("build", "plugin") and __file__.startswith(PACKAGED):
        advice = advice.replace("in place of", "in front of")
        advice = advice.replace("pip install ", f"sudo pip install --target {LOCAL} --no-deps ")
    return advice
