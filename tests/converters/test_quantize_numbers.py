"""Ranges from streams, grids, codebooks and rounding: the arithmetic under every scheme."""

from __future__ import annotations

import numpy as np
import pytest

from converters.quantize.observers import BINS, RANGES, Observer, affine
from converters.quantize.rounding import gptq
from converters.quantize.scheme import parse_scheme
from converters.quantize.weights import grid_of, kmeans, pack_nibbles


def seen(*values: np.ndarray) -> Observer:
    observer = Observer()
    for one in values:
        observer.see(one.astype(np.float32))
    return observer


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def test_a_stream_of_any_shapes_is_one_distribution() -> None:
    values = normal(6000)
    parts = seen(values[:7].reshape(1, 7), values[7:1007].reshape(10, 100), values[1007:])
    assert parts.counts.sum() == 6000
    assert (parts.low, parts.high) == pytest.approx((values.min(), values.max()))
    share = np.cumsum(parts.counts) / 6000
    median = parts.centres[np.searchsorted(share, 0.5)]
    assert median == pytest.approx(np.median(values), abs=0.01)


def test_a_histogram_that_grows_keeps_its_size_and_loses_no_value() -> None:
    observer = seen(normal(1000), 1000 * normal(10, 1), normal(1000, 2))
    assert observer.counts.shape == (BINS,)
    assert observer.counts.sum() == 2010
    inside = np.abs(observer.centres) < 5
    assert observer.counts[inside].sum() >= 2000


def test_mask_constants_are_not_counted() -> None:
    observer = seen(np.array([-3.4e38, -1.0, 2.0, -np.inf]))
    assert (observer.low, observer.high) == (-1.0, 2.0)


@pytest.mark.parametrize("calibration", ["percentile", "mse", "entropy"])
def test_an_outlier_does_not_take_the_whole_range(calibration: str) -> None:
    observer = seen(normal(100_000), np.array([60.0]))
    low, high = RANGES[calibration](observer, 16, 99.9)
    assert RANGES["minmax"](observer, 16, 99.9)[1] == 60
    assert 2.5 < high < 40
    assert low >= observer.low


def test_percentile_keeps_what_it_says() -> None:
    values = normal(200_000)
    low, high = RANGES["percentile"](seen(values), 256, 99.0)
    assert np.mean((values < low) | (values > high)) == pytest.approx(0.01, abs=0.002)


def test_mse_has_the_least_error_of_all_calibrations() -> None:
    values = np.concatenate([normal(20_000), 4 * normal(200, 1)])
    observer = seen(values)

    def error(calibration: str) -> float:
        scale, zero = affine(*RANGES[calibration](observer, 16, 99.99), 16)
        q = np.clip(np.rint(values / scale) + zero, 0, 15)
        return float(((q - zero) * scale - values).std())

    assert error("mse") == min(map(error, RANGES))
    assert error("mse") < 0.9 * error("minmax")


def test_a_range_always_holds_zero_exactly() -> None:
    for low, high in ((3.0, 5.0), (-5.0, -3.0), (-1.0, 2.0), (0.0, 0.0)):
        scale, zero = affine(low, high, 256)
        assert scale > 0
        assert 0 <= zero <= 255
        assert (zero - zero) * scale == 0


@pytest.mark.parametrize(
    ("scheme", "most"),
    [("dynamic_w8_channel", 0.008), ("dynamic_w8_tensor", 0.02), ("weight_w4_block32", 0.12),
     ("dynamic_c4_channel", 0.13), ("weight_c8_channel", 0.0065)],
)  # fmt: skip
def test_a_grid_is_close_to_its_weight(scheme: str, most: float) -> None:
    weight = normal(96 * 40).reshape(96, 40).astype(np.float32) * np.linspace(0.5, 1, 40)
    grid = grid_of(weight.astype(np.float32), parse_scheme(scheme))
    decoded = grid.values(grid.all_indices(weight.astype(np.float32)))
    assert np.linalg.norm(decoded - weight) / np.linalg.norm(weight) < most


def test_an_empty_channel_stays_zero() -> None:
    weight = normal(64).reshape(32, 2).astype(np.float32)
    weight[:, 1] = 0
    grid = grid_of(weight, parse_scheme("dynamic_w8_channel"))
    assert not grid.values(grid.all_indices(weight))[:, 1].any()


def test_a_codebook_beats_a_uniform_grid_of_as_many_bits() -> None:
    weight = np.random.default_rng(1).laplace(size=(256, 32)).astype(np.float32)

    def error(scheme: str) -> float:
        grid = grid_of(weight, parse_scheme(scheme))
        return float(((grid.values(grid.all_indices(weight)) - weight) ** 2).mean())

    assert error("dynamic_c4_channel") < 0.6 * error("dynamic_w4_channel")


def test_kmeans_finds_values_that_are_there() -> None:
    values = np.repeat(np.array([-90.0, -3.0, 0.0, 50.0], np.float32), [5, 500, 900, 20])
    found = kmeans(values, 4, 127)
    assert found == pytest.approx([-90, -3, 0, 50], abs=0.1)
    assert np.array_equal(kmeans(values, 4, 127), found), "the same again"


def test_nibbles_hold_two_indices_a_byte() -> None:
    indices = np.arange(32).reshape(2, 16) % 16
    packed = pack_nibbles(indices)
    assert packed.shape == (2, 8)
    assert np.array_equal(np.concatenate([packed % 16, packed // 16], axis=1), indices)
    with pytest.raises(RuntimeError, match="3 columns"):
        pack_nibbles(indices[:, :3])


@pytest.mark.parametrize("scheme", ["weight_w4_block32", "dynamic_c4_channel"])
def test_gptq_loses_less_of_the_output_than_nearest(scheme: str) -> None:
    random = np.random.default_rng(3)
    mixing = random.normal(size=(96, 96))
    inputs = (random.normal(size=(500, 96)) @ mixing).astype(np.float32)  # correlated channels
    weight = random.normal(size=(96, 20)).astype(np.float32)
    grid = grid_of(weight, parse_scheme(scheme))

    def error(indices: np.ndarray) -> float:
        return float(np.linalg.norm(inputs @ (grid.values(indices) - weight)))

    assert error(gptq(weight, inputs.T @ inputs, grid)) < 0.7 * error(grid.all_indices(weight))


def test_gptq_survives_channels_that_never_fire() -> None:
    weight = normal(64).reshape(16, 4).astype(np.float32)
    grid = grid_of(weight, parse_scheme("dynamic_w8_channel"))
    found = gptq(weight, np.zeros((16, 16), np.float32), grid)
    assert np.abs(grid.values(found) - weight).max() < 0.02
