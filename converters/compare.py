"""Two bundles side by side: what their manifests say, and what both do on this host.

Digests are checked, texts are answered end to end as a device would, and the clock runs with both
taking turns. The quality figures are the manifests' own, from when each was made; figures of
different test rows are not to be compared, and that is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.feeds import WHOLE, tokens
from converters.latency import interleaved_p50
from converters.metrics import figure_words, is_share
from converters.package import open_verified
from converters.quiet import quiet
from converters.show import table
from edge_runtime.bundle.manifest import Manifest, Quality, Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.golden import cosine, load_golden
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.tasks.items import SEQUENCE
from edge_runtime.inference.tasks.results import Classification, Embedding, Result
from edge_runtime.profile import CPU, Engine
from edge_runtime.text import MAX_ERROR, plain, size

LENGTHS = (16, 64, 128)
RUNS = 30
SIDES = ("A", "B")


@dataclass(frozen=True, slots=True)
class Answers:
    """How alike two bundles answer the texts of the first one's golden vectors.

    `same` is the share of texts with the same label and `score_change` the mean change of its
    probability; of embeddings `cosine_mean` and `cosine_min`. What does not apply is None.
    """

    texts: int
    variants: tuple[str, str]
    same: float | None = None
    score_change: float | None = None
    cosine_mean: float | None = None
    cosine_min: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two bundles. `latency_ms` has p50 by side and variant, as `A ort-…`, and by tokens.

    `cautions` say in a sentence each what must not be concluded, `skipped` why a part is missing.
    """

    bundles: tuple[VerifiedBundle, VerifiedBundle]
    answers: Answers | None
    latency_ms: Mapping[str, Mapping[int, float]]
    cautions: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def manifests(self) -> tuple[Manifest, Manifest]:
        return self.bundles[0].manifest, self.bundles[1].manifest


def compare(first: Path, second: Path, *, runs: int = RUNS) -> Comparison:
    """Open, ask and time both.

    Raises:
        InputError: a path holds no bundle, or the two are for different tasks.
        UntrustedError: a file is not what its manifest says.
    """
    bundles = (open_verified(first), open_verified(second))
    a, b = (one.manifest for one in bundles)
    if a.task != b.task:
        raise InputError(
            f"bundles {first} and {second}: tasks are {a.task} and {b.task}; expected the same"
        )
    skipped: list[str] = []
    with _opened(bundles, skipped) as pipelines:
        answers = _answers(bundles[0], pipelines, skipped)
        latency_ms = _latencies(bundles, pipelines, runs, skipped)
    return Comparison(bundles, answers, latency_ms, tuple(_cautions(a, b)), tuple(skipped))


@contextlib.contextmanager
def _opened(
    bundles: Sequence[VerifiedBundle], skipped: list[str]
) -> Iterator[dict[str, dict[str, Pipeline]]]:
    """Every variant for a CPU that loads here, by side and id; one thread each."""
    found: dict[str, dict[str, Pipeline]] = {side: {} for side in SIDES}
    with contextlib.ExitStack() as stack:
        for side, bundle in zip(SIDES, bundles, strict=True):
            for variant in bundle.manifest.variants:
                if variant.placement.accelerator != CPU:
                    accelerator = variant.placement.accelerator
                    skipped.append(f"{side} {variant.id}: only a board with {accelerator} runs it")
                    continue
                try:
                    with quiet():
                        pipeline = Pipeline.open(bundle, variant, _one_thread(variant))
                except IncompatibleError as reason:
                    skipped.append(f"{side} {variant.id}: {reason}")
                    continue
                stack.callback(pipeline.close)
                found[side][variant.id] = pipeline
        yield found


def _one_thread(variant: Variant) -> Engine:
    return Engine(variant.backend, variant.precision, variant.providers, 1, {})


def _answers(
    first: VerifiedBundle, pipelines: Mapping[str, Mapping[str, Pipeline]], skipped: list[str]
) -> Answers | None:
    """Both preferred variants on the texts of the first bundle's golden vectors."""
    raws = [case.raw for case in load_golden(first) if case.raw is not None]
    if not raws:
        skipped.append("answers: the first bundle's golden vectors come without raw inputs")
        return None
    if not all(pipelines.values()):
        skipped.append("answers: a bundle has no variant that runs here")
        return None
    chosen = [next(iter(pipelines[side].values())) for side in SIDES]
    with quiet():
        first_results, second_results = (one(raws) for one in chosen)
    ids = (chosen[0].variant.id, chosen[1].variant.id)
    return alike(first_results, second_results, ids)


