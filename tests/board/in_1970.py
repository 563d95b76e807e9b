"""A board without a clock: what it makes of signed metadata once it has seen newer."""

from __future__ import annotations

from tests.board import console
from tests.board.board import Board
from tests.board.moments import IDLE

UPDATES = "a board that boots in 1970 updates with metadata newer than what it has seen"
REFUSES = "in 1970, what expired before the newest it has seen is refused, and it serves on"
RECOVERS = "in 1970, metadata signed anew is followed again"


def cases(board: Board) -> list[tuple[str, list[str]]]:
    """(what, what was untrue) of each, on a board at rest, which is switched off before."""
    board.off()
    old = board.serves
    broken = [] if board.boot(in_1970=True) == old else [f"{old} does not answer"]
    if console.BOOTED_IN_1970 not in board.machine.said():
        broken.append("the board's clock does not say 1970")
    found = [(UPDATES, [*broken, *board.undisturbed()])]
    found.append((REFUSES, _refuses(board)))
    board.fleet.sign()
    found.append((RECOVERS, board.ended()))
    return found


def _refuses(board: Board) -> list[str]:
    old = board.serves
    board.fleet.events.clear()
    wanted = board.deploy(expired=True)

    def told() -> list[str]:
        events = list(board.fleet.events)
        return [event["text"] for event in events if event["kind"] == "metadata-refused"]

    (said, *_) = board.until("a word about what expired", told)
    broken = [] if "frozen or forgotten" in said else [f"it says {said!r}"]
    board.fleet.answers.clear()
    if board.fleet.who_serves(board.machine.check, 60.0) != old:
        broken.append(f"{old} does not answer")
    if console.stage(board.machine.said(), wanted.release.version) == IDLE:
        broken.append(f"{wanted.release.version} was installed")
    return broken
