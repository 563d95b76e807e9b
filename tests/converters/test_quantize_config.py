"""What a recipe may say of quantization, and what it is told when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converters.quantize import QUANTIZERS, quantizer
from converters.quantize.config import Options, QuantizeConfig, parse_quantize
from converters.quantize.scheme import assign, parse_scheme
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields

NAMES = ("embeddings.word_embeddings", "encoder.layer.0.output.dense", "encoder.layer.1.output")


def parsed(table: dict[str, Any]) -> QuantizeConfig:
    faults: list[str] = []
    f = Fields(table, "pass", InputError, faults)
    config = parse_quantize(f, Path())
    f.done()
    return config


def test_nothing_said_is_the_profile_s_scheme() -> None:
    options = parsed({}).options("onnxruntime", "smooth_dynamic_w8_channel")
    assert (options.scheme, options.smooth) == ("dynamic_w8_channel", "search")
    assert options.precision == "smooth_dynamic_w8_channel"


def test_options_of_one_engine_leave_the_other_alone() -> None:
    config = parsed({"onnxruntime": {
        "scheme": "static_w8a8_channel", "calibration": "percentile", "percentile": 99.9,
        "smooth": 0.6, "rounding": "gptq", "rows": 64, "layers": {"encoder.layer.0.*": "float"},
    }})  # fmt: skip
    found = config.options("onnxruntime", "dynamic_w8_channel")
    assert (found.calibration, found.percentile, found.smooth) == ("percentile", 99.9, 0.6)
    assert found.precision == "smooth_static_w8a8_channel_gptq_mixed"
    assert config.options("litert", "dynamic_w8_channel") == Options("dynamic_w8_channel")
    assert config.recipes == {"onnxruntime": "static_w8a8_channel"}


def test_schemes_by_engine_can_be_named_in_short() -> None:
    config = parsed({"recipes": {"litert": "dynamic_w4_channel"}})
    assert config.options("litert", "x").scheme == "dynamic_w4_channel"


def test_every_fault_is_told_in_one_go() -> None:
    with pytest.raises(InputError) as caught:
        parsed({
            "onnxruntime": {"scheme": "static_w9", "calibration": "guess", "smooth": "much",
                            "layers": {"a": "w1", "b": "float"}, "colour": 1},
            "litert": {"smooth": 0.5},
        })  # fmt: skip
    told = str(caught.value)
    for words in ("'static_w9' is not known", "'guess'", "'much'", "'w1' is not known", "colour",
                  "smooth and rounding are for onnxruntime"):  # fmt: skip
        assert words in told


def test_everything_that_shapes_the_file_is_in_the_key() -> None:
    base = Options("static_w8a8_channel")
    others = [
        Options("static_w8a8_channel", calibration="mse"),
        Options("static_w8a8_channel", percentile=99.0),
        Options("static_w8a8_channel", smooth=0.5),
        Options("static_w8a8_channel", rounding="gptq"),
        Options("static_w8a8_channel", rows=8),
        Options("static_w8a8_channel", layers={"a*": "float", "b*": "float"}),
        Options("static_w8a8_channel", layers={"b*": "float", "a*": "float"}),
    ]
    keys = [str(one.key()) for one in (base, *others)]
    assert len(set(keys)) == len(keys)


def test_a_name_decodes() -> None:
    scheme = parse_scheme("static_c4a8_channel")
    assert (scheme.activations, scheme.kind, scheme.bits, scheme.width) == ("static", "c", 4, 8)
    assert parse_scheme("weight_w4_block32").block == 32
    for _, name in QUANTIZERS:
        assert parse_scheme(name).name == name
    with pytest.raises(InputError, match="'w2' is no scheme"):
        parse_scheme("w2")


def test_the_last_pattern_that_matches_counts() -> None:
    chosen = assign(
        NAMES, "dynamic_w8_channel", {"encoder.*": "float", "*.0.*": "weight_w8_channel"}
    )
    assert [one.name for one in chosen.values()] == [
        "dynamic_w8_channel", "weight_w8_channel", "float",
    ]  # fmt: skip


def test_patterns_that_match_nothing_are_all_named() -> None:
    with pytest.raises(InputError, match=r"'x\*', 'y' match no layer; layers are embeddings"):
        assign(NAMES, "float", {"x*": "float", "encoder.*": "float", "y": "float"})


def test_an_engine_refuses_the_schemes_of_another() -> None:
    with pytest.raises(InputError, match="'dynamic_c4_channel' is not known for engine litert"):
        quantizer("litert", "dynamic_c4_channel")
