"""Vibration of a pump with a rolling bearing, simulated: a second of an accelerometer at 12 kHz.

A healthy machine is its shaft's harmonics, its vanes, and noise through the housing's resonances.
A defect in the bearing is a train of blows at the rate that the geometry gives, each ringing a
resonance, slipping a little, and as strong as the load where it happens.

Sources: McFadden and Smith, "Model for the vibration produced by a single point defect in a rolling
element bearing" (Journal of Sound and Vibration 96, 1984); Antoni and Randall, "A stochastic model
for simulation and diagnostics of rolling element bearings with localised faults" (Journal of
Vibration and Acoustics 125, 2003) for the slip; geometry of a 6205 bearing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE = 12_000
COUNT = RATE
"""Samples of a record: one second."""
BALLS, BALL_MM, PITCH_MM = 9, 7.94, 39.04
RATIO = BALL_MM / PITCH_MM
CAGE = (1 - RATIO) / 2
OUTER = BALLS * CAGE
INNER = BALLS * (1 + RATIO) / 2
BALL = (1 - RATIO**2) / RATIO
"""Blows for each turn of the shaft; a ball strikes both rings in each of its own turns."""
SLIP = 0.015
"""Standard deviation of the time between blows, of that time."""
VANES = 7
NORMAL = "normal"
FAULTS = ("outer-race", "inner-race", "ball", "unbalance", "looseness", "misalignment",
          "lubrication", "cavitation")  # fmt: skip
Signal = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Machine:
    """One of a series: no two are alike. Frequencies in Hz, amplitudes in g."""

    name: str
    resonances_hz: tuple[float, float, float]
    damping: tuple[float, float, float]
    gains: tuple[float, float, float]
    harmonics: tuple[float, ...]
    vanes: float
    floor: float

    @classmethod
    def draw(cls, name: str, random: np.random.Generator) -> Machine:
        """A machine as manufacturing spreads them."""
        spread = random.normal(size=12)
        return cls(
            name=name,
            resonances_hz=(
                850 * (1 + 0.02 * spread[0]),
                2_900 * (1 + 0.02 * spread[1]),
                4_400 * (1 + 0.02 * spread[2]),
            ),
            damping=(
                0.05 * np.exp(0.1 * spread[3]),
                0.03 * np.exp(0.1 * spread[4]),
                0.04 * np.exp(0.1 * spread[5]),
            ),
            gains=(
                0.6 * np.exp(0.1 * spread[6]),
                1.0 * np.exp(0.1 * spread[7]),
                0.7 * np.exp(0.1 * spread[8]),
            ),
            harmonics=(
                0.10 * np.exp(0.2 * spread[9]),
                0.04 * np.exp(0.2 * spread[10]),
                0.02 * np.exp(0.2 * spread[11]),
            ),
            vanes=0.05 * float(np.exp(0.2 * random.normal())),
            floor=0.03 * float(np.exp(0.05 * random.normal())),
        )


def record(
    machine: Machine, fault: str, severity: float, random: np.random.Generator
) -> tuple[Signal, float]:
    """One second of acceleration in g, (12000,), and the shaft's speed in Hz.

    `severity` is 0 to 1, from what an expert would just find to what anybody hears.
    """
    speed_hz = random.uniform(23, 30)
    load = random.uniform(0.6, 1.0)
    time_s = np.arange(COUNT) / RATE
    # The speed drifts within the record, a little.
    turns = speed_hz * time_s + 0.002 * speed_hz * np.sin(2 * np.pi * (time_s + random.random()))
    strength = 2.0 ** (4.0 * severity - 1.5)  # 0.35 to 5.7
    shaft = dict(enumerate(machine.harmonics, start=1))
    if fault == "unbalance":
        shaft[1] *= 1 + 2 * strength
    elif fault == "misalignment":
        shaft[2] *= 1 + 3 * strength
        shaft[3] *= 1 + 1.5 * strength
    tones: list[tuple[float, float]] = [(order, size * load) for order, size in shaft.items()]
    tones.append((VANES, machine.vanes * load))
    if fault == "looseness":
        tones += [(order / 2, 0.012 * strength) for order in range(1, 16)]
    made = np.zeros(COUNT)
    for order, size in tones:
        made += size * np.sin(2 * np.pi * (order * turns + random.random()))
    floor = machine.floor * load * float(np.exp(0.05 * random.normal()))
    excitation = random.normal(0, floor, COUNT)
    if fault == "lubrication":
        # Dry contact sounds high: a difference of neighbours.
        excitation += 0.5 * strength * np.diff(random.normal(0, floor, COUNT + 1))
    elif fault == "cavitation":
        bursts = random.random(COUNT) < 0.01
        excitation += bursts * random.normal(0, 6 * floor * strength, COUNT)
    elif fault in ("outer-race", "inner-race", "ball"):
        excitation += blows(fault, speed_hz, random) * 12 * floor * strength
    for frequency, damping, gain in zip(
        machine.resonances_hz, machine.damping, machine.gains, strict=True
    ):
        made += gain * ringing(excitation, frequency, damping)
    made += random.normal(0, 0.2 * floor, COUNT)
    return made, speed_hz


def blows(fault: str, speed_hz: float, random: np.random.Generator) -> Signal:
    """A blow at each pass of the defect, (12000,), as strong as the load there."""
    rate_hz = speed_hz * {"outer-race": OUTER, "inner-race": INNER, "ball": BALL}[fault]
    between_s = random.normal(1, SLIP, int(rate_hz * 1.2) + 2) / rate_hz
    at_s = np.cumsum(between_s) - between_s[0] * random.random()
    at_s = at_s[at_s < COUNT / RATE - 1 / RATE]
    # The outer ring's defect stays in the loaded zone; the others pass through it.
    passes_hz = {"outer-race": 0.0, "inner-race": speed_hz, "ball": speed_hz * CAGE}[fault]
    zone = 0.5 + 0.5 * np.cos(2 * np.pi * (passes_hz * at_s + random.random() * bool(passes_hz)))
    made = np.zeros(COUNT)
    np.add.at(made, (at_s * RATE).astype(np.int64), zone * random.normal(1, 0.1, len(at_s)))
    return made


def ringing(excitation: Signal, frequency_hz: float, damping: float) -> Signal:
    """`excitation` through one resonance, an exponentially dying sine."""
    time_s = np.arange(COUNT // 8) / RATE
    decay = np.exp(-2 * np.pi * damping * frequency_hz * time_s)
    answer = decay * np.sin(2 * np.pi * frequency_hz * time_s)
    size = COUNT + len(answer)
    out = np.fft.irfft(np.fft.rfft(excitation, size) * np.fft.rfft(answer, size), size)
    found: Signal = out[:COUNT]
    return found
