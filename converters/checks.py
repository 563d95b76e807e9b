"""What can be known to fail before a minute is spent, checked before a minute is spent.

Nothing here trains, exports or measures. A fault that is found here would otherwise be found after
the training.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from converters.configs import ExportConfig, FinetuneConfig, VerifyConfig
from converters.data import load_dataset
from converters.export import require_optimum
from converters.metrics import find_metric
from converters.model import SUFFIXES
from converters.placement.build import BUILDERS, check_scheme, exported_as
from converters.placement.targets import TARGETS
from converters.quantize import ENGINES, quantizer_path
from converters.quantize.config import QuantizeConfig
from converters.recipe import Recipe, load_recipe
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.profile import DeviceProfile, Engine, load_profile

PROVIDERS = tuple(
    f"{name}ExecutionProvider"
    for name in (
        "ACL", "ArmNN", "Azure", "CANN", "CPU", "CUDA", "CoreML", "Dml", "Dnnl", "Hailo", "Js",
        "MIGraphX", "Nnapi", "NvTensorRTRTX", "OpenVINO", "QNN", "ROCM", "Rknpu", "SNPE",
        "Tensorrt", "TVM", "VSINPU", "VitisAI", "WebGpu", "WebNN", "Xnnpack",
    )
)  # fmt: skip
"""ONNX Runtime's, of any release, and Hailo's; a vendor may have another."""


def load_board(name_or_path: str) -> DeviceProfile:
    """A profile to convert for, which says the same as its file's name and its engines' tools.

    Bundles are named after the profile, and a device looks for its own name.

    Raises:
        InputError: there is none, it is faulty, or it does not.
    """
    profile = load_profile(name_or_path)
    _check_backends(profile)
    file = Path(name_or_path)
    if file.suffix == ".toml" and file.stem != profile.name:
        raise InputError(
            f"profile {name_or_path}: its name is {profile.name!r}, expected that of the file, "
            f"{file.stem!r}: bundles and devices know it by its name"
        )
    return profile


def doubts(profile: DeviceProfile) -> list[str]:
    """What may well be right, and looks like a slip: providers that nobody has heard of."""
    found = []
    for engine in profile.engines:
        for name in engine.providers:
            if name in PROVIDERS:
                continue
            near = difflib.get_close_matches(name, PROVIDERS, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            found.append(f"profile {profile.name}: provider {name!r} of {engine.id} is not known"
                         f"{meant}")  # fmt: skip
    return found


def check_engines(recipe: Recipe, profiles: Sequence[DeviceProfile]) -> None:
    """Every engine of every profile can be exported to, and quantized for as is wanted.

    Raises:
        InputError: not so, or an exporter is wanted that is not installed.
    """
    for profile in profiles:
        _check_backends(profile)
    for config in recipe.passes:
        if isinstance(config, ExportConfig) and config.exporter == "optimum":
            require_optimum()
        if isinstance(config, QuantizeConfig):
            _check_quantizers(recipe, config, profiles)


def check_profile(profile: DeviceProfile) -> None:
    """Every engine of the profile can be exported to, quantized for and placed as it says.

    Raises:
        InputError: not so.
    """
    _check_backends(profile)
    for engine in profile.engines:
        for scheme in filter(None, (engine.quantization, engine.convolutions)):
            _check_quantizer(f"profile {profile.name}", engine.backend, scheme)


def _check_backends(profile: DeviceProfile) -> None:
    for engine in profile.engines:
        if engine.backend not in SUFFIXES:
            raise InputError(
                f"profile {profile.name}: nothing exports to engine {engine.backend!r}; "
                f"known are {', '.join(SUFFIXES)}"
            )
        if engine.compiler:
            _check_compiler(profile, engine)


def _check_compiler(profile: DeviceProfile, engine: Engine) -> None:
    where = f"profile {profile.name}: compiler {engine.compiler!r} of {engine.id}"
    if engine.compiler not in TARGETS:
        raise InputError(f"{where} is not known; known are {', '.join(TARGETS)}")
    formats = TARGETS[engine.compiler].formats
    ending = SUFFIXES[exported_as(engine.backend)]
    if ending not in formats:
        raise InputError(
            f"{where} takes {' or '.join(formats)} files, the engine's are {ending} files"
        )


def _check_quantizer(where: str, backend: str, quantization: str) -> None:
    try:
        if backend in BUILDERS:
            check_scheme(backend, quantization)
        else:
            quantizer_path(backend, quantization)
    except InputError as reason:
        raise InputError(f"{where}: {reason}") from None


def _check_quantizers(
    recipe: Recipe, config: QuantizeConfig, profiles: Sequence[DeviceProfile]
) -> None:
    for backend in config.recipes:
        if backend not in ENGINES:
            raise InputError(
                f"{recipe.where}: recipes names the engine {backend!r}, known are "
                f"{', '.join(ENGINES)}"
            )
    for profile in profiles:
        for engine in profile.engines:
            wanted = config.recipes.get(engine.backend)
            where = recipe.where if wanted else f"profile {profile.name}"
            _check_quantizer(where, engine.backend, wanted or engine.quantization)


def check_metric(recipe: Recipe) -> None:
    """The metric that the recipe names is there, and its task has what it needs.

    Raises:
        InputError: not so.
    """
    config = recipe.config(VerifyConfig)
    if config is None or not config.metric:
        return
    metric = find_metric(config.metric, base=recipe.path.parent)
    if metric.labelled and recipe.task == "embedding":
        raise InputError(
            f"{recipe.where}: metric {config.metric} needs labels, the task {recipe.task} has none"
        )


def check_continued(recipe: Recipe) -> None:
    """The recipe that this one goes on from trains an encoder of the same source and classes.

    Raises:
        InputError: it does not, or is itself faulty.
    """
    config = recipe.config(FinetuneConfig)
    if config is None or config.continue_from is None:
        return
    before = load_recipe(config.continue_from)
    named = f"{recipe.where}: continue_from names {config.continue_from}"
    earlier = before.config(FinetuneConfig)
    if earlier is None or earlier.continue_from is not None:
        raise InputError(f"{named}, which must fine-tune an encoder itself")
    if before.source.model != recipe.source.model:
        raise InputError(
            f"{named}, whose model is {before.source.model}, not {recipe.source.model}"
        )
    # Cheap next to training, and the only way to know the labels.
    classes = load_dataset(before.data, before.task).classes
    if load_dataset(recipe.data, recipe.task).classes != classes:
        raise InputError(f"{named}, whose labels are others; a head goes on with the same classes")


def check_output(out: Path) -> None:
    """The folder for results is there, made if need be, and can be written to.

    Raises:
        DeviceError: it cannot be.
    """
    probe = out / ".edge-convert"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as reason:
        raise DeviceError(f"output {out}: cannot be written to ({reason.strerror})") from None
