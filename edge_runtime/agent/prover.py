"""The prover: a throw-away process that loads one variant and tests it, where vendor code may die.

`python -m edge_runtime.agent.prover PROOF`, started by a worker only, see `proving`. It says what
it is about to do, then what came of it, as frames on one pipe; then it ends at once, without the
destructors of code that was never asked to be kind. It ends with its worker, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from edge_runtime.agent.built import Builds
from edge_runtime.agent.opening import own_cores, pin, stored_bundle
from edge_runtime.agent.order import Proof
from edge_runtime.errors import EdgeError, UntrustedError
from edge_runtime.inference.selftest import failed, prove
from edge_runtime.messages.worker import Frame, Refused, Stage, Tried, to_frame
from edge_runtime.profile import load_profile

PR_SET_PDEATHSIG = 1
OOM_SCORE = "1000"


def main(argv: list[str]) -> int:
    """Prove what the one argument says."""
    proof = Proof.from_argument(argv[0])
    if not _expendable(proof.parent):
        return 1

    def say(frame: Frame) -> None:
        data = to_frame(frame)
        while data:
            data = data[os.write(proof.report, data) :]

    try:
        bundle = stored_bundle(Path(proof.state_dir), proof.manifest_sha256)
        profile = load_profile(proof.profile)
        variant = next(v for v in bundle.manifest.variants if v.id == proof.variant)
        engine = Builds(Path(proof.state_dir), profile).engine(bundle.manifest, variant)
        pin(engine, own_cores())
        try:
            _, report = prove(
                bundle, variant, engine, profile.budget, lambda name: say(Stage(name))
            )
        except UntrustedError:
            raise
        except MemoryError:
            report = failed(variant, "memory", "memory: the process can have no more of it")
        say(Tried(report))
    except EdgeError as reason:
        say(Refused(str(reason)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _expendable(parent: int) -> bool:
    """Make this process the first to go: with its parent, for want of memory, without a trace.

    False where the parent has gone already.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    return os.getppid() == parent


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
