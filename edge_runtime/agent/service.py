"""What one board adds to the service's unit: the text of `edge-agent.service.d/50-board.conf`.

The unit runs on any board, on its CPU, in a closed sandbox. A profile says what this one may spend
and which accelerators it has; each of those costs a piece of the sandbox, which is opened here and
nowhere else. A board with engines for the CPU only keeps all of it.

Memory: a worker may hold the profile's budget, and a proof for a moment `PEAK` times that, beside
the worker that serves; the rest is the supervisor, the processes that check signatures, and Python
itself. Where the profile has no budget, or the sum is more than the unit's share of the board,
the unit's share stands.
"""

from __future__ import annotations

import grp
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from edge_runtime.agent.config import ApiConfig
from edge_runtime.agent.proving import PEAK
from edge_runtime.agent.server import REFUSALS
from edge_runtime.profile import DeviceProfile
from edge_runtime.profile.engine import CPU

UNIT = "edge-agent.service"
SHARE = 0.7
"""Of the board's memory, MemoryMax= of the unit."""
OWN_BYTES = 224 << 20
"""Supervisor, notary, and two workers and a prover without their models."""
OWN_TASKS = 32
"""Threads and processes of the supervisor: the broker, sources, a notary."""
WORKER_TASKS = 8
DRIVER_TASKS = 64
"""Threads that an accelerator's runtime starts in each process."""
LEAST_TASKS = 256
STEP_TASKS = 64


@dataclass(frozen=True, slots=True)
class Access:
    """What an accelerator needs that the unit denies.

    `devices` are DeviceAllow= words: a path, or the name of a driver's devices as in /proc/devices;
    none means that the names are not known well enough, and file permissions alone decide.
    `groups` are those that udev's and vendors' rules give the nodes to. `generates`, where not
    empty, is who writes machine code at run time.
    """

    devices: tuple[str, ...]
    groups: tuple[str, ...] = ()
    generates: str = ""
    more: tuple[str, ...] = ()
    """Further lines."""


_NVIDIA = Access(
    # On a Jetson the GPU's nodes are named after its address, and differ between releases.
    devices=(),
    groups=("video", "render"),
    generates="CUDA compiles kernels for the GPU that it finds",
    # Compiled kernels outlive a restart.
    more=("Environment=CUDA_CACHE_PATH=%C/edge-agent/cuda",),
)
ACCESS: Mapping[str, Access] = {
    "cuda": _NVIDIA,
    "tensorrt": _NVIDIA,
    "tensorrt-fp16": _NVIDIA,
    "openvino-gpu": Access(
        ("char-drm",), ("render", "video"), "OpenVINO compiles kernels for the GPU that it finds"
    ),
    "openvino-npu": Access(("char-accel",), ("render",)),
    "openvino-cpu": Access((), generates="OpenVINO writes its kernels for the CPU that it finds"),
    "hexagon": Access(
        (
            "char-adsprpc-smd*",
            # Nodes of the miscellaneous driver have no name of their own.
            "/dev/fastrpc-cdsp", "/dev/fastrpc-cdsp-secure", "/dev/fastrpc-cdsp1",
            "char-dma_heap",
        ),
        ("fastrpc", "render", "video"),
    ),
    "ethos-u65": Access(("char-ethosu*",), ("ethosu",)),
    "edgetpu": Access(
        ("char-apex", "char-usb_device"),
        ("apex", "plugdev"),
        # One on USB: libusb hears of devices from the kernel.
        more=("RestrictAddressFamilies=AF_NETLINK",),
    ),
    "vx": Access(("char-galcore", "/dev/galcore"), ("video",)),
    "rknpu": Access(
        ("/dev/rknpu", "char-drm", "char-accel", "char-dma_heap"), ("render", "video")
    ),
    "dpu": Access(("/dev/dpu", "char-drm"), ("render",)),
    "hailo8l": Access(("char-hailo*",), ("hailo",)),
}  # fmt: skip
"""By accelerator, as in `hardware.HARDWARE`; those that are no device on Linux need nothing.

Sources: names in /proc/devices are those that the drivers register (Linux, drivers/gpu/drm,
drivers/accel, drivers/dma-buf/dma-heap.c; gasket, galcore, hailort and ethos-u drivers); groups are
those of systemd's 50-udev-default.rules and of the vendors' rules. None of it read on a board. That
OpenVINO's CPU plugin fails without memory to write and execute ("can't protect") was tried, with
onnxruntime-openvino 1.24.1 in the unit's sandbox; of CUDA it is said.
"""


