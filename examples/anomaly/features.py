"""A second of vibration as a row of 128 numbers, as a condition monitor computes them.

24 are the spectrum at multiples of half the shaft's speed, where shaft and vanes show; 40 are the
spectrum above in bands that widen with frequency; 64 are the spectrum of the envelope by orders,
multiples of the speed, where a bearing's defects show. All are in dB.

Source: Randall and Antoni, "Rolling element bearing diagnostics: a tutorial" (2011).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from examples.anomaly.machine import COUNT, RATE, Signal

HALVES, BANDS, ORDERS = 24, 40, 64
LOWEST_HZ, HIGHEST_HZ = 350.0, 5_900.0
MOST_ORDERS = 16.0
CARRIER_HZ = (2_000.0, 5_500.0)
"""The envelope is that of this band, where blows ring."""
FLOOR = 1e-12
Numbers: TypeAlias = NDArray[np.floating[Any]]
NAMES = tuple(
    [f"half_{at:02}" for at in range(HALVES)]
    + [f"band_{at:02}" for at in range(BANDS)]
    + [f"envelope_{at:02}" for at in range(ORDERS)]
)


def row_of(signal: Signal, speed_hz: float) -> Signal:
    """(12000,) in g and the speed in Hz to (128,) in dB, in the order of `NAMES`."""
    taper = np.hanning(COUNT)
    power = np.square(np.abs(np.fft.rfft(signal * taper))) / np.square(taper.sum())
    lines_hz = np.fft.rfftfreq(COUNT, 1 / RATE)
    middles = 0.25 + 0.5 * np.arange(HALVES + 1)
    halves = _sums(lines_hz / speed_hz, power, middles)
    bands = _sums(lines_hz, power, np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS + 1))
    envelope = _envelope(signal)
    slow = np.square(np.abs(np.fft.rfft((envelope - envelope.mean()) * taper)))
    slow /= np.square(taper.sum()) * np.square(envelope.mean())
    orders = _sums(lines_hz / speed_hz, slow, np.linspace(0.1, MOST_ORDERS, ORDERS + 1))
    found: Signal = 10 * np.log10(np.concatenate([halves, bands, orders]) + FLOOR)
    return found


def _envelope(signal: Signal) -> Signal:
    """Magnitude of the analytic signal of the carrier's band."""
    spectrum = np.fft.fft(signal)
    lines_hz = np.fft.fftfreq(COUNT, 1 / RATE)
    kept = (lines_hz >= CARRIER_HZ[0]) & (lines_hz <= CARRIER_HZ[1])
    found: Signal = np.abs(np.fft.ifft(np.where(kept, 2 * spectrum, 0)))
    return found


def _sums(at: Numbers, power: Numbers, edges: Numbers) -> Signal:
    """Power of the lines between neighbouring edges."""
    totals = np.concatenate([[0.0], np.cumsum(power)])
    places = np.searchsorted(at, edges)
    found: Signal = totals[places[1:]] - totals[places[:-1]]
    return found
