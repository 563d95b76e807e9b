"""From a recipe, a profile and a budget to the best bundle that was found, with the evidence.

Steps: 1. the reference; 2. the reference quantized after training, which costs no training and may
be enough; 3. shapes that could meet the budget; 4. rungs of successive halving, see `ladder`;
5. those that got furthest, quantized, answer the test rows; 6. all of them take turns on the clock:
front and choice; 7. the choice's own recipe, run like any other, makes the bundle.

Steps 3 to 5 are for encoders of texts. Any other model keeps its weights; it is quantized in every
way that its engines offer, see `schemes`, where an encoder is quantized as its profile says.

Every step is a pass of a recipe and comes from the cache when it is asked for again, so a search
that was interrupted goes on where it was. The test rows decide nothing but between finalists.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters.anatomy import layers_of
from converters.cache import Cache
from converters.checks import check_continued, check_engines, check_metric, check_output
from converters.distil.lessons import gather, pooled_outputs
from converters.model import Job, TextModel
from converters.network import load_encoder
from converters.package import discard
from converters.pipeline import open_recipe, run_passes
from converters.progress import Progress
from converters.recipe import Recipe, load_recipe
from converters.search.budget import Budget
from converters.search.checks import check_claim, check_passes, check_quantizes
from converters.search.front import choose, front, refusal
from converters.search.ladder import WARNING_SHARE, Candidate, Ladder, climb
from converters.search.measure import together
from converters.search.minutes import training_seconds
from converters.search.recipes import compression_passes, lesson, weights_passes
from converters.search.result import ORIGINAL, Finalist, Found, Tried, float_model
from converters.search.space import (
    Encoder,
    Measured,
    latency_ms,
    promising,
    size_bytes,
)
from converters.search.weighed import Weighed, finished_recipe, verify_config
from converters.search.written import recipe_toml
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.profile import CPU, DeviceProfile

MAX_CANDIDATES = 4
FINALISTS = 3
VOCABULARY_SHARES = (0.4, 0.25, 0.15)
"""Sizes of a trimmed vocabulary to try where a size is bounded, as shares of the original's."""
RECIPE_FILE = "chosen.toml"
UNTRAINED = "only encoders of texts are trained, pruned and distilled; others keep their weights"


@dataclass(frozen=True, slots=True)
class Options:
    """How to search, apart from what. `training` False tries only what needs none."""

    out: Path
    cache: Path
    minutes: float
    training: bool = True
    quick: bool = False


class NotMet(InputError):
    """No candidate meets the budget. `found` has all that was tried."""

    def __init__(self, told: str, found: Found) -> None:
        super().__init__(told)
        self.found = found


def _on_cpu(profile: DeviceProfile) -> DeviceProfile:
    """The profile without its accelerators: what is compared here is measured on a CPU.

    Raises:
        InputError: then nothing is left.
    """
    engines = tuple(engine for engine in profile.engines if engine.accelerator == CPU)
    if not engines:
        raise InputError(
            f"profile {profile.name}: has no engine on its CPU, and a search measures on one; "
            "use `edge-convert run`"
        )
    return replace(profile, engines=engines)


def optimize(
    recipe: Recipe, profile: DeviceProfile, budget: Budget, options: Options, progress: Progress
) -> Found:
    """Search, write the choice's recipe to `options.out` and make its bundle there.

    Raises:
        NotMet: no candidate is within the budget; the nearest is named, and what binds.
        EdgeError: the recipe, its data, its model or a result is not as it should be.
    """
    started = time.monotonic()
    profile = _on_cpu(profile)
    check_engines(recipe, [profile])
    check_continued(recipe)
    check_metric(recipe)
    check_passes(recipe)
    check_output(options.out)
    cache = Cache(options.cache)
    source, data = open_recipe(recipe, cache, progress)
    if isinstance(source, TextModel):
        check_quantizes(recipe, profile)
    config = verify_config(recipe)
    check_claim(data, recipe.task, budget, config, quick=options.quick)
    job = Job(recipe, profile, data, cache, progress, options.out, options.quick)
    asked = budget = replace(budget, golden=config.min_cosine)
    reference = run_passes(source, weights_passes(recipe), job).model  # 1
    weighed = Weighed(job, started + 60 * WARNING_SHARE * options.minutes)
    weighed.add(ORIGINAL, reference, (), budget)  # 2
    budget = asked.against(float_model(weighed.found).cost)
    tried: list[Tried] = []
    stopped = ""
    notes: list[str] = []
    if not isinstance(reference, TextModel):
        notes.append(f"training was left out: {UNTRAINED}")
        progress.say(f"training left out: {UNTRAINED}")
    else:
        weighed.refine(ORIGINAL, budget)
    if options.training and isinstance(reference, TextModel):
        encoder = _encoder(reference)
        measured = _best(weighed.found)
        candidates, stopped = _trained(reference, encoder, measured, budget, options, job, started)
        tried = [_tried(one, encoder, measured, job) for one in candidates]
        for one in candidates[:FINALISTS]:  # 5
            weighed.add(one.shape.name, one.model, one.passes, budget, one.figures)
            weighed.refine(one.shape.name, budget)
    conversions = weighed.conversions
    pairs = [(conversions[one.candidate], one) for one in weighed.found]
    found = together(pairs, job, config.latency_runs)  # 6
    budget = asked.against(float_model(found).cost)  # ratios of one run
    costs = {one.id: one.cost for one in found if one.ready}
    result = Found(
        budget=budget,
        minutes=options.minutes,
        seconds=time.monotonic() - started,
        tried=tuple(tried),
        finalists=tuple(found),
        front=tuple(front({one.id: one.cost for one in found})),
        choice=choose(costs, budget),
        recipe=None,
        conversions=conversions,
        chosen=None,
        stopped=stopped,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        notes=(*notes, *weighed.left_out),
    )
    if result.choice is None:
        (job.out / RECIPE_FILE).unlink(missing_ok=True)  # of another search, as the bundle
        discard(job)
        raise NotMet(refusal(costs, budget), result)
    return _made(result, weighed, job)  # 7


