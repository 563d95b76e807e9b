"""Inference over MQTT: requests in, answers out, a bounded number of them under way.

A request goes to `…/infer/<request>` and is answered on `…/infer/<request>/result`, or, on MQTT 5,
on the response topic that it names. There is an answer for every request that can be understood
so far as to know where an answer belongs, also where no bundle serves.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.errors import EdgeError
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
    """`ask` passes a question to whoever serves; False where nobody does."""

    def __init__(
        self, topics: Topics, device_id: str, link: Link, ask: Callable[[Ask], bool]
    ) -> None:
        self._topics = topics
        self._device_id = device_id
        self._link = link
        self._ask = ask
        self._ids = map(str, itertools.count())
        self._under_way: dict[str, _Return] = {}

    def receive(self, request: str, message: Message) -> None:
        """A message came to `…/infer/<request>`."""
        topic = self._topics.infer_result(self._device_id, request)
        if message.response_topic is not None:
            if not self._allowed(message.response_topic):
                log.warning("response topic refused", extra={"topic": message.response_topic})
                return
            topic = message.response_topic
        back = _Return(topic, message.correlation)
        if message.retain:
            self._answer(back, InferResult(error="a request must not be retained"))
            return
        try:
            asked = InferRequest.from_bytes(message.payload)
        except EdgeError as reason:
            self._answer(back, InferResult(error=str(reason)))
            return
        if len(self._under_way) >= MAX_UNDER_WAY:
            error = f"{MAX_UNDER_WAY} requests are under way already, try again soon"
            self._answer(back, InferResult(error=error))
            return
        name = next(self._ids)
        self._under_way[name] = back
        if not self._ask(Ask(name, asked.texts)):
            del self._under_way[name]
            self._answer(back, InferResult(error="no bundle serves on this device now"))

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
