"""Candidates as they are measured: a model's every variant, and one with a scheme a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from converters.configs import VerifyConfig
from converters.model import Job, Model
from converters.passes import PassConfig
from converters.pipeline import Conversion
from converters.quantize.config import Options, QuantizeConfig
from converters.quantize.scheme import FLOAT
from converters.recipe import Recipe
from converters.search.budget import Budget
from converters.search.measure import finalists, measure
from converters.search.precision import mixed
from converters.search.recipes import compression_passes, finished
from converters.search.result import Finalist
from converters.search.show import FILLING, measured_row
from edge_runtime.fields import Json


class Weighed:
    """The candidates that were measured so far: their conversions by name, and their variants.

    `left_out` has a sentence for each way of quantizing that came to nothing. After `deadline`, of
    the monotonic clock, a model's further ways are not begun.
    """

    def __init__(self, job: Job, deadline: float) -> None:
        self._job = job
        self._deadline = deadline
        self._options: dict[str, dict[str, Options]] = {}
        self.conversions: dict[str, Conversion] = {}
        self.found: list[Finalist] = []
        self.left_out: list[str] = []

    def add(
        self,
        name: str,
        model: Model,
        compression: Sequence[PassConfig],
        budget: Budget,
        figures: Mapping[str, Mapping[str, Json]] = MappingProxyType({}),
    ) -> None:
        """Measure every variant of `model`; `figures` are those of the passes that made it."""
        self._job.progress.say(f"{name}: export, quantize, answer the test rows")
        given = self._job.recipe.config(QuantizeConfig) or QuantizeConfig({})
        recipe = finished_recipe(self._job.recipe, compression, budget, (), given)
        done = self._measured(name, model, recipe)
        self.conversions[name] = replace(done, passes={**figures, **done.passes})
        self._found(finalists(name, done, self._job), budget)

    def _measured(self, name: str, model: Model, recipe: Recipe) -> Conversion:
        tried = measure(model, recipe, self._job, self._deadline)
        self._options[name] = tried.options
        self.left_out += tried.left_out
        return tried.conversion

    def quantization(self, one: Finalist) -> QuantizeConfig | None:
        """What a recipe says to get the variant `one`; None where it is not quantized.

        Other engines get the first of theirs that came to something, none what was left out.
        """
        if not one.quantized:
            return None
        options = self._options[one.candidate]
        engines: dict[str, Options] = {}
        for variant in self.conversions[one.candidate].model.candidates:
            way = options[variant.id] if variant.quantized else Options(FLOAT)
            engines.setdefault(variant.backend, way)
        return QuantizeConfig({**engines, one.backend: options[one.name]})

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
        done = self._measured(title, plain, recipe)
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
    quantization: QuantizeConfig | None,
) -> Recipe:
    """A candidate's whole recipe; without `quantization` it stays float."""
    verify = replace(verify_config(recipe), max_drop=budget.drop, min_agreement=0.0)
    return finished(recipe, compression, quantization, verify, engines)


def verify_config(recipe: Recipe) -> VerifyConfig:
    """How the recipe has figures measured."""
    config = recipe.config(VerifyConfig)
    assert config is not None  # no recipe is without
    return config
