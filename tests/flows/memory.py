"""The world in memory: fake workers, the in-memory broker, a clock that a flow moves by waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.update.policy import Policy
from tests.fakes.fleet import TOPICS, Device, Fleet
from tests.flows.world import DEVICE, QUICK, Made, T, World

STEP_S = 0.25
LIMIT_S = 600.0


class MemoryWorld(World):
    """See `World`."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder)
        self.all: dict[str, Made] = {}
        self._never_passes: set[str] = set()
        self._device: Device | None = None
        super().__init__(folder, self.fleet.broker.link, TOPICS)

    @property
    def board(self) -> Device:
        """The device, once it was powered on."""
        assert self._device is not None
        return self._device

    def made(self, made: Made, passes: bool) -> None:
        self.all[made.digest] = made
        if not passes:
            self._never_passes.add(made.digest)

    def until(self, what: str, found: Callable[[], T]) -> T:
        end_s = self.fleet.now_s + LIMIT_S
        while self.fleet.now_s < end_s:
            self.fleet.settle()
            answer = found()
            if answer:
                return answer
            self.fleet.pass_time(STEP_S)
        raise AssertionError(f"{what}: not within {LIMIT_S:g} s, {self.reported}")

    def boot(self, policy: Policy = QUICK) -> None:
        self.reported = None
        if self._device is None:
            self._device = self.fleet.add(DEVICE, policy)
            self.mend()
        else:
            self._device.policy = policy
            self._device.boot()
        self.fleet.settle()

    def power_cut(self) -> None:
        self.board.power_cut()
        self.board.flaws.never_drain.clear()

    def crash(self) -> None:
        self.board.crash()

    def serves(self) -> Made | None:
        serving = self.board.serving if self.board.alive else None
        return self.all[serving] if serving else None

    @contextmanager
    def asking(self) -> Iterator[_Asking]:
        yield _Asking(self.fleet, self.board)

    def workers_started(self) -> int:
        calls = self.board.host.calls
        return calls.count("start_active") + calls.count("start_candidate")

    def received_bytes(self) -> int:
        return self.fleet.broker.delivered_bytes[DEVICE]

    def make_unfit(self, made: Made) -> None:
        self.board.flaws.fail.add(made.digest)

    def mend(self) -> None:
        self.board.flaws.fail = set(self._never_passes)

    def hold_swap(self, made: Made) -> None:
        self.board.flaws.never_drain.add(made.digest)

    def go_offline(self) -> None:
        self.fleet.broker.cut_off(DEVICE)
        self.fleet.settle()

    def go_online(self) -> None:
        self.fleet.broker.reach(DEVICE)

    def stop_broker(self) -> None:
        self.fleet.broker.go_offline()
        self.fleet.pass_time(3600.0)

    def start_broker(self) -> None:
        self.fleet.broker.go_online(forget_retained=True)


class _Asking:
    """Asks whenever what serves has changed, and once in every second."""

    def __init__(self, fleet: Fleet, device: Device) -> None:
        self._fleet = fleet
        self._began_s = fleet.now_s
        self._host = device.host
        self._serves = device.serving is not None
        self._before = len(device.host.served)

    @property
    def sent(self) -> int:
        return 1 + int(self._fleet.now_s - self._began_s) + len(self._since())

    @property
    def failures(self) -> list[str]:
        gaps = self._since().count(None) + (not self._serves)
        return ["nothing served"] * gaps

    def _since(self) -> list[str | None]:
        return self._host.served[self._before :]
