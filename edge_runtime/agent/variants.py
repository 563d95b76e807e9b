"""Which variant of a bundle serves, which were passed over and why, and when to try those again.

Bookkeeping only: processes are `workers`' business, and time is given. A variant is passed over for
as long as this process lives, or until a proof of it passes; the preferred ones are proved again
after waits that grow, and at once where a driver has changed. Of every bundle that served lately so
much is kept that going back to it does not mean to wait for the same hang once more.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edge_runtime.agent.config import WorkerConfig
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import Ready, SelfTestReport
from edge_runtime.text import plain
from edge_runtime.update.policy import backoff_s

MAX_BUNDLES = 4
MAX_DEGRADED = 1000
MAX_REASON = 300

Tell = Callable[[str, str, Mapping[str, Json]], None]
"""Kind, text and details of an event, for the fleet."""


@dataclass(frozen=True, slots=True)
class _Against:
    """Why a variant is passed over: a fault of `messages.worker.FAULTS`, and a sentence."""

    fault: str
    reason: str
    requested: str


@dataclass(slots=True)
class _Bundle:
    """What is known of one bundle. `serving` is what served last, "" where nothing has."""

    fitting: tuple[str, ...] = ()
    serving: str = ""
    accelerated: bool = False
    against: dict[str, _Against] = field(default_factory=dict)
    crashes: deque[float] = field(default_factory=deque)
    since_s: float = 0.0
    tries: int = 0
    due_s: float | None = None
    all_again: bool = False

    @property
    def rank(self) -> int:
        """Of what serves; 0 is the best there is."""
        return self.fitting.index(self.serving) if self.serving in self.fitting else 0


class Variants:
    """Of one supervisor.

    Args:
        tell: hears `variant-refused`, `accelerator-lost` and `accelerator-recovered`.
    """

    def __init__(self, config: WorkerConfig, tell: Tell, jitter: Callable[[], float]) -> None:
        self._config = config
        self._tell = tell
        self._jitter = jitter
        self._bundles: dict[str, _Bundle] = {}

    def _of(self, digest: str) -> _Bundle:
        """What is known of that bundle, the latest asked for last."""
        known = self._bundles.pop(digest, None) or _Bundle()
        self._bundles[digest] = known
        while len(self._bundles) > MAX_BUNDLES:
            del self._bundles[next(iter(self._bundles))]
        return known

    def to_try(self, digest: str) -> tuple[str, ...]:
        """Variants that a worker should try when it starts; all where there are none."""
        known = self._of(digest)
        kept = tuple(v for v in known.fitting if v not in known.against)
        return () if kept == known.fitting else kept

    def tried(self, digest: str, report: SelfTestReport) -> None:
        """A proof has ended. A refusal is told once, until it passes or fails otherwise."""
        if report.passed:
            return
        before = self._of(digest).against.get(report.variant)
        self._pass_over(digest, report.variant, report.fault, report.reason,
                        report.accelerator.requested)  # fmt: skip
        if before is None or before.fault != report.fault:
            text = plain(f"{report.variant}: {report.reason}", MAX_DEGRADED)
            self._tell("variant-refused", text, details(report))

    def died_loading(self, digest: str, report: SelfTestReport, how: str) -> None:
        """A variant passed its proof, and ended the worker that loaded it."""
        reason = f"passed its proof, then ended the worker: {how}"
        self.tried(digest, dataclasses.replace(report, passed=False, fault="crash", reason=reason))

    def gave_up(self, digest: str) -> None:
        """No variant passed: next time all are tried."""
        self._of(digest).against.clear()

    def serves(self, digest: str, ready: Ready, now_s: float) -> None:
        """A worker that is `ready` has begun to serve."""
        report = next((r for r in ready.reports if r.passed), None)
        if report is None:
            return
        known = self._of(digest)
        before, was_accelerated, rank = known.serving, known.accelerated, known.rank
        known.fitting = ready.fitting or (report.variant,)
        known.serving, known.accelerated = report.variant, ready.accelerated
        known.against.pop(report.variant, None)
        for variant in list(known.against):
            if variant not in known.fitting:
                del known.against[variant]
        known.all_again = False
        if report.variant != before:
            known.crashes.clear()
            known.since_s = now_s
        self._plan(known, now_s)
        if before and known.rank > rank and was_accelerated:
            self._say("accelerator-lost", before, known, report)
        elif before and known.rank < rank and known.accelerated:
            self._say("accelerator-recovered", before, known, report)

    def _say(self, kind: str, before: str, known: _Bundle, report: SelfTestReport) -> None:
        why = known.against.get(before)
        text = f"{report.variant} serves instead of {before}"
        if kind == "accelerator-lost" and why is not None:
            text += f": {why.reason}"
        self._tell(kind, plain(text, MAX_DEGRADED), {"before": before} | details(report))

    def crashed(self, digest: str, how: str, now_s: float) -> bool:
        """The worker that served has crashed; True where another start of this bundle may help.

        Again with the same variant, or, once that was too often, with the next. False where it ran
        on the CPU or no other is left: then the bundle itself is to blame.
        """
        known = self._of(digest)
        later = known.fitting[known.rank + 1 :]
        if not known.accelerated or not later:
            return False
        window_s = self._config.crash_window_s
        known.crashes.append(now_s)
        while known.crashes and known.crashes[0] <= now_s - window_s:
            known.crashes.popleft()
        if len(known.crashes) > self._config.max_crashes:
            reason = f"crashed {len(known.crashes)} times within {window_s:g} s, the last: {how}"
            known.crashes.clear()
            # A proof may pass again, and the same happen: each time it is left alone for longer.
            stable = now_s - known.since_s >= self._config.recheck_max_s
            known.tries = 0 if stable else known.tries + 1
            self._pass_over(digest, known.serving, "crash", reason, "")
        return True

    def _pass_over(
        self, digest: str, variant: str, fault: str, reason: str, requested: str
    ) -> None:
        known = self._of(digest)
        before = known.against.get(variant)
        requested = requested or (before.requested if before else "")
        known.against[variant] = _Against(fault, plain(reason, MAX_REASON), requested)

    # Trying again.

    def changed(self, digest: str, now_s: float) -> None:
        """A driver is another: what was proved on the old one, or failed there, says little."""
        known = self._of(digest)
        known.tries = 0
        if known.accelerated or known.rank:
            known.due_s, known.all_again = now_s, known.accelerated

    def due_s(self, digest: str) -> float | None:
        """When the preferred variants of this bundle are to be proved again."""
        return self._of(digest).due_s

    def again(self, digest: str) -> tuple[str, ...]:
        """What to prove beside the one that serves: all better ones; and after a change all."""
        known = self._of(digest)
        known.due_s = None
        return known.fitting if known.all_again else known.fitting[: known.rank]

    def not_better(self, digest: str, now_s: float) -> None:
        """None of those passed, or nobody could try."""
        known = self._of(digest)
        known.all_again = False
        known.tries += 1
        self._plan(known, now_s)

    def put_off(self, digest: str, now_s: float) -> None:
        """There was something more important to do."""
        known = self._of(digest)
        known.due_s = now_s + self._config.recheck_s

    def _plan(self, known: _Bundle, now_s: float) -> None:
        c = self._config
        wait_s = backoff_s(c.recheck_s, c.recheck_max_s, known.tries, self._jitter())
        known.due_s = now_s + wait_s if known.rank else None

    # The truth.

    def truth(self, digest: str, found: Accelerator) -> Accelerator:
        """`found` with what was wanted before it, and why that does not run."""
        known = self._of(digest)
        passed = [(v, known.against.get(v)) for v in known.fitting[: known.rank]]
        if not passed:
            return found
        reasons = "; ".join(
            f"{variant}: {against.reason if against else 'not tried'}"
            for variant, against in passed
        )
        first = passed[0][1]
        return dataclasses.replace(
            found,
            requested=first.requested if first and first.requested else found.requested,
            degraded=plain(reasons, MAX_DEGRADED),
        )


def details(report: SelfTestReport) -> dict[str, Json]:
    """The numbers of a report, for an event."""
    return {
        "variant": report.variant,
        "fault": report.fault,
        "metric": report.metric,
        "value": report.value,
        "floor": report.floor,
        "cases": report.cases,
        "share": report.share,
        "share_floor": report.share_floor,
        "off": list(report.off),
        "latency_p95_ms": round(report.latency_p95_ms, 3),
        "rss_bytes": report.rss_bytes,
        "growth_bytes": report.growth_bytes,
        "took_s": round(report.took_s, 3),
        "requested": report.accelerator.requested,
        "actual": report.accelerator.actual,
    }
