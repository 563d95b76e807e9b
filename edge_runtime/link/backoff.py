"""How long to wait before connecting again: exponential, capped, with full jitter.

Full jitter (a uniform draw from zero to the ceiling) spreads a whole fleet that lost its broker
in the same instant; a fixed or narrowly spread delay would bring it back in waves.
"""

from __future__ import annotations

import random


class Backoff:
    """Delays for one connection that keeps failing.

    A connection counts as good only once it has lasted `stable_s`: a broker that accepts and
    closes at once, or two clients that throw each other out, must not be hammered.
    """

    def __init__(
        self,
        *,
        base_s: float = 1.0,
        cap_s: float = 60.0,
        stable_s: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._stable_s = stable_s
        # Seeded by the operating system: devices started from one image must differ.
        self._rng = rng or random.SystemRandom()
        self._ceiling_s = base_s

    def next_s(self) -> float:
        """Seconds to wait now, 0..ceiling; the ceiling doubles up to the cap."""
        delay_s = self._rng.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._ceiling_s * 2, self._cap_s)
        return delay_s

    def lasted(self, seconds: float) -> None:
        """Tell that a connection ended after `seconds`; a stable one starts the delays afresh."""
        if seconds >= self._stable_s:
            self._ceiling_s = self._base_s
