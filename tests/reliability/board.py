"""A board of real processes: `edge-agent run` on a real broker, with signed metadata, and a client.

What `tests.flows.processes` has, and what a proof needs besides: releases are signed and the agent
demands it; its API keeps one port, as it does in the field; its state folder is looked at while the
supervisor stands still; and whoever kills the supervisor has it started again, as systemd would.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from edge_runtime.messages.fleet import Desired
from edge_runtime.update.policy import Policy
from tests.fakes.agents import Agent, texts_request, wait_for
from tests.fakes.brokers import BrokerProcess, free_port
from tests.fakes.bundles import noise
from tests.fakes.proxy import TcpProxy
from tests.fakes.signed import SignedRepository, publish_retained
from tests.fakes.tiny import tiny_folder, variant_json
from tests.flows.processes import MODEL, ProcessWorld
from tests.flows.world import DEVICE, QUICK, Made, changed
from tests.reliability import state
from tests.reliability.case import LEFT_OVER, Case, Ending

SETTLE_S = 600.0
"""Longer than every wait between tries of a device whose network fails again and again."""
POLICY = dataclasses.replace(QUICK, max_starts=100)
"""Workers that are killed from outside say nothing of their bundle."""


class Board(ProcessWorld):
    """See `ProcessWorld`. `asked` is the bundle that is desired, `before` what served then.

    None serves `before` the first, or where an update never came to its end: nothing can follow.
    """

    def __init__(self, folder: Path, broker: BrokerProcess, prefix: str, **bounds: float) -> None:
        """`bounds` are the update policy's, where others than POLICY's."""
        super().__init__(folder, broker, prefix)
        self._policy = changed(POLICY, **bounds)
        self.port = free_port()
        self.before: Made | None = None
        self.asked: Made | None = None
        self._revision = 0
        self._logged = 0
        self._signed = SignedRepository(now_s=time.time())
        self._kept: dict[str, bytes] = {}
        (folder / "root.json").write_bytes(self._signed.files["1.root.json"])

    def __enter__(self) -> Board:
        super().__enter__()
        return self

    @property
    def proxy(self) -> TcpProxy:
        """Between the agent and the broker."""
        return self._proxy

    @property
    def state(self) -> Path:
        """The agent's folder."""
        return self.folder / "state"

    @property
    def may_serve(self) -> set[str]:
        """Versions: the old one and the new one."""
        return {made.manifest.version for made in (self.before, self.asked) if made}

    # The operator.

    def sized(self, version: str, size: int) -> Made:
        """A new bundle that shares nothing large with any other."""
        folder = tiny_folder(
            self.folder / "bundles" / version,
            [variant_json("ort-int8", "model-int8.onnx")],
            {"backbone.bin": noise(size, crc32(version.encode()))},
            version=version,
        )
        made = Made(folder)
        self.made(made, True, "")
        return made

    def sign(self, *bundles: Made) -> None:
        """Publish the bundles, and new metadata that vouches for them."""
        for made in bundles:
            self.publish(made)
            self._signed.add(made.release.file, made.manifest_bytes)
        self._signed.publish()
        publish_retained(self._watcher, self.topics, self._signed.files, self._kept)
        self._kept = dict(self._signed.files)

    def ask(self, made: Made) -> None:
        """Have the device run `made`, refused before or not."""
        self._revision += 1
        self.asked = made
        self.desire(Desired(self._revision, made.release, self._revision).to_bytes())

    def throw(self, digest: str, payload: bytes) -> None:
        """Send these bytes under a chunk's name, once, to whoever asks for it just now."""
        self._watcher.publish(self.topics.chunk(digest), payload, wait_s=10)

    # The device.

    def boot(self, policy: Policy | None = None) -> None:
        if not self._agents:
            self.mend()
        self.reported = None
        update = [
            f"{name} = {value}"
            for name, value in dataclasses.asdict(policy or self._policy).items()
        ]
        config = [
            f'device_id = "{DEVICE}"',
            f'profile = "{self._board.name}"',
            'state_dir = "state"',
            'trust = "tuf"',
            'root = "root.json"',
            "[broker]",
            f'url = "mqtt://127.0.0.1:{self._proxy.port}"',
            f'prefix = "{self.topics.prefix}"',
            "[api]",
            f"port = {self.port}",
            "[telemetry]",
            "interval_s = 1.0",
            "[update]",
            *update,
        ]
        self._agents.append(Agent(self.folder, "\n".join(config), []))

    def begin(self, made: Made) -> None:
        """Until it serves its first bundle."""
        self.sign(made)
        self.boot()
        self.ask(made)
        case = self.conclude("the first bundle")
        if case.broken:
            raise RuntimeError(f"{case}\n{self.agent.log[-4000:]}")

    def restart(self) -> None:
        """Start anew: it waits ever longer to connect again, and should not for a case before."""
        self.power_cut()
        self.boot()
        wait_for("it serves again", lambda: self.serves() == self.before)
        wait_for("it is back", lambda: self.reported)

    def kill_supervisor(self) -> list[str]:
        """SIGKILL; what is untrue of the folder then; and the agent starts again."""
        children = self.agent.workers()
        os.kill(self.agent.process.pid, signal.SIGKILL)
        self.agent.process.wait(10)
        broken = state.broken(self.state, self._digests())
        try:
            wait_for("every worker ends with its supervisor", lambda: not _any_runs(children), 20)
        except AssertionError as late:
            broken.append(str(late))
        self.boot()
        return broken

    def kill_child(self, at: int) -> str:
        """SIGKILL to one of the supervisor's children, whatever it is; what it was."""
        children = self.agent.workers()
        if not children:
            return "nobody"
        pid = children[at % len(children)]
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
            os.kill(pid, signal.SIGKILL)
        except OSError:
            return "nobody"
        return "notary" if "notary" in line else "worker"

    def _check_logs(self) -> None:
        """Told with the case in which it happened."""

    def _fell_over(self) -> list[str]:
        """Tracebacks in the log since this was asked last."""
        fresh, self._logged = self.agent.log[self._logged :], len(self.agent.log)
        found = fresh.split("Traceback (most recent call last):\n")[1:]
        last = [re.search(r"^(?! ).+", one, re.MULTILINE) for one in found]
        return [f"a traceback in the log: {line[0]}" for line in last if line]

    # What became of an update.

    def conclude(self, what: str, broken: Iterable[str] = (), *, restarted: bool = False) -> Case:
        """Wait for the end of the update that was asked for; the case that it is."""
        found, note = list(broken), ""
        try:
            ending = self._settled()
        except AssertionError as late:
            self.before = None
            return Case(what, Ending.OLD, (*found, str(late)[:2000]))
        if restarted and ending is Ending.NEW:
            ending = Ending.LATER
        here = self.asked if ending is not Ending.OLD else self.before
        assert here is not None
        left = self._examined(here)
        if left and all(fault.startswith(state.LEAK) for fault in left):
            note = LEFT_OVER  # The update that follows must remove them; see `swept`.
            left = []
        self.before = here
        return Case(what, ending, (*found, *left, *self._fell_over()), note)

    def swept(self, made: Made) -> list[str]:
        """After one more update, undisturbed: nothing is left over of those before."""
        self.ask(made)
        if self._settled() is not Ending.NEW:
            return [f"an undisturbed update was refused: {self.reported}"]
        self.before = made
        return self._examined(made)

    def _settled(self) -> Ending:
        """Until the device is at rest with the bundle asked for, or has refused it."""
        asked = self.asked
        assert asked is not None

        def ended() -> Ending | None:
            r = self.reported
            if r is None or r.revision != self._revision or r.state != "idle":
                return None
            here = self.serves()
            if r.active == asked.release.ref and here == asked:
                return Ending.NEW
            refused = [one.manifest_sha256 for one in r.refused if one.attempt == self._revision]
            same = self.before is not None and r.active == self.before.release.ref
            return Ending.OLD if asked.digest in refused and same and here == self.before else None

        try:
            ending: Ending = wait_for("the update ends", ended, SETTLE_S)
        except AssertionError as late:
            raise AssertionError(f"{late}: {self.reported}; {self.agent.log[-1500:]}") from None
        return ending

    def _examined(self, here: Made) -> list[str]:
        """What is untrue of the folder while the supervisor stands still."""
        pid = self.agent.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for("it stands still", lambda: _state(pid) in "Tt", 10)
            return state.broken(self.state, {here.digest}, at_rest=True)
        finally:
            os.kill(pid, signal.SIGCONT)

    def _digests(self) -> set[str]:
        return {made.digest for made in (self.before, self.asked) if made} if self.before else set()


