"""ONNX files that others made are opened and answer as expected, or are refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.onnx_models import judge, models, name_of, page

CANNOT = {
    "simple/test_gradient_of_add": "Gradient",
    "simple/test_gradient_of_add_and_mul": "Gradient",
    "simple/test_sequence_model7": "tensor(double)",
    **dict.fromkeys(
        (f"pytorch-converted/test_PReLU_{n}d_multiparam" for n in (1, 2, 3)), "PRelu"
    ),
    **dict.fromkeys(
        (
            f"pytorch-operator/test_operator_{name}"
            for name in ("add_broadcast", "add_size1_broadcast", "add_size1_right_broadcast",
                         "add_size1_singleton_broadcast", "addconstant")
        ),
        "tensor(double)",
    ),
}  # fmt: skip
"""What no engine on a device runs."""


@pytest.mark.parametrize(
    "path", [one for one in models() if not name_of(one).startswith("light")], ids=name_of
)
def test_a_model_of_the_onnx_package_answers_as_it_should(path: Path) -> None:
    found = judge(path, quantize=False)
    refused = found.name in CANNOT or "strnorm" in found.name  # strings are no numbers
    assert found.state == ("refused" if refused else "same"), (found.told, found.error)
    if refused:
        assert "\n" not in found.told
        assert found.told.startswith("model ")
        assert CANNOT.get(found.name, "") in found.told


def test_a_networks_answers_survive_quantization_and_the_page_says_so() -> None:
    (path,) = (one for one in models() if one.stem == "light_squeezenet")
    found = judge(path)
    assert found.state == "same"
    assert float(found.quantized) > 0.9
    assert "1 models: 1 same. 1 have something to quantize" in page([found])