def alike(first: Sequence[Result], second: Sequence[Result], ids: tuple[str, str]) -> Answers:
    """The figures of two lists of results, one a text."""
    texts = len(first)
    labels = [
        (one, other)
        for one, other in zip(first, second, strict=True)
        if isinstance(one, Classification) and isinstance(other, Classification)
    ]
    if len(labels) == texts:
        changes = [abs(one.score - dict(other.scores).get(one.label, 0.0)) for one, other in labels]
        same = sum(one.label == other.label for one, other in labels) / texts
        return Answers(texts, ids, same=same, score_change=sum(changes) / texts)
    if not all(isinstance(one, Embedding) for one in (*first, *second)):
        same = sum(a.as_json() == b.as_json() for a, b in zip(first, second, strict=True)) / texts
        return Answers(texts, ids, same=same)
    vectors = [
        (one.vector, other.vector)
        for one, other in zip(first, second, strict=True)
        if isinstance(one, Embedding) and isinstance(other, Embedding)
    ]
    if any(one.shape != other.shape for one, other in vectors):
        return Answers(texts, ids)  # vectors of other sizes have no angle between them
    angles = [cosine(one, other) for one, other in vectors]
    return Answers(texts, ids, cosine_mean=sum(angles) / texts, cosine_min=min(angles))


def _latencies(
    bundles: Sequence[VerifiedBundle],
    pipelines: Mapping[str, Mapping[str, Pipeline]],
    runs: int,
    skipped: list[str],
) -> Mapping[str, Mapping[int, float]]:
    names = [{(spec.name, spec.dtype) for spec in one.manifest.inputs} for one in bundles]
    if names[0] != names[1]:
        skipped.append("latency: the two take different inputs")
        return {}
    every = {
        f"{side} {name}": pipeline
        for side, some in pipelines.items()
        for name, pipeline in some.items()
    }
    if not every:
        return {}
    with quiet():
        return interleaved_p50(every, _feeds(bundles[0], min(p.max_length for p in every.values())),
                               runs)  # fmt: skip


def _feeds(first: VerifiedBundle, longest: int) -> dict[int, Mapping[str, Tensor]]:
    """Inputs by length, up to `longest`; of a model without sequences, the first golden case."""
    manifest = first.manifest
    if not any(SEQUENCE in spec.shape for spec in manifest.inputs):
        return {WHOLE: load_golden(first)[0].inputs}
    lengths = sorted({*(one for one in LENGTHS if one < longest), min(longest, LENGTHS[-1])})
    return {length: tokens(manifest.inputs, length) for length in lengths}


def _cautions(a: Manifest, b: Manifest) -> Iterator[str]:
    if a.provenance.source_sha256 != b.provenance.source_sha256:
        yield (f"they come from different models, {a.provenance.source} and {b.provenance.source}")
    if a.quality is None or b.quality is None:
        yield "not both say how good they are"
        return
    if a.quality.metric != b.quality.metric:
        yield f"their metrics differ, {a.quality.metric} and {b.quality.metric}"
    if a.quality.data_sha256 != b.quality.data_sha256:
        yield "their quality was measured on different test rows; do not compare the figures"


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "bundles": [
            {
                "side": side,
                "name": m.name,
                "version": m.version,
                "profile": m.profile,
                "task": m.task,
                "manifest_sha256": bundle.manifest_sha256,
                "size_bytes": m.size_bytes,
                "files": {one.path: one.size_bytes for one in m.files},
                "variants": [
                    {
                        "id": v.id,
                        "backend": v.backend,
                        "precision": v.precision,
                        "size_bytes": m.file(v.file).size_bytes,
                        "latency_ms": dict(found.latency_ms.get(f"{side} {v.id}", {})),
                    }
                    for v in m.variants
                ],
                "quality": None if m.quality is None else asdict(m.quality),
            }
            for side, bundle in zip(SIDES, found.bundles, strict=True)
            for m in (bundle.manifest,)
        ],
        "same_files": sorted(_same_files(*found.manifests)),
        "answers": None if found.answers is None else asdict(found.answers),
        "cautions": list(found.cautions),
        "skipped": list(found.skipped),
    }


