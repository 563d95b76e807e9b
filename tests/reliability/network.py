"""A bad network between device and broker: cut, reset, lossy, spoiling, silent, slow.

Every fault happens at an exact byte of the transfer of a bundle. Afterwards the network is well
again, unless it is only slow. A client of the device notices nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.fakes.brokers import BrokerProcess, mosquitto
from tests.fakes.proxy import Fault
from tests.reliability.board import Board, asking, with_client
from tests.reliability.case import Case, Kind, Setting

SIZE = 600_000
SHARES = (0.01, 0.1, 0.25, 0.4, 0.6, 0.8, 0.95)
SWEPT = (Fault.END, Fault.RESET, Fault.LOSE, Fault.SPOIL)
FIVE = (0.05, 0.25, 0.45, 0.65, 0.85)
SLOW_BYTES_S = 50_000


@dataclass(frozen=True, slots=True)
class Trouble:
    """Faults at shares of a transfer, or a network that is slow."""

    what: str
    fault: Fault | None = None
    shares: tuple[float, ...] = ()
    delay_s: float = 0.0
    rate_bytes_s: float = 0.0


TROUBLES = (
    *(Trouble(f"{f.value}, at {share:.0%}", f, (share,)) for f in SWEPT for share in SHARES),
    *(Trouble(f"{f.value}, five times over", f, FIVE) for f in SWEPT),
    *(Trouble(f"{Fault.SILENCE.value}, at {s:.0%}", Fault.SILENCE, (s,)) for s in (0.1, 0.6)),
    Trouble(
        f"{SLOW_BYTES_S // 1000} kB/s, and five resets",
        Fault.RESET,
        FIVE,
        rate_bytes_s=SLOW_BYTES_S,
    ),
    Trouble(f"{SLOW_BYTES_S // 1000} kB/s", rate_bytes_s=SLOW_BYTES_S),
    Trouble("every packet is 300 ms late", delay_s=0.3),
)


def troubled(setting: Setting) -> Iterator[Case]:
    """One case for each trouble."""
    chosen = setting.some(TROUBLES)
    setting.expect(len(chosen))
    with mosquitto() as broker, _board(setting, broker) as board:
        board.begin(board.sized("1.0.0", SIZE))
        with asking(board) as asker:
            for number, trouble in enumerate(chosen, start=2):
                board.restart()
                asker.forget()
                yield with_client(_update(board, f"{number}.0.0", trouble), asker)
                if board.before is None:
                    return


def _board(setting: Setting, broker: BrokerProcess) -> Board:
    # A chunk takes more than a second here, so it is given the time that it has by default.
    return Board(setting.folder, broker, "network", chunk_timeout_s=10.0, chunk_tries=6)


def _update(board: Board, version: str, trouble: Trouble) -> Case:
    made = board.sized(version, SIZE)
    assert board.before is not None
    size = sum(made.without(board.before).values())
    board.sign(made)
    proxy = board.proxy
    proxy.delay_s, proxy.rate_bytes_s = trouble.delay_s, trouble.rate_bytes_s
    happened = proxy.happened
    if trouble.fault is not None:
        proxy.arm(trouble.fault, *(int(share * size) for share in trouble.shares))
    board.ask(made)
    case = board.conclude(trouble.what)
    proxy.delay_s = proxy.rate_bytes_s = 0.0
    missing = len(trouble.shares) - (proxy.happened - happened)
    if missing:
        broken = (*case.broken, f"{missing} of {len(trouble.shares)} faults never happened")
        return Case(case.what, case.ending, broken, case.note)
    return case


KINDS = (
    Kind(
        "network",
        "The network cuts, resets, loses, spoils, falls silent, is slow; between device and broker",
        troubled,
    ),
)
