"""What runs where: every shipped profile's accelerators, for real models, each with its evidence.

    python -m benchmarks.placement [--write docs/placement.md] [--json] [--profile NAME] [RECIPE…]

Each model is exported and quantized as its recipe and the profile say, as `edge-convert run` would
do it; the engine's tool places the operators, and the golden vectors are held against the float
reference: on this host's CPU, and on the vendor's emulator or device where one is here. Tools that
are not set up say so: `edge-convert setup-target` first. Models whose source is not there are left
out: the examples' READMEs say how theirs are made.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from converters.cache import Cache, default_folder
from converters.configs import PackageConfig, VerifyConfig
from converters.model import Candidate, Evidence, Job
from converters.pipeline import open_recipe, run_passes
from converters.placement.coverage import meets
from converters.placement.result import percent
from converters.progress import Terminal
from converters.recipe import Recipe, load_recipe
from converters.steps import LEFT_OUT
from edge_runtime.errors import EdgeError
from edge_runtime.profile import CPU, DeviceProfile, load_profile, profile_names

MODELS = {
    "MiniLM-L6, texts of 128 tokens": "examples/debian-sections/recipe-embedding.toml",
    "glyphs CNN": "examples/glyphs/recipe-keras.toml",
    "glyphs ViT": "examples/glyphs/recipe-vit.toml",
    "keywords DS-CNN": "examples/keywords/recipe.toml",
    "anomaly autoencoder": "build/anomaly/recipe.toml",
}
ROWS = 32
"""Test rows: the table is about placement and golden vectors, quality is the report's matter."""
REASONS = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one accelerator of one profile.

    `cosine` is the lowest of the golden vectors on this host's CPU, None where it cannot run the
    file, `emulated` the same on the
    vendor's emulator; `bound` what the recipe asks of both. `floor` is the profile's.
    """

    profile: str
    accelerator: str
    model: str
    variant: str
    evidence: str
    tool: str
    share: float | None
    floor: float
    meets_floor: bool
    operators: int
    partitions: int | None
    cosine: float | None
    emulated: float | None
    bound: float
    off: tuple[str, ...]
    why: str = ""

    @property
    def tolerance(self) -> str:
        """Whether the numbers are good enough, and where they were computed."""
        computed = [one for one in (self.cosine, self.emulated) if one is not None]
        if not computed:
            return "not made"
        found = min(computed)
        word = "yes" if found >= self.bound else "**no**"
        if self.emulated is None:
            return f"{word}, {self.cosine:.4f}"
        if self.cosine is None:
            return f"{word}; there {self.emulated:.4f}"
        return f"{word}, {self.cosine:.4f}; there {self.emulated:.4f}"


def cells(name: str, recipe: Recipe, profiles: Sequence[DeviceProfile]) -> Iterator[Cell]:
    """A cell for each accelerator of each profile.

    Raises:
        EdgeError: the model cannot be converted at all.
    """
    progress = Terminal()
    cache = Cache(default_folder())
    model, data = open_recipe(recipe, cache, progress)
    config = recipe.config(VerifyConfig)
    assert config is not None  # no recipe is without
    # Nothing is refused here: what does not come close enough is what the table is to say.
    few = replace(config, quick_rows=ROWS, float_rows=ROWS, latency_runs=1, max_drop=1e9,
                  min_agreement=0.0, min_cosine=-1.0)  # fmt: skip
    passes = [
        few if isinstance(one, VerifyConfig) else one
        for one in recipe.passes
        if not isinstance(one, PackageConfig)
    ]
    for profile in profiles:
        with tempfile.TemporaryDirectory() as out:
            job = Job(replace(recipe, passes=tuple(passes)), profile, data, cache, progress,
                      Path(out), quick=True, allow_fallback=True)  # fmt: skip
            progress.say(f"{name} for {profile.name}")
            conversion = run_passes(model, passes, job)
        done = conversion.model
        assert done.verdict is not None
        yield from _left_out(name, profile, conversion.passes.get("quantize", {}))
        for candidate, evidence in zip(done.candidates, done.verdict.candidates, strict=True):
            if candidate.accelerator != CPU:
                yield _cell(name, profile, candidate, evidence, config.min_cosine)


def _left_out(name: str, profile: DeviceProfile, figures: Mapping[str, Any]) -> Iterator[Cell]:
    """A cell for each accelerator that there was no way to."""
    for engine in profile.engines:
        why = figures.get(engine.id, {}).get(LEFT_OUT, "")
        if why:
            yield Cell(profile.name, engine.accelerator, name, "", "unknown", "", None,
                       engine.coverage, False, 0, None, None, None, 0.0, (), why)  # fmt: skip


def _cell(
    name: str, profile: DeviceProfile, candidate: Candidate, evidence: Evidence, bound: float
) -> Cell:
    engine = profile.engine(candidate.backend, candidate.accelerator)
    placed = candidate.placed
    assert engine is not None  # it was made for it
    off = [
        f"{one.operator} ×{len(one.names)}: {one.reason}"
        for one in (placed.groups if placed else ())
        if not one.on
    ]
    return Cell(
        profile=profile.name,
        accelerator=candidate.accelerator,
        model=name,
        variant=candidate.id,
        evidence=placed.evidence if placed else "unknown",
        tool=placed.tool if placed else "",
        share=placed.share if placed else None,
        floor=engine.coverage,
        meets_floor=placed is None or meets(placed, engine),
        operators=len(placed.nodes) if placed else 0,
        partitions=placed.partitions if placed else None,
        cosine=None if candidate.built else evidence.golden_cosine,
        emulated=evidence.emulated_cosine,
        bound=bound,
        off=tuple(off),
        why=placed.why if placed else f"no tool places operators on {candidate.accelerator}",
    )


HEAD = """\
# Placement

