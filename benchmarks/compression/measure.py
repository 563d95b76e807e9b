"""All contenders over the same rows and in the same minutes.

Order: 1. start every process; 2. each answers every row, one text at a time, as many at once as
there are cores; 3. latency, alone, in rounds in which every contender takes a turn, so that what
else the machine does hits all alike. A contender that fails at any step leaves with a sentence,
and the others go on.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.compression.builds import MODELS, Built
from benchmarks.compression.environments import PeerError
from benchmarks.compression.figures import (
    NEIGHBOURS,
    Difference,
    Scores,
    difference,
    neighbours,
    recalls,
    right,
)
from benchmarks.compression.process import PeerProcess
from benchmarks.compression.reference import Reference
from benchmarks.compression.rows import FloatArray
from converters.ort import host_threads
from converters.progress import Progress

BLOCK = 6
"""Runs of a turn. The first is not counted: it finds the caches full of the one before."""
WARM_UP_ROUNDS = 1


@dataclass(slots=True)
class Contender:
    """What is known so far. `error`: why it left; `rounds_ms`: by length, each round's median."""

    built: Built
    scores: Scores | None = None
    rounds_ms: dict[int, list[float]] = field(default_factory=dict)
    error: str = ""

    def p50_ms(self, length: int) -> float | None:
        """Median over the rounds."""
        found = self.rounds_ms.get(length)
        return statistics.median(found) if found and not self.error else None

    def score(self) -> float | None:
        """Accuracy or recall, 0..1."""
        return None if self.scores is None or self.error else float(self.scores.mean())


def slower(one: Contender, other: Contender, length: int) -> float | None:
    """How many times the latency of `other` that of `one` is: the median of each round's ratio."""
    first, second = one.rounds_ms.get(length), other.rounds_ms.get(length)
    if not first or not second or one.error or other.error:
        return None
    return statistics.median(a / b for a, b in zip(first, second, strict=False))


def better(one: Contender, other: Contender) -> Difference | None:
    """How much higher `one` scores than `other`, paired."""
    if one.scores is None or other.scores is None or one.error or other.error:
        return None
    return difference(one.scores, other.scores)


def measure(
    found: Sequence[Built],
    reference: Reference,
    lengths: Sequence[int],
    rounds: int,
    work: Path,
    progress: Progress,
) -> list[Contender]:
    """Everybody's scores and latencies."""
    contenders = [Contender(built) for built in found]
    with ExitStack() as stack:
        running: dict[str, PeerProcess] = {}
        for one in contenders:  # 1
            with _leaving(one):
                log = work / f"{_file_name(one)}.log"
                running[one.built.id] = stack.enter_context(PeerProcess(one.built.words, log))
                running[one.built.id].reply()
        progress.say(f"answers: {len(reference.rows)} rows each")
        with ThreadPoolExecutor(host_threads()) as pool:  # 2
            asked = [one for one in contenders if not one.error]
            for done in pool.map(lambda one: _judge(one, running, reference, work), asked):
                progress.say(f"{done.built.id}: answered")
        progress.say(f"latency: {rounds} rounds, everybody in turn")
        for length in lengths:  # 3
            _rounds(contenders, running, length, rounds)
    return contenders


def score(answers: FloatArray, reference: Reference) -> Scores:
    """Each row's score, 0..1: whether its class is right, or the recall of its neighbours.

    Raises:
        PeerError: the answers' shape is not that of the rows.
    """
    if len(answers) != len(reference.rows) or answers.ndim != 2:
        raise PeerError(f"answered {answers.shape} for {len(reference.rows)} rows")
    if reference.targets is not None:
        return right(answers, reference.targets)
    assert reference.embeddings is not None
    k = min(NEIGHBOURS, len(reference.rows) - 1)
    return recalls(neighbours(answers, k), neighbours(reference.embeddings, k))


def _judge(
    one: Contender, running: Mapping[str, PeerProcess], reference: Reference, work: Path
) -> Contender:
    """Ask for the answers and score them."""
    with _leaving(one):
        folder = one.built.place or work / _file_name(one)
        folder.mkdir(parents=True, exist_ok=True)
        one.scores = score(_answers(running[one.built.id], reference, folder), reference)
    return one


def _file_name(one: Contender) -> str:
    return re.sub(r"[^\w.-]", "-", one.built.id)


def _answers(process: PeerProcess, reference: Reference, folder: Path) -> FloatArray:
    """What the process answers, or has answered before where the model is kept."""
    out = folder / f"answers-{reference.rows.digest()[:16]}.npy"
    if folder.parent.name != MODELS or not out.is_file():
        partial = out.with_suffix(".partial.npy")
        process.ask(op="answer", rows=str(reference.rows_file), out=str(partial))
        partial.replace(out)
    answers: FloatArray = np.load(out, allow_pickle=False)
    return answers


def _rounds(
    contenders: Sequence[Contender],
    running: Mapping[str, PeerProcess],
    length: int,
    rounds: int,
) -> None:
    for turn in range(WARM_UP_ROUNDS + rounds):
        # Each round begins with another one: nobody always follows the same neighbour.
        start = turn % max(len(contenders), 1)
        for one in (*contenders[start:], *contenders[:start]):
            if one.error:
                continue
            with _leaving(one):
                taken = running[one.built.id].ask(op="time", length=length, runs=BLOCK)["ms"]
                if turn >= WARM_UP_ROUNDS:
                    one.rounds_ms.setdefault(length, []).append(statistics.median(taken[1:]))


@contextmanager
def _leaving(one: Contender) -> Iterator[None]:
    """What fails in here is the contender's last word."""
    try:
        yield
    except PeerError as reason:
        one.error = str(reason)
