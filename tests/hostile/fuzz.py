"""`python -m tests.hostile.fuzz TARGET --seconds 60`: find what a parser does not survive.

With atheris (`pip install edge-runtime[fuzz]`, Python 3.11 to 3.13) the search follows coverage;
without it, it changes the corpus at random. What it finds, and what it learns, stands under
`build/fuzz/TARGET`: put a finding, made small, into `tests/hostile/corpus/TARGET` with a name that
says what it is, and every test run tries it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

INSTRUMENTED = ["edge_runtime", "http", "paho", "tomllib", "tuf", "urllib"]
LEARNED = Path("build/fuzz")
MAX_BYTES = 1 << 14
MEMORY_MB = 1024
HANGS_S = 20


def main(argv: Sequence[str] | None = None) -> int:
    atheris = importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None
    watched = atheris.instrument_imports(INSTRUMENTED) if atheris else contextlib.nullcontext()
    with watched:  # Only what is imported in here tells the engine which way it went.
        from tests.hostile.parsers import TARGETS
        from tests.hostile.sound import CORPUS, corpus

        parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
        parser.add_argument("target", metavar="TARGET", choices=TARGETS, help=", ".join(TARGETS))
        parser.add_argument("--seconds", type=int, default=60)
        parser.add_argument("--seed", type=int, default=1)
        arguments = parser.parse_args(argv)
        logging.disable(logging.CRITICAL)  # Parsers log what they pass over.
        name, target = arguments.target, TARGETS[arguments.target]
        examples = corpus(name)
        for data in examples.values():  # What a parser needs is imported when it is called.
            target(data)
    folder = LEARNED / name
    (folder / "found").mkdir(parents=True, exist_ok=True)
    if atheris is None:
        print(f"{name}: atheris is not installed, so nothing guides the search", file=sys.stderr)
        return _blind(target, list(examples.values()), folder, arguments)
    return _guided(atheris, target, [folder / "found", CORPUS / name], folder, arguments)


def _guided(
    atheris: Any,
    target: Callable[[bytes], None],
    corpora: Sequence[Path],
    folder: Path,
    arguments: argparse.Namespace,
) -> int:
    """Never returns: the engine ends the process, with 0 where nothing was found."""
    from tests.hostile.mutate import TOKENS

    tokens = folder / "tokens"
    tokens.write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in TOKENS)
    )
    options = [
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-max_len={MAX_BYTES}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={HANGS_S}",
        f"-dict={tokens}",
        f"-artifact_prefix={folder}/finding-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, *map(str, corpora)], target)
    atheris.Fuzz()
    return 0


def _blind(
    target: Callable[[bytes], None],
    examples: Sequence[bytes],
    folder: Path,
    arguments: argparse.Namespace,
) -> int:
    from tests.hostile.mutate import mutate

    name, chance = arguments.target, random.Random(arguments.seed)
    end_s, runs = time.monotonic() + arguments.seconds, 0
    while time.monotonic() < end_s:
        data = mutate(chance, examples)
        runs += 1
        try:
            target(data)
        except BaseException:
            path = folder / "finding"
            path.write_bytes(data)
            print(f"{name}: found after {runs} runs, kept as {path}", file=sys.stderr)
            raise
    print(f"{name}: nothing found in {runs} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
