"""Counters and latency histograms that add up: over threads, workers, devices and hours.

A histogram has fixed buckets, each `BASE` times as wide as the one before, so that any two can be
merged by adding counts, and a percentile read from it is off by at most five percent. Only
buckets in use are kept and sent.
"""

from __future__ import annotations

import enum
import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_runtime.errors import UntrustedError
from edge_runtime.fields import Fields, Json

BASE = 1.1
"""Reading a bucket at its geometric middle errs by at most sqrt(1.1) - 1 = 4.9 %."""
MIN_MS = 1e-3
MAX_MS = 3.6e6
_LOG_BASE = math.log(BASE)
MIN_BUCKET = math.floor(math.log(MIN_MS) / _LOG_BASE)
MAX_BUCKET = math.floor(math.log(MAX_MS) / _LOG_BASE)


class Histogram:
    """Durations in milliseconds. Not thread-safe by itself."""

    __slots__ = ("_buckets", "_count", "_max_ms", "_min_ms", "_sum_ms")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._count = 0
        self._sum_ms = 0.0
        self._min_ms = math.inf
        self._max_ms = 0.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.as_json() == other.as_json()

    def __repr__(self) -> str:
        return f"Histogram(count={self._count}, mean_ms={self.mean_ms})"

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return self._count

    @property
    def mean_ms(self) -> float | None:
        """The exact mean; None where nothing was recorded."""
        return self._sum_ms / self._count if self._count else None

    @property
    def max_ms(self) -> float | None:
        """The exact maximum; None where nothing was recorded."""
        return self._max_ms if self._count else None

    def record(self, value_ms: float) -> None:
        """Add one duration; what lies outside MIN_MS..MAX_MS counts as the nearest of them.

        Raises:
            RuntimeError: not a number.
        """
        if math.isnan(value_ms):
            raise RuntimeError("a duration is NaN")
        value_ms = min(max(value_ms, MIN_MS), MAX_MS)
        self._buckets[math.floor(math.log(value_ms) / _LOG_BASE)] += 1
        self._count += 1
        self._sum_ms += value_ms
        self._min_ms = min(self._min_ms, value_ms)
        self._max_ms = max(self._max_ms, value_ms)

    def merge(self, other: Histogram) -> None:
        """Add everything that `other` has recorded."""
        self._buckets.update(other._buckets)
        self._count += other._count
        self._sum_ms += other._sum_ms
        self._min_ms = min(self._min_ms, other._min_ms)
        self._max_ms = max(self._max_ms, other._max_ms)

    def since(self, earlier: Histogram) -> Histogram:
        """What came after `earlier`, a former state of this one.

        Its minimum and maximum are those of everything, which bound what is asked for.
        """
        made = Histogram()
        made._buckets = self._buckets - earlier._buckets
        made._count = sum(made._buckets.values())
        if made._count:
            made._sum_ms = max(self._sum_ms - earlier._sum_ms, 0.0)
            made._min_ms, made._max_ms = self._min_ms, self._max_ms
        return made

    def copy(self) -> Histogram:
        """An independent histogram with the same content."""
        made = Histogram()
        made.merge(self)
        return made

    def percentile(self, percent: float) -> float | None:
        """The duration that `percent` (0..100) of all do not exceed, within 5 %; None if empty."""
        if not self._count:
            return None
        rank = max(1, math.ceil(self._count * percent / 100))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                break
        middle_ms = math.exp(_LOG_BASE * (bucket + 0.5))
        return min(max(middle_ms, self._min_ms), self._max_ms)

    def as_json(self) -> dict[str, Json]:
        """The object that `from_json` reads; a few bytes for each bucket in use."""
        return {
            "base": BASE,
            "sum_ms": round(self._sum_ms, 6),
            "min_ms": round(self._min_ms, 6) if self._count else 0.0,
            "max_ms": round(self._max_ms, 6),
            "buckets": [[bucket, self._buckets[bucket]] for bucket in sorted(self._buckets)],
        }

    @classmethod
    def from_json(cls, value: object, where: str = "histogram") -> Histogram:
        """From what another process or device has sent.

        Raises:
            UntrustedError: not a histogram, or one of another base.
        """
        f = Fields(value, where, UntrustedError)
        base = f.number("base")
        if base != BASE:
            raise UntrustedError(f"{where}: base is {base:g}, expected {BASE:g}")
        made = cls()
        for item in f.items("buckets", max_items=MAX_BUCKET - MIN_BUCKET + 1):
            bucket, count = _bucket(item, where)
            made._buckets[bucket] += count
        made._count = sum(made._buckets.values())
        made._sum_ms = f.number("sum_ms", low=0)
        if made._count:
            made._min_ms = f.number("min_ms", low=0, high=MAX_MS)
            made._max_ms = f.number("max_ms", low=made._min_ms, high=MAX_MS)
        return made