def _same_files(a: Manifest, b: Manifest) -> set[str]:
    """Digests that both have, as paths of the first."""
    theirs = {one.sha256 for one in b.files}
    return {one.path for one in a.files if one.sha256 in theirs}


def comparison_text(found: Comparison) -> str:
    """For people, 80 columns; a variant takes two lines."""
    a, b = found.manifests
    lines = [
        plain(f"{side}  {m.name} {m.version} for {m.profile}: {m.task}")
        for side, m in zip(SIDES, (a, b), strict=True)
    ]
    shared = _same_files(a, b)
    rows = [
        ("bundle", size(a.size_bytes), size(b.size_bytes), _times(a.size_bytes, b.size_bytes)),
        ("files", str(len(a.files)), str(len(b.files)), f"{len(shared)} the same"),
        *_quality_rows(a, b),
    ]
    lines += ["", table(("", "A", "B", "B against A"), rows), *_variant_lines(found)]
    lines += _answer_lines(found)
    lines += [plain(f"  caution: {one}", MAX_ERROR) for one in found.cautions]
    lines += [plain(f"  left out: {one}", MAX_ERROR) for one in found.skipped]
    return "\n".join(lines)


def _quality_rows(a: Manifest, b: Manifest) -> Iterator[tuple[str, str, str, str]]:
    """Value, interval and n of both, and the change where it means something."""
    told = (a.quality, b.quality)
    metric = next((one.metric for one in told if one is not None), "")
    if not metric:
        return

    def cells(words: Callable[[Quality], str]) -> tuple[str, str]:
        first, second = ("–" if one is None else words(one) for one in told)
        return first, second

    yield (metric[:20], *cells(lambda one: figure_words(one.bundle, one.metric)), _change(*told))
    yield ("  95 % from", *cells(lambda one: figure_words(one.interval[0], one.metric)), "")
    yield ("  to", *cells(lambda one: figure_words(one.interval[1], one.metric)), "")
    yield ("  rows", *cells(lambda one: f"{one.n:,}"), "")


def _change(a: Quality | None, b: Quality | None) -> str:
    """B minus A where both are of the same metric and rows."""
    if a is None or b is None or (a.metric, a.data_sha256) != (b.metric, b.data_sha256):
        return ""
    change = b.bundle - a.bundle
    return f"{100 * change:+.2f} points" if is_share(a.metric) else f"{change:+.4f}"


def _times(before: float, after: float) -> str:
    return f"{after / before:.2f}x"


def _variant_lines(found: Comparison) -> list[str]:
    """Each variant with its file and latency; `x` is against A's first one."""
    lengths = sorted({n for times in found.latency_ms.values() for n in times})
    of = next(iter(found.latency_ms.values()), {})
    names, rows = [], []
    for side, m in zip(SIDES, found.manifests, strict=True):
        for v in m.variants:
            names.append(plain(f"  {side} {v.id}: {v.precision}"))
            times = found.latency_ms.get(f"{side} {v.id}", {})
            cells = [f"{times[n]:.2f} {times[n] / of[n]:.2f}x" if times else "–" for n in lengths]
            rows.append([f"  {size(m.file(v.file).size_bytes)}", *cells])
    head, *shown = table(
        ["  size", *(f"ms @ {n}" if n else "ms" for n in lengths)], rows
    ).splitlines()
    lines = ["", head, *(line for pair in zip(names, shown, strict=True) for line in pair)]
    if lengths:
        lines.append("  p50, 1 thread, batch 1, all taking turns, on this host; x: of A's first")
    return lines


def _answer_lines(found: Comparison) -> Iterator[str]:
    answers = found.answers
    if answers is None:
        return
    yield ""
    said = f"on A's {answers.texts} golden inputs"
    if answers.same is not None and answers.score_change is not None:
        yield (
            f"  {said}: {answers.same:.1%} the same label, "
            f"its probability off by {answers.score_change:.4f}"
        )
    elif answers.same is not None:
        yield f"  {said}: {answers.same:.1%} the very same result"
    elif answers.cosine_mean is not None:
        yield (
            f"  {said}: cosine {answers.cosine_mean:.4f} on average, "
            f"{answers.cosine_min:.4f} at worst"
        )
    else:
        yield f"  {said}: vectors of different sizes, which cannot be compared"
    yield plain(f"    A {answers.variants[0]}, B {answers.variants[1]}")
