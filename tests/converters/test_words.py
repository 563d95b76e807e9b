"""The line of a pass says what its figures are of, and nothing where there is nothing."""

from __future__ import annotations

from converters.words import quantize


def test_calibration_is_of_rows_and_what_is_empty_is_not_told() -> None:
    figures = {
        "litert": {"calibration": "minmax", "calibration_texts": 256, "float_operators": []},
        "ort": {"mixed": ""},
        "left": {"float_operators": ["GELU x2", "MUL x1"]},
    }
    assert quantize(figures) == (
        "litert: calibration minmax, calibration rows 256; ort; left: float operators GELU x2, "
        "MUL x1"
    )


def test_smoothing_is_on_rows() -> None:
    smoothed = {"smoothing_alpha": 0.5, "smoothing_cosine_before": 0.9,
                "smoothing_cosine_after": 0.99, "calibration_texts": 8}  # fmt: skip
    assert quantize({"ort": smoothed}) == "ort: smoothed by 0.5 on 8 rows, cosine 0.9000 → 0.9900"