def _bucket(item: object, where: str) -> tuple[int, int]:
    if isinstance(item, (list, tuple)) and len(item) == 2:
        bucket, count = item
        if (
            type(bucket) is int
            and type(count) is int
            and MIN_BUCKET <= bucket <= MAX_BUCKET
            and 0 < count <= 2**53
        ):
            return bucket, count
    raise UntrustedError(
        f"{where}: a bucket must be [{MIN_BUCKET}..{MAX_BUCKET}, count], found {str(item)[:40]}"
    )


class Outcome(enum.Enum):
    """What became of a request."""

    ANSWERED = "answered"
    WRONG = "wrong"
    """Asked for what the model does not take: the client's to mend."""
    TURNED_AWAY = "turned away"
    """Too many were waiting."""
    FAILED = "failed"
    """The bundle was asked rightly and did not answer."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a worker has counted since it started; its histograms are no longer written to.

    `requests`, `latency` and `queue_wait` are of all requests, `errors` of those turned away or
    failed, `failed` of the latter alone. `work` is of those answered: how long each took, less the
    time that it waited for others, so that it says something of the bundle and not of the crowd.
    """

    requests: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)
    queue_wait: Histogram = field(default_factory=Histogram)
    failed: int = 0
    work: Histogram = field(default_factory=Histogram)

    def merged(self, other: Snapshot) -> Snapshot:
        """The sum of both."""
        return Snapshot(
            self.requests + other.requests,
            self.errors + other.errors,
            _merged(self.latency, other.latency),
            _merged(self.queue_wait, other.queue_wait),
            self.failed + other.failed,
            _merged(self.work, other.work),
        )

    @classmethod
    def from_json(
        cls,
        requests: int,
        errors: int,
        latency: Mapping[str, Json],
        queue_wait: Mapping[str, Json],
        failed: int,
        work: Mapping[str, Json],
    ) -> Snapshot:
        """From the fields of a heartbeat.

        Raises:
            UntrustedError: a histogram is malformed.
        """
        return cls(
            requests,
            errors,
            Histogram.from_json(latency, "latency"),
            Histogram.from_json(queue_wait, "queue_wait"),
            failed,
            Histogram.from_json(work, "work"),
        )


def _merged(one: Histogram, other: Histogram) -> Histogram:
    made = one.copy()
    made.merge(other)
    return made


class Metrics:
    """The worker's recorder; every thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._errors = 0
        self._latency = Histogram()
        self._queue_wait = Histogram()
        self._failed = 0
        self._work = Histogram()

    def record(
        self, *, latency_ms: float, queue_wait_ms: float, outcome: Outcome = Outcome.ANSWERED
    ) -> None:
        """One request; `queue_wait_ms` of its time it waited for others."""
        with self._lock:
            self._requests += 1
            self._errors += outcome in (Outcome.TURNED_AWAY, Outcome.FAILED)
            self._failed += outcome is Outcome.FAILED
            self._latency.record(latency_ms)
            self._queue_wait.record(queue_wait_ms)
            if outcome is Outcome.ANSWERED:
                self._work.record(latency_ms - queue_wait_ms)

    def snapshot(self) -> Snapshot:
        """Everything up to now."""
        with self._lock:
            return Snapshot(
                self._requests,
                self._errors,
                self._latency.copy(),
                self._queue_wait.copy(),
                self._failed,
                self._work.copy(),
            )
