"""`python -m tests.hostile.make_corpus [--learn]`: write the seeds of the corpus: sound examples.

Seeds carry the name of their example. With `--learn` it takes over, too, what a fuzzer left under
`build/fuzz` where that goes a way through our code that nothing else in the corpus goes: the
smallest first, named after what it is. A person's findings stand beside, and are left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from tests.hostile.fuzz import LEARNED
from tests.hostile.parsers import TARGETS
from tests.hostile.sound import CORPUS, EXAMPLES, corpus

Step = tuple[str, int, int]
OURS = "/edge_runtime/"
MAX_LEARNED = 16
MAX_LEARNED_BYTES = 2000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make_corpus", description=__doc__)
    parser.add_argument("--learn", action="store_true")
    arguments = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    for name, examples in EXAMPLES.items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for example, data in examples().items():
            (CORPUS / name / f"seed-{example}").write_bytes(data)
        if arguments.learn:
            _learn(name)
    print(f"{sum(1 for path in CORPUS.rglob('*') if path.is_file())} files in {CORPUS}")
    return 0


def _learn(name: str) -> None:
    known: set[Step] = set()
    for data in corpus(name).values():
        known |= way(TARGETS[name], data)
    found = sorted((LEARNED / name / "found").glob("*"), key=lambda path: path.stat().st_size)
    for path in found:
        data = path.read_bytes()
        kept = len(list((CORPUS / name).glob("learned-*")))
        if len(data) > MAX_LEARNED_BYTES or kept >= MAX_LEARNED:
            return
        new = way(TARGETS[name], data) - known
        if new:
            known |= new
            named = f"learned-{hashlib.sha256(data).hexdigest()[:8]}"
            (CORPUS / name / named).write_bytes(data)


def way(target: Callable[[bytes], None], data: bytes) -> set[Step]:
    """Which of our lines `target` goes through, and from which line to which, in this thread."""
    steps: set[Step] = set()
    lines: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if OURS not in frame.f_code.co_filename:
            return None
        steps.add((frame.f_code.co_filename, lines.get(frame, 0), frame.f_lineno))
        lines[frame] = frame.f_lineno
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(before)
    return steps


if __name__ == "__main__":
    sys.exit(main())
