"""Our bundles against other tools' models: size, quality, latency, in one run and one table.

    python -m benchmarks.compression --reference RECIPE|FOLDER [...] --ours BUNDLE [...] [--json]

A reference is a recipe, of which the fine-tuned model is taken, or a folder with `encoder/`,
`tokenizer.json` and, for a classifier, `head.safetensors`. With a head, accuracy over all test rows
is measured; without one, recall@10 of the float model's nearest neighbours among the test texts.
Bundles are measured where their task is the reference's. Tools are installed into environments of
their own under `--cache` when they are first needed. Latency is p50 at batch 1 on one thread;
`faster` and `smaller` are against float ONNX Runtime in this very run. A tool that fails is
a line that says why: exit code 0.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.compression.builds import Built, built, bundled
from benchmarks.compression.catalogue import BASE, PEERS, Peer
from benchmarks.compression.environments import PeerError
from benchmarks.compression.measure import Contender, measure
from benchmarks.compression.reference import CLASSIFICATION, Reference, load_reference
from benchmarks.compression.table import as_json, judged_length, lines, show
from benchmarks.compression.verdict import verdict
from benchmarks.tables import show as show_rows
from benchmarks.trained import EXAMPLE, WORK, reference_folder
from converters.progress import Progress, Terminal
from edge_runtime.errors import EdgeError, exit_code

LENGTHS = (16, 64, 128)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _parser().parse_args(argv)
    progress = Terminal()
    try:
        results = [_one(folder, options, progress) for folder in options.reference]
    except EdgeError as reason:
        progress.say(f"benchmarks.compression: {reason}")
        return exit_code(reason)
    text = json.dumps({"machine": platform.platform(), "results": results}, indent=1) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "compression.json").write_text(text)
    if options.json:
        sys.stdout.write(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compression", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    known = sorted(peer.id for peer in PEERS)
    add("--reference", type=Path, nargs="+", required=True, metavar="RECIPE|FOLDER")
    add("--ours", type=Path, nargs="*", default=[], metavar="BUNDLE", help="folders or .edge files")
    add("--data", type=Path, default=EXAMPLE, metavar="FOLDER", help="train, calibration, test")
    add("--peers", nargs="*", choices=known, metavar="ID", help=f"of {', '.join(known)}; all")
    add("--against", metavar="ID", help="compare quality with this one; our first by default")
    add("--rows", type=int, default=0, help="only the first test rows; 0 for all")
    add("--rounds", type=int, default=40, help="turns of each, per length")
    add("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="TOKENS")
    add("--cache", type=Path, default=WORK, help="environments and models")
    add("--out", type=Path, default=Path("build/bench"), help="for compression.json")
    add("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _one(folder: Path, options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Measure everybody against one reference; prints the table, returns it for JSON."""
    cache: Path = options.cache.resolve()
    work = cache / "work" / folder.resolve().stem
    progress.say(f"reference {folder}: export, rows")
    folder = reference_folder(folder, cache, progress)
    reference = load_reference(
        folder.resolve(), options.data, work, lengths=options.lengths, limit=options.rows
    )
    ready, failed = _built(options, reference, cache, progress)
    against = options.against or _ours(ready)
    contenders = measure(ready, reference, options.lengths, options.rounds, work, progress)
    order = {peer.id: place for place, peer in enumerate(PEERS)}
    everybody = sorted((*contenders, *failed), key=lambda one: order.get(one.built.id, -1))
    found = lines(everybody, against, options.lengths)
    n = len(reference.rows)
    metric = "accuracy" if reference.task == CLASSIFICATION else "recall@10"
    judged = verdict(everybody, reference.task, judged_length(options.lengths))
    if not options.json:
        show(f"{reference.name}: {n} rows", metric, found, against, options.lengths)
        if judged:
            show_rows(f"{reference.name}: against the numbers to reach", judged, as_json=False)
    return {
        "reference": reference.name,
        "task": reference.task,
        "metric": metric,
        "n": n,
        "against": against,
        "lines": as_json(found),
        "verdict": [asdict(row) for row in judged],
    }


def _built(
    options: argparse.Namespace, reference: Reference, cache: Path, progress: Progress
) -> tuple[list[Built], list[Contender]]:
    """Models that can be served, ours first; and the tools that made none."""
    ready = [one for path in options.ours for one in bundled(path, reference.task, cache)]
    failed = []
    for peer in PEERS:
        # Ratios are to the base, so it is always there.
        if options.peers is None or peer.id in options.peers or peer.id == BASE:
            progress.say(f"{peer.id}: build")
            try:
                ready.append(built(peer, reference, cache))
            except PeerError as reason:
                failed.append(_without(peer, str(reason)))
    return ready, failed


def _ours(ready: Sequence[Built]) -> str:
    """The first quantized one of ours, else the first of ours, else the base."""
    ours = sorted((one for one in ready if one.ours), key=lambda one: not one.quantized)
    return ours[0].id if ours else BASE


def _without(peer: Peer, error: str) -> Contender:
    return Contender(Built(peer.id, peer.title, (), 0, quantized=peer.quantized), error=error)


if __name__ == "__main__":
    raise SystemExit(main())
