"""The world of processes: a real agent, mosquitto, and a network in between that can be cut."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_runtime.link import BrokerConfig
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.topics import Topics
from edge_runtime.update.policy import Policy
from tests.fakes.agents import Agent, Client, texts_request, wait_for
from tests.fakes.brokers import ROOT, BrokerProcess
from tests.fakes.proxy import TcpProxy
from tests.flows.world import DEVICE, QUICK, Made, T, World

MODEL = "tiny"
PROFILE = (ROOT / "device_profiles" / "generic-x86_64.toml").read_text()
WAIT_S = 40.0
RECONNECT_S = 1.0


class ProcessWorld(World):
    """See `World`. Worlds that share a broker have prefixes of their own."""

    def __init__(self, folder: Path, broker: BrokerProcess, prefix: str) -> None:
        config = BrokerConfig.parse(broker.url)
        config = dataclasses.replace(config, backoff_base_s=0.1, backoff_cap_s=RECONNECT_S)
        super().__init__(folder, connector(config), Topics(prefix))
        self._broker = broker
        self._proxy = TcpProxy(broker.port)
        self._all: list[Made] = []
        self._agents: list[Agent] = []
        self._held: list[socket.socket] = []
        self._board = folder / "board.toml"
        self.stack.enter_context(self._proxy)
        self.stack.callback(self._check_logs)
        self.stack.callback(self.power_cut)

    @property
    def agent(self) -> Agent:
        """The agent since the last boot."""
        return self._agents[-1]

    def _check_logs(self) -> None:
        """Whatever happened, no code of ours fell over."""
        if self._agents:
            assert "Traceback" not in self.agent.log, self.agent.log

    def made(self, made: Made, passes: bool, fault: str) -> None:
        self._all.append(made)

    def until(self, what: str, found: Callable[[], T]) -> T:
        try:
            answer: T = wait_for(what, found, WAIT_S)
        except AssertionError as late:
            log = self.agent.log if self._agents else ""
            raise AssertionError(f"{late}, {self.reported}\n{log}") from None
        return answer

    def boot(self, policy: Policy = QUICK) -> None:
        if not self._agents:
            self.mend()
        self.reported = None
        update = [f"{name} = {value}" for name, value in dataclasses.asdict(policy).items()]
        config = [
            f'device_id = "{DEVICE}"',
            f'profile = "{self._board.name}"',
            'state_dir = "state"',
            'trust = "none"',
            "[broker]",
            f'url = "mqtt://127.0.0.1:{self._proxy.port}"',
            f'prefix = "{self.topics.prefix}"',
            "[api]",
            "port = 0",
            "[telemetry]",
            "interval_s = 1.0",
            "[update]",
            *update,
        ]
        self._agents.append(Agent(self.folder, "\n".join(config), []))

    def power_cut(self) -> None:
        if self._agents and self.agent.process.poll() is None:
            workers = self.agent.workers()
            for pid in (self.agent.process.pid, *workers):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.agent.process.wait(10)
            wait_for("workers are gone", lambda: not any(map(_runs, workers)), 10)
        for sock in self._held:
            sock.close()
        self._held.clear()

    def crash(self) -> None:
        (worker,) = self.agent.workers()
        os.kill(worker, signal.SIGKILL)

    def serves(self) -> Made | None:
        if self.agent.process.poll() is not None:
            return None
        try:
            status, answer = self.agent.call("GET", f"/v2/models/{MODEL}")
        except (OSError, ValueError):
            return None
        if status != 200:
            return None
        return next(m for m in self._all if [m.manifest.version] == answer["versions"])

    @contextmanager
    def asking(self, text: str = "mail server") -> Iterator[Client]:
        client = Client(self.agent, MODEL, reuse=True, text=text)
        client.start()
        try:
            wait_for("the client asks", lambda: client.sent)
            yield client
        finally:
            client.finish()

    def workers_started(self) -> int:
        return self.agent.log.rpartition(" supervisor: started ")[2].count("worker started")

    def received_bytes(self) -> int:
        return self._proxy.to_client_bytes

    def make_unfit(self, made: Made) -> None:
        # A worker reads its board's profile when it starts; nothing is as fast as this.
        self._write_board(PROFILE.replace("latency_ms = 250.0", "latency_ms = 0.000001"))

    def mend(self) -> None:
        self._write_board(PROFILE)

    def _write_board(self, text: str) -> None:
        self._board.write_text(text)

    def hold_swap(self, made: Made) -> None:
        # The old worker waits for the rest of this request before it ends.
        body = json.dumps(texts_request("mail")).encode()
        head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        sock = socket.create_connection(("127.0.0.1", self.agent.port), timeout=20)
        sock.sendall(head.encode() + body[:10])
        self._held.append(sock)

    def go_offline(self) -> None:
        self._proxy.refuse = True
        self._proxy.cut()

    def go_online(self) -> None:
        self._proxy.refuse = False

    def stop_broker(self) -> None:
        self._broker.stop()

    def start_broker(self) -> None:
        self._broker.start()


def _runs(pid: int) -> bool:
    """Whether it is there and no zombie that waits for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