def _encoder(model: TextModel) -> Encoder:
    """What the estimates need to know of the reference."""
    layers = layers_of(load_encoder(model.encoder))
    return Encoder(
        depth=len(layers),
        hidden=model.source.hidden,
        heads=layers[0].heads,
        intermediate=layers[0].shape.intermediate,
        vocabulary=model.source.vocabulary,
        loose_heads=layers[0].anatomy.prunable,
    )


def _best(found: Sequence[Finalist]) -> Measured:
    """Of the reference's variants the fastest: what estimates are scaled by."""
    fastest = min((one for one in found if one.quantized), key=lambda one: one.cost.latency_ms)
    return Measured(fastest.cost.latency_ms, fastest.cost.size_bytes)


def _trained(
    reference: TextModel,
    encoder: Encoder,
    measured: Measured,
    budget: Budget,
    options: Options,
    job: Job,
    started: float,
) -> tuple[list[Candidate], str]:
    vocabularies = [encoder.vocabulary]
    if budget.size_bytes:
        vocabularies += [int(encoder.vocabulary * share) for share in VOCABULARY_SHARES]
    shapes = promising(  # 3
        encoder,
        budget,
        measured,
        tokens=job.lengths[-1],
        vocabularies=vocabularies,
        count=MAX_CANDIDATES,
    )
    job.progress.say(f"{len(shapes)} shapes could meet the budget ({budget.words()})")
    if not shapes:
        return [], "no shape could meet the budget"
    _ask(reference, job)
    parts = {
        "encoder": reference.encoder_sha256,
        "head": reference.head_sha256(),
        "shapes": [one.name for one in shapes],
        "profile": job.profile.name,
        "quick": job.quick,
    }
    ladder = Ladder(
        reference,
        encoder,
        job,
        seconds=training_seconds(options.minutes, time.monotonic() - started, parts, job.cache),
        deadline=started + 60 * WARNING_SHARE * options.minutes,
    )
    return climb(ladder, shapes)  # 4


def _ask(reference: TextModel, job: Job) -> None:
    """What the teacher says of every row, computed before time is shared out, and kept."""
    taught = lesson(job.recipe.task, job.recipe.data.max_length)
    rows = gather(job, (), taught.quick_rows if job.quick else taught.rows)
    pooled_outputs(reference, rows, job, taught.max_length)


def _tried(one: Candidate, encoder: Encoder, measured: Measured, job: Job) -> Tried:
    return Tried(
        name=one.shape.name,
        rungs=one.rungs,
        loss=one.loss,
        seconds=one.seconds,
        estimated_ms=latency_ms(encoder, one.shape, measured, job.lengths[-1]),
        estimated_bytes=size_bytes(encoder, one.shape, measured),
        held_out=one.held_out,
    )


def _made(result: Found, weighed: Weighed, job: Job) -> Found:
    """The result with the choice's recipe written and its bundle made from it."""
    assert result.choice is not None
    chosen = result.finalist(result.choice)
    before = result.conversions[chosen.candidate].recipe
    recipe = finished_recipe(
        job.recipe,
        compression_passes(before),
        result.budget,
        (chosen.backend,),
        weighed.quantization(chosen),
    )
    path = job.out / RECIPE_FILE
    try:
        path.write_text(recipe_toml(recipe, job.out, _comment(result)), encoding="utf-8")
    except OSError as reason:
        raise DeviceError(f"recipe {path}: cannot be written ({reason.strerror})") from None
    written = load_recipe(path)
    model, data = open_recipe(written, job.cache, job.progress)
    made = replace(job, recipe=written, data=data)
    conversion = run_passes(model, written.passes, made)
    return replace(result, recipe=path, chosen=conversion)


def _comment(result: Found) -> str:
    return (
        f"Found by edge-convert optimize for the budget: {result.budget.words()}.\n"
        f"Its choice was {result.choice}. To make the bundle again:\n\n"
        f"    edge-convert run {RECIPE_FILE} --profile NAME --out DIR"
    )
