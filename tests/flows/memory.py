"""The world in memory: fake workers, the in-memory broker, a clock that a flow moves by waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.update.policy import Policy
from edge_runtime.update.trial import Health
from tests.fakes.fleet import TOPICS, Device, Fleet
from tests.fakes.tiny import TROUBLE
from tests.flows.world import DEVICE, QUICK, Made, T, World

STEP_S = 0.25
ASKED = 4
"""Requests of a client in a step."""
LIMIT_S = 600.0


class MemoryWorld(World):
    """See `World`."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder)
        self.all: dict[str, Made] = {}
        self._never_passes: set[str] = set()
        self._faults: dict[str, str] = {}
        self._clients: list[_Asking] = []
        self._counted: dict[str, Health] = {}
        self._device: Device | None = None
        super().__init__(folder, self.fleet.broker.link, TOPICS)

    @property
    def board(self) -> Device:
        """The device, once it was powered on."""
        assert self._device is not None
        return self._device

    def made(self, made: Made, passes: bool, fault: str) -> None:
        self.all[made.digest] = made
        self._faults[made.digest] = fault
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
            self._count()
        raise AssertionError(f"{what}: not within {LIMIT_S:g} s, {self.reported}")

    def _count(self) -> None:
        """What serves answers every client, or not, and says what it has counted."""
        if not self._clients or not self.board.alive or (digest := self.board.serving) is None:
            return
        before = self._counted.get(digest, Health())
        failed = sum(client.ask(self._faults[digest]) for client in self._clients)
        troubled = any(client.text == TROUBLE for client in self._clients)
        took_ms = 100.0 if troubled and self._faults[digest] == "slow" else 1.0
        requests = before.requests + ASKED * len(self._clients)
        self._counted[digest] = Health(requests, before.failed + failed, took_ms, took_ms)
        self.board.driver.served(digest, self._counted[digest], self.fleet.now_s)

    def boot(self, policy: Policy = QUICK) -> None:
        self.reported = None
        self._counted.clear()
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
    def asking(self, text: str = "mail server") -> Iterator[_Asking]:
        client = _Asking(self.board, text)
        self._clients.append(client)
        yield client
        self._clients.remove(client)

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
    """Asks whenever what serves has changed, and ASKED times in every step of time."""

    def __init__(self, device: Device, text: str) -> None:
        self.text = text
        self._asked = 0
        self._failed = 0
        self._host = device.host
        self._serves = device.serving is not None
        self._before = len(device.host.served)

    def ask(self, fault: str) -> int:
        """Of what has that fault; how many requests failed."""
        failed = ASKED if self.text == TROUBLE and fault == "fails" else 0
        self._asked += ASKED
        self._failed += failed
        return failed

    @property
    def sent(self) -> int:
        return 1 + self._asked + len(self._since())

    @property
    def failures(self) -> list[str]:
        gaps = self._since().count(None) + (not self._serves)
        return ["nothing served"] * gaps + ["the model refuses this input"] * self._failed

    def _since(self) -> list[str | None]:
        return self._host.served[self._before :]
