"""Candidates as they are measured: a model's every variant, and one with a scheme a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from converters.configs import VerifyConfig
from converters.model import Job, TextModel
from converters.passes import PassConfig
from converters.pipeline import Conversion
from converters.quantize.config import QuantizeConfig
from converters.recipe import Recipe
from converters.search.budget import Budget
from converters.search.measure import finalists, measure
from converters.search.precision import mixed
from converters.search.recipes import compression_passes, finished
from converters.search.result import Finalist
from converters.search.show import FILLING, measured_row
from edge_runtime.fields import Json


class Weighed:
    """The candidates that were measured so far: their conversions by name, and their variants."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.conversions: dict[str, Conversion] = {}
        self.found: list[Finalist] = []

    def add(
        self,
        name: str,
        model: TextModel,
        compression: Sequence[PassConfig],
        budget: Budget,
        figures: Mapping[str, Mapping[str, Json]] = MappingProxyType({}),
    ) -> None:
        """Measure every variant of `model`; `figures` are those of the passes that made it."""
        self._job.progress.say(f"{name}: export, quantize, answer the test rows")
        recipe = finished_recipe(self._job.recipe, compression, budget, ())
        done = measure(model, recipe, self._job)
        self.conversions[name] = replace(done, passes={**figures, **done.passes})
        self._found(finalists(name, done, self._job), budget)

    def refine(self, name: str, budget: Budget) -> None:
        """Where no variant of `name` is within the budget, try one with a scheme for each layer."""
        before = self.conversions[name]
        own = [one for one in self.found if one.candidate == name]
        better = mixed(before.text, own, budget, self._job)
        if not better:
            return
        title = f"{name}-mixed"
        for backend, options in better.items():
            self._job.progress.say(f"{title}: {backend}: {len(options.layers)} layers otherwise")
        given = before.recipe.config(QuantizeConfig) or QuantizeConfig({})
        recipe = finished_recipe(
            self._job.recipe,
            compression_passes(before.recipe),
            budget,
            (),
            QuantizeConfig({**given.engines, **better}),
        )
        plain = replace(before.text, candidates=(), verdict=None)
        done = measure(plain, recipe, self._job)
        self.conversions[title] = replace(done, passes={**before.passes, **done.passes})
        known = {one.name for one in own}
        found = finalists(title, done, self._job)
        self._found([one for one in found if one.name not in known], budget)

    def _found(self, new: Sequence[Finalist], budget: Budget) -> None:
        """Keep them, and tell the head of the table before the first."""
        if not self.found:
            self._job.progress.say(FILLING)
        for one in new:
            self._job.progress.say(measured_row(one, budget))
        self.found += new


def finished_recipe(
    recipe: Recipe,
    compression: Sequence[PassConfig],
    budget: Budget,
    engines: tuple[str, ...],
    quantization: QuantizeConfig | None = None,
) -> Recipe:
    """A candidate's whole recipe."""
    verify = replace(verify_config(recipe), max_drop=budget.drop, min_agreement=0.0)
    quantization = quantization or recipe.config(QuantizeConfig) or QuantizeConfig({})
    return finished(recipe, compression, quantization, verify, engines)


def verify_config(recipe: Recipe) -> VerifyConfig:
    """How the recipe has figures measured."""
    config = recipe.config(VerifyConfig)
    assert config is not None  # no recipe is without
    return config
