"""Inference over MQTT: requests in, answers out, a bounded number of them under way.

A request goes to `…/infer/<request>` and is answered on `…/infer/<request>/result`, or, on MQTT 5,
on the response topic that it names. There is an answer for every request that reaches us, also
where it is malformed, too large, or no bundle serves.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import Json
from edge_runtime.link import Link, Message
from edge_runtime.messages.fleet import MAX_REQUEST_BYTES, InferRequest, InferResult, to_bytes
from edge_runtime.messages.topics import DELIVERY, Topics
from edge_runtime.messages.worker import Answer, Ask

log = logging.getLogger(__name__)

MAX_UNDER_WAY = 32


@dataclass(frozen=True, slots=True)
class _Return:
    """Where an answer belongs."""

    topic: str
    correlation: bytes | None


class Asks:
    """`ask` passes a question to whoever serves; False where nobody does.

    `refuse` may be called from any thread, everything else from one.
    """

    def __init__(self, topics: Topics, link: Link, ask: Callable[[Ask], bool]) -> None:
        self._topics = topics
        self._link = link
        self._ask = ask
        self._ids = map(str, itertools.count())
        self._under_way: dict[str, _Return] = {}

    def receive(self, message: Message) -> None:
        """A message came to `…/infer/<request>`."""
        try:
            inputs = self._inputs(message)
        except EdgeError as reason:
            self.refuse(message, str(reason))
            return
        name = next(self._ids)
        self._under_way[name] = self._return(message)
        if not self._ask(Ask(name, inputs)):
            del self._under_way[name]
            self.refuse(message, "no bundle serves on this device now")

    def refuse(self, message: Message, why: str) -> None:
        """Answer a request with one sentence."""
        self._answer(self._return(message), InferResult(error=why))

    def _inputs(self, message: Message) -> tuple[Json, ...]:
        """What is asked. Raises EdgeError: nothing that is answered now."""
        if self._topics.request_of(message.topic) is None:
            name = message.topic.rpartition("/")[2]
            raise InputError(
                f"request name {name[:80]!r}: expected up to 64 letters, digits, '-' or '_'"
            )
        if message.retain:
            raise InputError("a request must not be retained")
        if message.response_topic is not None and not self._allowed(message.response_topic):
            raise InputError(
                f"response topic {message.response_topic[:200]!r} is not allowed: under "
                f"{self._topics.prefix} only device/<id>/infer/<request>/result is"
            )
        asked = InferRequest.from_bytes(message.payload)
        if not asked.inputs:
            raise InputError("infer request: inputs has 0 entries, expected at least one")
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise InputError(f"{MAX_UNDER_WAY} requests are under way already, try again soon")
        return asked.inputs

    def _return(self, message: Message) -> _Return:
        topic = message.response_topic
        if topic is None or not self._allowed(topic):
            topic = message.topic + "/result"
        return _Return(topic, message.correlation)

    def answered(self, answer: Answer) -> None:
        """The worker has answered, or is gone."""
        back = self._under_way.pop(answer.id, None)
        if back is not None:
            self._answer(back, InferResult(answer.results, answer.error))

    def _allowed(self, topic: str) -> bool:
        """Whether an answer may go there: never where fleet and devices steer each other."""
        if not topic.startswith(self._topics.prefix + "/"):
            return True
        found = self._topics.device_of(topic)
        return found is not None and found[1].startswith("infer/") and found[1].endswith("/result")

    def _answer(self, back: _Return, result: InferResult) -> None:
        delivery = DELIVERY["infer/result"]
        payload = to_bytes(result)
        if len(payload) > MAX_REQUEST_BYTES:
            payload = to_bytes(
                InferResult(error=f"the answer has more than {MAX_REQUEST_BYTES} bytes")
            )
        try:
            self._link.publish(
                back.topic,
                payload,
                qos=delivery.qos,
                retain=delivery.retain,
                correlation=back.correlation,
            )
        except EdgeError as reason:
            log.warning("answer cannot be sent: %s", reason)