def drop_in(profile: DeviceProfile, groups: Collection[str] | None = None) -> str:
    """What `profile` adds to the unit, as text.

    Args:
        groups: those that this system has; None asks it. A group that is not there would keep the
            service from starting.
    """
    known = {entry.gr_name for entry in grp.getgrall()} if groups is None else set(groups)
    lines = [
        f"# The board {profile.name}. Written by `edge-agent setup`, which writes it anew when",
        f"# the profile changes; put what is yours in another file here: systemctl edit {UNIT}",
        "[Service]",
        *_memory(profile),
        *_tasks(profile),
        *_accelerators(profile, known),
    ]
    return "\n".join(lines) + "\n"


def _memory(profile: DeviceProfile) -> Iterator[str]:
    """See the module."""
    budget = profile.budget.ram_bytes
    most = budget + PEAK * budget + OWN_BYTES
    if not budget:
        yield f"# The profile has no memory budget: {UNIT}'s share of the board stands."
    elif most > SHARE * profile.ram_bytes:
        yield f"# {_mib(most)} would be more than {SHARE:.0%} of the board, which {UNIT} allows."
    else:
        yield (
            f"# {_mib(budget)} serve, a proof beside may hold {PEAK} times that for a moment, "
            f"{_mib(OWN_BYTES)} is the agent."
        )
        yield f"MemoryMax={_mib(most)}"


def _tasks(profile: DeviceProfile) -> Iterator[str]:
    """A thread for each connection, those of the engines, and all of it twice during a swap."""
    threads = max(engine.threads for engine in profile.engines)
    driver = DRIVER_TASKS if _accesses(profile) else 0
    each = ApiConfig().max_connections + REFUSALS + WORKER_TASKS + threads + driver
    most = 2 * each + threads + driver + OWN_TASKS
    rounded = -(-max(most, LEAST_TASKS) // STEP_TASKS) * STEP_TASKS
    yield "# Raise it with api.max_connections, by 2 for each."
    yield f"TasksMax={rounded}"


def _accelerators(profile: DeviceProfile, known: Collection[str]) -> Iterator[str]:
    found = _accesses(profile)
    with_nodes = {n: a for n, a in found.items() if a.devices or a.groups}
    if with_nodes:
        yield f"# Nodes in /dev: {', '.join(with_nodes)}."
        yield "PrivateDevices=no"
        if all(access.devices for access in with_nodes.values()):
            words = {word: None for access in with_nodes.values() for word in access.devices}
            yield from (f"DeviceAllow={word} rw" for word in words)
        else:
            yield "# Their names differ between releases: what file permissions allow is allowed."
            yield "DevicePolicy=auto"
        wanted = {group: None for access in with_nodes.values() for group in access.groups}
        if there := [group for group in wanted if group in known]:
            yield f"SupplementaryGroups={' '.join(there)}"
    for reason in dict.fromkeys(a.generates for a in found.values() if a.generates):
        yield f"# {reason}: memory that is written, then executed."
    if any(access.generates for access in found.values()):
        yield "MemoryDenyWriteExecute=no"
    yield from dict.fromkeys(line for access in found.values() for line in access.more)
    if any(engine.affinity for engine in profile.engines):
        yield "# An engine runs on some cores only."
        yield "SystemCallFilter=sched_setaffinity"


def _accesses(profile: DeviceProfile) -> dict[str, Access]:
    """Of the profile's accelerators, in its order."""
    names = [engine.accelerator for engine in profile.engines if engine.accelerator != CPU]
    return {name: ACCESS[name] for name in dict.fromkeys(names) if name in ACCESS}


def _mib(size_bytes: int) -> str:
    """As systemd takes it."""
    return f"{-(-size_bytes // (1 << 20))}M"
