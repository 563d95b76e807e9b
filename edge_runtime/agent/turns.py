"""Whom to trust is asked by two: for the bundle and for the agent itself. One after the other.

There is one folder of trusted metadata and one notary at a time. A question that comes while
another one's answer is waited for waits too; called off, it leaves the line.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.agent.trust import OnAnswer, Trust
from edge_runtime.errors import EdgeError
from edge_runtime.messages.fleet import Release


class Turn:
    """One asker's way to `trust`.

    Args:
        on_answer: as for `Trust`.
        may: whether a question may be put now; where it may not, it is put once it may.
    """

    def __init__(
        self, turns: Turns, on_answer: OnAnswer, may: Callable[[], bool] = lambda: True
    ) -> None:
        self._turns = turns
        self.on_answer = on_answer
        self.may = may

    def authenticate(self, release: Release) -> None:
        """Ask; an earlier question of this asker is wanted no more."""
        self._turns.ask(self, release)

    def stop(self) -> None:
        """No answer is wanted any more."""
        self._turns.call_off(self)


class Turns:
    """Who asks now, and who waits."""

    def __init__(self) -> None:
        self.trust: Trust | None = None
        self._now: Turn | None = None
        self._waiting: dict[Turn, Release] = {}

    def ask(self, turn: Turn, release: Release) -> None:
        """Put the question, now or when it is its turn."""
        if self._now is turn:
            self._now = None
        self._waiting.pop(turn, None)
        self._waiting[turn] = release
        self.tick()

    def call_off(self, turn: Turn) -> None:
        """Whatever `turn` has asked."""
        self._waiting.pop(turn, None)
        if self._now is turn:
            self._now = None
            if self.trust is not None:
                self.trust.stop()
        self.tick()

    def answered(self, manifest_sha256: str, refusal: EdgeError | None) -> None:
        """`Trust` has an answer."""
        turn, self._now = self._now, None
        if turn is not None:
            turn.on_answer(manifest_sha256, refusal)
        self.tick()

    def tick(self) -> None:
        """Put the next question, if one waits and may be put."""
        if self._now is not None or self.trust is None:
            return
        for turn, release in self._waiting.items():
            if turn.may():
                del self._waiting[turn]
                self._now = turn
                self.trust.authenticate(release)
                return
