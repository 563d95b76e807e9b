"""Files of signed metadata that a broker keeps, read one at a time by exact topic.

MQTT has no answer for "there is none": a subscription to a topic under which nothing is kept stays
silent. So `timestamp.json`, which every repository has, is asked for in the same packet, after the
file itself: brokers work a packet's filters in order, and once the timestamp has come and the file
still has not, a moment later, there is none. A question that was answered stays open until its
timestamp has come too, or else that one would end the next question before its file can come,
which over a slow link is always. A broker that lies about all this could just as well keep the
file back; signed metadata is made to bear both.

`Asking` has no thread and no clock of its own, for a loop that has one. `Reader` waits, for
whoever may.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable
from types import TracebackType

from edge_runtime.errors import EdgeError, TransferError
from edge_runtime.link.base import Connector, Link, Message
from edge_runtime.messages.topics import Topics

TIMESTAMP = "timestamp.json"
TIMEOUT_S = 15.0
GRACE_S = 0.3
"""How long a file may come after the timestamp that was asked for behind it."""

Answer = Callable[[bytes | None], None]
Failed = Callable[[str], None]


class Asking:
    """At most one question at a time; a new one takes the place of the old.

    Args:
        link: whose messages are handed to `heard` by its owner.
        timeout_s: how long the broker may say nothing.
        grace_s: how long a file may come after the timestamp that was asked for behind it.
    """

    def __init__(
        self,
        link: Link,
        topics: Topics,
        *,
        timeout_s: float = TIMEOUT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._link = link
        self._topics = topics
        self._fence = topics.metadata(TIMESTAMP)
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._wanted = ""
        self._due_s: float | None = None
        self._fenced = False
        self._found: bytes | None = None
        self._answer: Answer = lambda _data: None
        self._failed: Failed = lambda _why: None

    def ask(self, name: str, answer: Answer, failed: Failed, now_s: float) -> None:
        """Have `answer` called with the file called `name`, None where there is none.

        `failed` is called with a reason instead where nothing can be known, at once where `name`
        is none.
        """
        self.stop()
        try:
            wanted = self._topics.metadata(name)
        except EdgeError as reason:
            failed(str(reason))
            return
        self._wanted, self._answer, self._failed = wanted, answer, failed
        self._fenced = False
        self._found = None
        self._due_s = now_s + self._timeout_s
        self._link.subscribe(self._asked())

    def _asked(self) -> list[str]:
        return list(dict.fromkeys((self._wanted, self._fence)))

    def heard(self, message: Message, now_s: float) -> None:
        """A message has come; one that is not asked for changes nothing."""
        if not self._wanted or not message.payload:
            return
        fence = message.topic == self._fence and message.retain
        if message.topic == self._wanted:
            self._found = message.payload
            if self._fenced or message.topic == self._fence:
                self._end()
        elif fence and self._found is not None:
            self._end()
        elif fence and not self._fenced and self._due_s is not None:
            # The first one counts: a broker that repeats it must not hold us for ever.
            self._fenced = True
            self._due_s = min(self._due_s, now_s + self._grace_s)

    def tick(self, now_s: float) -> float | None:
        """Do what is due; when to call again at the latest."""
        if self._due_s is not None and now_s >= self._due_s:
            self._end()
        return self._due_s

    def _end(self) -> None:
        """Say what is known by now."""
        name, answer, failed = self._wanted.rpartition("/")[2], self._answer, self._failed
        found, known = self._found, self._fenced or self._found is not None
        self.stop()
        if known:
            answer(found)
        else:
            failed(f"{name}: broker {self._link.address} sent nothing for {self._timeout_s:g} s")

    def stop(self) -> None:
        """Nothing is asked any more."""
        if self._wanted:
            self._link.unsubscribe(self._asked())
        self._wanted = ""
        self._found = None
        self._due_s = None


class Reader:
    """Waits for each file. A context manager: connected inside.

    Raises:
        TransferError: not connected in time.
    """

    def __init__(
        self,
        connect: Connector,
        topics: Topics,
        *,
        timeout_s: float = TIMEOUT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._link = connect(f"edge-metadata-{secrets.token_hex(6)}", self._inbox.put)
        self._asking = Asking(self._link, topics, timeout_s=timeout_s, grace_s=grace_s)
        self._timeout_s = timeout_s

    def __enter__(self) -> Reader:
        self._link.start()
        try:
            self._link.wait_connected(self._timeout_s)
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.close()

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """The file called `name`, or None where the broker keeps none; cut behind `max_bytes`.

        Raises:
            TransferError: the broker does not say.
        """
        found: list[bytes | None] = []
        faults: list[str] = []
        self._asking.ask(name, found.append, faults.append, time.monotonic())
        while True:
            due_s = self._asking.tick(time.monotonic())
            if due_s is None:
                break
            try:
                message = self._inbox.get(timeout=max(due_s - time.monotonic(), 0.0))
            except queue.Empty:
                continue
            self._asking.heard(message, time.monotonic())
        if faults:
            raise TransferError(faults[0])
        return found[0] if found[0] is None else found[0][: max_bytes + 1]
