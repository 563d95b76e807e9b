"""What a search can know to be in vain before it begins."""

from __future__ import annotations

import math

from converters.configs import VerifyConfig
from converters.data import Dataset
from converters.metrics import metric_for
from converters.passes import kind_of
from converters.quantize.config import QuantizeConfig
from converters.quantize.scheme import FLOAT
from converters.recipe import Recipe
from converters.search.budget import Budget
from converters.search.recipes import compression_passes
from edge_runtime.errors import InputError
from edge_runtime.profile import DeviceProfile

COUNTED = ("accuracy", "agreement")
"""Metrics of which a row is right or wrong."""


def check_claim(
    data: Dataset, task: str, budget: Budget, config: VerifyConfig, *, quick: bool
) -> None:
    """One row that is answered otherwise must not be more than may be lost.

    Raises:
        InputError: it is.
    """
    test = data.test
    labelled = data.targets(test) is not None
    rows = min(len(test), config.quick_rows) if quick else len(test)
    counted = metric_for(task, config.metric, labelled=labelled) in COUNTED
    if counted and budget.drop and rows * budget.drop < 1:
        raise InputError(
            f"data {test.path}: {rows} rows cannot show that at most {budget.drop:.2%} is "
            f"lost; expected {math.ceil(1 / budget.drop)} or more, or a larger drop in the budget"
        )


def check_quantizes(recipe: Recipe, profile: DeviceProfile) -> None:
    """An engine must quantize, where the scheme of each is the recipe's or the profile's.

    Raises:
        InputError: none does.
    """
    config = recipe.config(QuantizeConfig) or QuantizeConfig({})
    schemes = [config.options(one.backend, one.quantization).scheme for one in profile.engines]
    if all(scheme == FLOAT for scheme in schemes):
        raise InputError(
            f"{recipe.where}: every engine's scheme is {FLOAT}; a search needs one that quantizes"
        )


def check_passes(recipe: Recipe) -> None:
    """What a search decides may not stand in the recipe.

    Raises:
        InputError: it does.
    """
    config = recipe.config(QuantizeConfig) or QuantizeConfig({})
    decided = [kind_of(one) for one in compression_passes(recipe)]
    if decided:
        raise InputError(
            f"{recipe.where}: has the pass {decided[0]!r}, which a search decides itself; leave it "
            "out, or use `edge-convert run`"
        )
    layers = [name for name, one in config.engines.items() if one.layers]
    if layers:
        raise InputError(
            f"{recipe.where}: quantize has layers for {layers[0]}; which layer gets which scheme a "
            "search decides itself; leave them out"
        )
