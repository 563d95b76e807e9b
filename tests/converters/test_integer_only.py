"""Full-integer files: integers inside and at the border, floats for whoever feeds them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from converters.operators import float_operators
from converters.quantize import Quantized, quantizer
from converters.quantize.config import Options
from converters.quantize.litert_file import answers_litert
from edge_runtime.bundle.manifest import (
    UNKNOWN,
    Golden,
    Manifest,
    Needs,
    Placement,
    Provenance,
    TensorSpec,
    Tolerance,
    Variant,
)
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.inference.litert import LiteRtBackend, LiteRtSession
from tests.converters.nets import (
    IMAGE,
    FloatArray,
    Sample,
    accuracy,
    as_litert,
    calibration,
    held_out,
    litert_of,
)
from tests.converters.test_quantize_config import parsed

STATIC, WIDE = "static_w8a8_channel", "static_w8a16_channel"


def made(net: str, scheme: str = STATIC, **options: Any) -> Quantized:
    return quantizer("litert", Options(scheme, integer=True, **options))(
        litert_of(net), calibration()
    )


def manifest(dtype: str = "float32") -> Manifest:
    variant = Variant(
        "litert-cpu-integer", "litert", "model.tflite", STATIC, (), {}, (), Needs(), UNKNOWN,
        UNKNOWN, Placement("cpu", UNKNOWN), Tolerance("cosine", 0.9),
    )  # fmt: skip
    return Manifest(
        "digits", "1.0.0", "2026-01-02T03:04:05Z", "raw", "board", "0" * 64,
        (TensorSpec("image", dtype, ("batch", *IMAGE)),),
        (TensorSpec("answer", dtype, ("batch", 10)),), (), (), (variant,), Golden("golden", 1),
        None, (), Provenance("digits", "0" * 64, "CC0-1.0", "0" * 64, {}),
    )  # fmt: skip


def opened(model: bytes, dtype: str = "float32") -> LiteRtSession:
    said = manifest(dtype)
    return LiteRtBackend("ai-edge-litert").load(model, said, said.variants[0], None)


def answers(session: LiteRtSession) -> FloatArray:
    return np.concatenate([session.run({"image": one[None]})["answer"] for one in held_out()[0]])


@pytest.mark.parametrize("net", ["mobile", "residual", "dense", "transformer"])
def test_no_float_operator_is_left(net: str) -> None:
    found = made(net)
    assert found.notes["float_operators"] == []
    assert float_operators(found.model) == {}
    reference = answers_litert(litert_of(net), _images())
    assert accuracy(answers(opened(found.model))) > accuracy(reference) - 0.015


def test_the_notes_name_what_stays_float() -> None:
    """The quantizer has no integers of sixteen bits for the variance of a norm."""
    found = made("transformer", WIDE)
    assert found.notes["float_operators"] == [
        f"{name} x{count}" for name, count in float_operators(found.model).items()
    ]
    assert "SQUARED_DIFFERENCE x7" in found.notes["float_operators"]
    plain = quantizer("litert", Options(STATIC))(litert_of("mobile"), calibration())
    assert "float_operators" not in plain.notes


@pytest.mark.parametrize(("scheme", "dtype"), [(STATIC, np.int8), (WIDE, np.int16)])
def test_inputs_and_outputs_are_integers_in_the_file(scheme: str, dtype: Any) -> None:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=made("mobile", scheme).model).get_signature_runner()
    details = [*runner.get_input_details().values(), *runner.get_output_details().values()]
    assert [one["dtype"] for one in details] == [dtype, dtype]


@pytest.mark.parametrize("scheme", [STATIC, WIDE])
def test_a_session_is_fed_and_answers_in_float(scheme: str) -> None:
    session = opened(made("residual", scheme).model)
    assert [one.dtype for one in (*session.inputs, *session.outputs)] == ["float32", "float32"]
    found = answers(session)
    assert found.dtype == np.float32
    reference = answers_litert(litert_of("residual"), _images())
    assert np.linalg.norm(found - reference) / np.linalg.norm(reference) < 0.08
    session.close()
    with pytest.raises(RuntimeError, match="is closed"):
        session.run({"image": held_out()[0][:1]})


def test_what_is_outside_of_the_grid_becomes_its_end_and_nan_is_refused() -> None:
    session = opened(made("residual").model)
    image = held_out()[0][:1]
    far = session.run({"image": np.where(image > 0.5, np.float32(1e9), image)})["answer"]
    near = session.run({"image": np.where(image > 0.5, np.float32(1.0), image)})["answer"]
    assert np.isfinite(far).all()
    assert np.abs(far - near).max() < 1.5, "a pixel is no brighter than the brightest"
    with pytest.raises(InputError, match="input image: holds NaN, the model takes int8"):
        session.run({"image": np.full_like(image, np.nan)})


def test_a_manifest_that_says_integers_gets_them_raw() -> None:
    session = opened(made("residual").model, "int8")
    found = session.run({"image": np.zeros((1, *IMAGE), np.int8)})["answer"]
    assert found.dtype == np.int8
    assert [one.dtype for one in session.inputs] == ["int8"]


def test_a_manifest_that_says_integers_of_a_float_file_is_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"image is float32 in model.tflite, int8 in the"):
        opened(litert_of("residual"), "int8")


def test_integers_without_a_scale_are_not_taken_for_floats() -> None:
    """Token ids are integers that stand for themselves."""
    import torch

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(16, 4)

        def forward(self, ids: Any) -> Any:
            return self.table(ids)

    model = as_litert(Table(), np.zeros((1, 5), np.int32), name="ids")
    said = manifest()
    said = replace(
        said,
        inputs=(TensorSpec("ids", "float32", ("batch", 5)),),
        outputs=(TensorSpec("answer", "float32", ("batch", 5, 4)),),
    )
    with pytest.raises(
        IncompatibleError, match=r"ids is int32 in model.tflite, float32 in the man"
    ):
        LiteRtBackend("ai-edge-litert").load(model, said, said.variants[0], None)


def test_integer_needs_a_static_scheme_and_litert() -> None:
    with pytest.raises(InputError, match="integer needs a static scheme, such as static_w8a8_cha"):
        made("dense", "dynamic_w8_channel")
    with pytest.raises(InputError) as caught:
        parsed({"onnxruntime": {"integer": True},
                "litert": {"integer": True, "scheme": "weight_f16"}})  # fmt: skip
    assert "integer is for litert; leave it out" in str(caught.value)
    assert "integer needs a static scheme" in str(caught.value)


def test_a_recipe_can_ask_for_it() -> None:
    options = parsed({"litert": {"integer": True}}).options("litert", STATIC)
    assert (options.integer, options.precision) == (True, "static_w8a8_channel_integer")
    assert "integer" in options.key()
    assert "integer" not in Options(STATIC).key(), "keys of what is cached stay as they were"


def _images() -> tuple[Sample, ...]:
    return tuple(Sample({"image": one[None]}) for one in held_out()[0])
