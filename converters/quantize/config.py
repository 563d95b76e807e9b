"""What a recipe may say of the quantize pass: one table an engine, the profile's scheme by default.

[pass.onnxruntime]
scheme = "static_w8a8_channel"
calibration = "percentile"
smooth = 0.6
layers = { "encoder.layer.0.*" = "float" }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from converters.quantize.scheme import FLOAT, SCHEMES, SMOOTH, known_scheme, refusal
from edge_runtime.fields import Fields
from edge_runtime.profile import Demands

CALIBRATIONS = ("minmax", "percentile", "entropy", "mse")
ROUNDINGS = ("nearest", "gptq")
SEARCH = "search"
ENGINE_FIELDS = (
    "scheme", "calibration", "percentile", "smooth", "rounding", "rows", "layers", "integer"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """How one engine's file is quantized.

    `calibration` is how ranges of activations are taken where the scheme is static, `percentile`
    (50..100) how much of them its namesake keeps. `smooth` is a strength, 0..1, or "search".
    `rounding` "gptq" lets the weights not yet rounded make good the error of those that are.
    `rows` calibration texts are read, 0 means all. `layers`: pattern of a layer's name → scheme;
    the last that matches counts. `integer` keeps nothing float for the sake of accuracy; LiteRT's
    inputs and outputs are integers then, too.

    The rest is what an accelerator demands, see `Demands`; a recipe does not say it.
    """

    scheme: str
    calibration: str = "minmax"
    percentile: float = 99.99
    smooth: float | str = 0.0
    rounding: str = "nearest"
    rows: int = 256
    layers: Mapping[str, str] = field(default_factory=dict)
    integer: bool = False
    symmetric: bool = False
    power_of_two: bool = False
    keep_float: tuple[str, ...] = ()

    def over(self, default: str) -> Options:
        """The same with `default` for a scheme that is not given, and `smooth_` made a strength."""
        scheme = self.scheme or default
        smooth = self.smooth
        if scheme.startswith(SMOOTH) and smooth == 0:
            smooth = SEARCH
        return replace(self, scheme=scheme.removeprefix(SMOOTH), smooth=smooth)

    @property
    def precision(self) -> str:
        """The scheme with what was done to it, as a candidate's id says it."""
        before = SMOOTH if self.smooth else ""
        after = "_gptq" if self.rounding == "gptq" else ""
        mixed, whole = "_mixed" if self.layers else "", "_integer" if self.integer else ""
        signed = "_symmetric" if self.symmetric else ""
        power = "_po2" if self.power_of_two else ""
        return f"{before}{self.scheme}{after}{mixed}{whole}{signed}{power}"

    def under(self, demands: Demands) -> Options:
        """The same for an accelerator that demands that."""
        return replace(
            self,
            integer=self.integer or demands.integer,
            symmetric=demands.symmetric,
            power_of_two=demands.power_of_two,
            keep_float=demands.keep_float,
        )

    def key(self) -> dict[str, object]:
        """Everything that shapes the file, for the cache; layers in their order, which counts."""
        key = {**asdict(self), "layers": list(self.layers.items())}
        for name in ("integer", "symmetric", "power_of_two", "keep_float"):
            if not key[name]:  # as keys were before there was the option: what is cached stays so
                del key[name]
        return key


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """Options by engine where the profile's scheme alone is not wanted; empty: the profile's."""

    engines: Mapping[str, Options]

    @property
    def recipes(self) -> Mapping[str, str]:
        """Schemes by engine, where the recipe names one."""
        return {name: one.scheme for name, one in self.engines.items() if one.scheme}

    def options(self, engine: str, default: str) -> Options:
        """What to do for `engine`, whose profile asks for `default`."""
        return self.engines.get(engine, Options("")).over(default)


def parse_quantize(f: Fields, folder: Path) -> QuantizeConfig:
    """Read the table; faults go to `f`."""
    recipes = f.object("recipes", {})
    engines = {name: Options(recipes.text(name)) for name in f.mapping("recipes", {})}
    for name in SCHEMES:
        if f.present(name):
            engines[name] = _options(name, f.object(name), engines.get(name, Options("")).scheme)
    return QuantizeConfig(engines)


def _options(engine: str, f: Fields, scheme: str) -> Options:
    """The table of one engine."""
    written = f.rest()
    for key in sorted(set(written) - set(ENGINE_FIELDS)):
        f.fault(f"{f.where}: {key} is not a field of a recipe")
    layers = f.object("layers", {})
    options = Options(
        scheme=f.text("scheme", scheme),
        calibration=f.choice("calibration", CALIBRATIONS, "minmax"),
        percentile=f.number("percentile", 99.99, low=50, high=100),
        smooth=_smooth(f, written.get("smooth")),
        rounding=f.choice("rounding", ROUNDINGS, "nearest"),
        rows=f.integer("rows", 256),
        layers={pattern: layers.text(pattern) for pattern in f.mapping("layers", {})},
        integer=f.boolean("integer", False),
    )
    if options.integer and engine != "litert":
        f.fault(f"{f.where}: integer is for litert; leave it out")
    if options.integer and options.scheme and not options.scheme.startswith("static"):
        f.fault(
            f"{f.where}: integer needs a static scheme, such as static_w8a8_channel, found "
            f"{options.scheme}"
        )
    if engine != "onnxruntime" and (options.smooth or options.rounding != "nearest"):
        f.fault(f"{f.where}: smooth and rounding are for onnxruntime; leave them out")
    for where, name in (("scheme", options.scheme), *options.layers.items()):
        allowed = known_scheme(engine, name) and (where == "scheme" or not name.startswith(SMOOTH))
        if name and not allowed:
            f.fault(f"{f.where}: {where}: {refusal(engine, name)}, {FLOAT}")
    return options


def _smooth(f: Fields, written: object) -> float | str:
    if isinstance(written, str):
        return f.choice("smooth", (SEARCH,))
    strength: float = f.number("smooth", 0.0, low=0, high=1)
    return strength
