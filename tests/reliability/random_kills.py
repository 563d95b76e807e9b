"""Both processes are killed at random, update after update, while a client keeps asking.

A supervisor that was killed is started again at once, as systemd would; a worker is the agent's own
business. Each update is disturbed one to three times, at moments spread over as long as an
undisturbed one takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

from tests.fakes.brokers import mosquitto
from tests.flows.world import Made
from tests.reliability.board import Board, asking
from tests.reliability.case import LEFT_OVER, Case, Kind, Setting

UPDATES = 200
BUNDLES = 3
"""One more than a device keeps: each update fetches, and removes what it does not keep."""


def killed_at_random(setting: Setting) -> Iterator[Case]:
    """One case for each update."""
    updates = UPDATES if setting.at_most is None else setting.at_most
    setting.expect(updates)
    random = Random(setting.seed)
    with mosquitto() as broker, Board(setting.folder, broker, "kills") as board:
        bundles = [board.sized(f"{n + 1}.0.0", 600_000) for n in range(BUNDLES)]
        board.begin(bundles[0])
        board.sign(*bundles[1:])
        begin_s = time.monotonic()
        board.ask(bundles[1])
        undisturbed = board.conclude("an undisturbed update, to measure its length")
        if undisturbed.broken:
            raise RuntimeError(str(undisturbed))
        lasts_s = time.monotonic() - begin_s
        with asking(board) as asker:
            for number in range(1, updates + 1):
                case = _update(board, bundles, f"update {number}", random, lasts_s)
                if asker.wrong:
                    wrong = f"another bundle answered: {asker.wrong[0]}"
                    case = Case(case.what, case.ending, (*case.broken, wrong), case.note)
                    asker.wrong.clear()
                yield case
                if board.before is None:
                    return
            setting.say(
                f"{sum(asker.answered.values())} requests answered, {asker.unanswered} met a "
                "supervisor or worker that had just been killed"
            )


def _update(board: Board, bundles: list[Made], what: str, random: Random, lasts_s: float) -> Case:
    assert board.before is not None
    board.ask(bundles[(bundles.index(board.before) + 1) % BUNDLES])
    broken: list[str] = []
    restarted = False
    moments = sorted(random.uniform(0, lasts_s) for _ in range(random.randint(1, 3)))
    before_s = 0.0
    for moment_s in moments:
        time.sleep(moment_s - before_s)
        before_s = moment_s
        victim = "supervisor"
        if random.random() < 0.5:
            broken += board.kill_supervisor()
            restarted = True
        else:
            victim = board.kill_child(random.randrange(8))
        what += f", {victim} killed after {moment_s:.2f} s"
    case = board.conclude(what, broken, restarted=restarted)
    if case.note == LEFT_OVER and not case.broken:
        spare = bundles[(bundles.index(board.before) + 1) % BUNDLES]
        left = tuple(board.swept(spare))
        case = Case(case.what, case.ending, left, case.note)
    return case


KINDS = (
    Kind(
        "random-kills",
        "SIGKILL of supervisor, worker or notary at random, one to three times an update",
        killed_at_random,
    ),
)
