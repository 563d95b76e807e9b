"""`python -m edge_runtime.agent.upgrade.check`: a new tree's look at itself, before it is started.

Run from the tree that is to be tried, as the agent's own user, beside the agent that serves. It
says whether this software starts on this board at all: its modules and its native libraries load,
it understands this device's configuration and profile, and an engine of the profile is there. What
a model computes is proved later, when the worker loads the bundle; a chip that one process may open
could not be proved here.

The answer is one line of JSON on stdout: what is wrong, or nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

PARTS = (
    "edge_runtime.agent.cli",
    "edge_runtime.agent.supervisor",
    "edge_runtime.agent.worker",
    "edge_runtime.agent.prover",
    "edge_runtime.agent.notary",
    "edge_runtime.agent.upgrade.helper",
    "edge_runtime.link.mqtt",
    "edge_runtime.link.web",
    "numpy",
    "tokenizers",
    "safetensors",
)
"""What an agent loads sooner or later."""


def fault(config_file: Path | None) -> str:
    """What keeps this software from running here; empty where nothing does."""
    for name in PARTS:
        try:
            importlib.import_module(name)
        except Exception as reason:
            return f"{name} does not load: {type(reason).__name__}: {reason}"
    return _profile_fault(config_file) if config_file is not None else ""


def _profile_fault(config_file: Path) -> str:
    from edge_runtime.agent.config import load_config
    from edge_runtime.agent.doctor.engines import SOURCES
    from edge_runtime.errors import EdgeError
    from edge_runtime.profile import load_profile

    try:
        profile = load_profile(load_config(config_file).profile)
    except EdgeError as reason:
        return f"this device's configuration: {reason}"
    faults = []
    for backend in dict.fromkeys(engine.backend for engine in profile.engines):
        for source in SOURCES.get(backend, ()):
            try:
                importlib.import_module(source.module)
            except Exception as reason:
                faults.append(f"{source.module}: {reason}")
            else:
                return ""
    return f"no engine of profile {profile.name} loads: {'; '.join(faults)}"


def _expendable() -> None:
    """What runs short of memory is this, not the agent that serves; it ends with that one."""
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main(argv: Sequence[str] | None = None) -> int:
    """0: it would run; 1: it would not."""
    made = argparse.ArgumentParser(
        prog="python -m edge_runtime.agent.upgrade.check",
        description="Say whether this tree of the agent's software would run on this board.",
        epilog="example:\n  PYTHONPATH=TREE python3 -m edge_runtime.agent.upgrade.check "
        "--config agent.toml\n      prints a line of JSON, with what is wrong as its fault\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="the device's agent.toml")
    made.add_argument("--json", action="store_true", help="as it does anyway")
    a = made.parse_args(argv)
    _expendable()
    with contextlib.redirect_stdout(sys.stderr):
        found = fault(a.config)
    print(json.dumps({"fault": found[:1000]}))  # noqa: T201 - the command's result
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