<!-- Written by `python -m benchmarks.placement --write docs/placement.md`; do not edit. -->

What of each model runs on each board's accelerator, and how that is known. Nothing here was
measured on a board unless a line says so.

- **share**: operators of the file that run on the accelerator, of all that compute. Bold where it
  is below the profile's floor: `edge-convert run` refuses that unless told `--allow-fallback`.
- **evidence**: *measured*: it really ran there; *vendor-compiled*: the vendor's compiler took it;
  *rule-checked*: the documented rules say so, only the board can prove it; *unknown*: nobody knows.
- **tolerance met**: the lowest cosine of the golden vectors to the float reference, by this host's
  CPU with the very file, and *there*: by the vendor's emulator or device. A variant that does not
  meet it is not packed; the board's CPU variants are.

Setting up the tools: `edge-convert setup-target qnn`, and `vela`, `openvino`. A model again, with
every operator: `edge-convert place BUNDLE --profile NAME`.
"""


def page(found: Sequence[Cell], failed: Sequence[tuple[str, str]], models: Sequence[str]) -> str:
    """The page: a table a model, then the operators that are off, by reason."""
    lines = [HEAD]
    for model in models:
        rows = [one for one in found if one.model == model]
        lines += [f"## {model}", ""]
        lines += [f"Not converted: {why}\n" for name, why in failed if name == model]
        if not rows:
            continue
        lines += ["| profile | accelerator | share | evidence | tolerance met |",
                  "|---|---|---|---|---|"]  # fmt: skip
        lines += [_row(one) for one in rows]
        lines += ["", *_off(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(one: Cell) -> str:
    share = "unknown" if one.share is None else percent(one.share)
    if one.share is not None and not one.meets_floor:
        share = f"**{share}** of {percent(one.floor)}"
    known = one.share is not None
    by = f"{one.evidence}: {_cut(one.tool, 60)}" if known else _cut(one.why, 160)
    return f"| {one.profile} | {one.accelerator} | {share} | {by} | {one.tolerance} |"


def _off(rows: Sequence[Cell]) -> Iterator[str]:
    """What is left to the CPU, each list once, however many profiles share it."""
    told: dict[tuple[str, ...], list[str]] = {}
    for one in rows:
        if one.off:
            told.setdefault(one.off, []).append(f"{one.profile} ({one.accelerator})")
    for off, names in told.items():
        yield f"Left to the CPU on {', '.join(names)}:"
        yield ""
        yield from (f"- {_cut(line)}" for line in off[:REASONS])
        if len(off) > REASONS:
            yield f"- and {len(off) - REASONS} more kinds"
        yield ""


def _cut(text: str, most: int = 240) -> str:
    """As a cell takes it, at the end of a word."""
    plain = text.replace("|", "\\|").replace("\n", " ")
    return plain if len(plain) <= most else f"{plain[:most].rsplit(' ', 1)[0]} …"


def main() -> int:
    """Run, print, and write the page where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="*", type=Path, metavar="RECIPE", help="instead of ours")
    parser.add_argument("--profile", action="append", metavar="NAME", help="only this; repeatable")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page here")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    profiles = [load_profile(name) for name in arguments.profile or profile_names()]
    profiles = [one for one in profiles if any(e.accelerator != CPU for e in one.engines)]
    models = {one.stem: str(one) for one in arguments.recipes} or MODELS
    found: list[Cell] = []
    failed: list[tuple[str, str]] = []
    for name, path in models.items():
        try:
            recipe = load_recipe(Path(path))
        except EdgeError as reason:
            failed.append((name, str(reason)))
            continue
        for profile in profiles:
            try:
                found += cells(name, recipe, [profile])
            except EdgeError as reason:
                failed.append((name, f"for {profile.name}: {reason}"))
    if arguments.json:
        json.dump([asdict(one) for one in found], sys.stdout, indent=1)
        print()
    else:
        Console().print(_table(found))
    for name, why in failed:
        print(f"{name}: {why}", file=sys.stderr)
    if arguments.write:
        arguments.write.write_text(page(found, failed, list(models)))
    return 0


def _table(found: Sequence[Cell]) -> Table:
    table = Table(title="Placement", title_justify="left")
    for column in ("model", "profile", "accelerator", "share", "evidence", "tolerance met"):
        table.add_column(column)
    for one in found:
        share = "unknown" if one.share is None else percent(one.share)
        low = "" if one.meets_floor else f" (floor {percent(one.floor)})"
        table.add_row(one.model, one.profile, one.accelerator, share + low, one.evidence,
                      one.tolerance.replace("**", ""))  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(main())