class Asker(threading.Thread):
    """A client that asks over and over, whoever is there to answer.

    `wrong` are answers of a bundle that was neither the old nor the new one; `unanswered` counts
    requests that got none, which is a fault only where no process was killed.
    """

    def __init__(self, board: Board) -> None:
        super().__init__(daemon=True)
        self.answered: Counter[str] = Counter()
        self.unanswered = 0
        self.wrong: list[str] = []
        self.last = ""
        self._board = board
        self._done = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._board.port, timeout=20)
        body = json.dumps(texts_request("mail server")).encode()
        while not self._done.wait(0.01):
            may_serve = self._board.may_serve
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", body)
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    raise ValueError(answer)
                version = str(answer["model_version"])
            except (OSError, http.client.HTTPException, ValueError, LookupError) as reason:
                self.unanswered += 1
                self.last = f"{type(reason).__name__}: {reason}"
                connection.close()
                continue
            self.answered[version] += 1
            if version not in may_serve | self._board.may_serve:
                self.wrong.append(version)
        connection.close()

    def forget(self) -> None:
        """What was met until now."""
        self.answered.clear()
        self.wrong.clear()
        self.unanswered = 0

    def finish(self) -> None:
        """After the request under way."""
        self._done.set()
        self.join(30)


@contextmanager
def asking(board: Board) -> Iterator[Asker]:
    """A client, inside."""
    asker = Asker(board)
    asker.start()
    try:
        yield asker
    finally:
        asker.finish()


def with_client(case: Case, asker: Asker) -> Case:
    """The case, broken where `asker` met more than right answers since it was asked last."""
    broken = [f"another bundle answered: {version}" for version in asker.wrong[:1]]
    if asker.unanswered:
        broken.append(f"{asker.unanswered} requests failed ({asker.last})")
    if not asker.answered:
        broken.append("nobody was asked")
    asker.forget()
    return Case(case.what, case.ending, (*case.broken, *broken), case.note)


def _state(pid: int) -> str:
    """As /proc tells it: R, S, T, Z; Z where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def _any_runs(pids: Iterable[int]) -> bool:
    return any(_state(pid) != "Z" for pid in pids)
