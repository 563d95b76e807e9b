"""A question to a device's model over the broker, and its answer."""

from __future__ import annotations

import secrets
import time

from edge_runtime.errors import EdgeError, InputError, TransferError, UntrustedError
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.inventory import read_devices
from edge_runtime.fleet.question import Question
from edge_runtime.messages.fleet import (
    MAX_MESSAGE_BYTES,
    InferRequest,
    InferResult,
    to_bytes,
)


def ask(connection: Connection, device: str, asked: Question, timeout_s: float) -> InferResult:
    """What `device` answers to what is `asked`: one result for each input, or why there is none.

    Raises:
        InputError: not a device id, no input, or more than one message carries; nothing was sent.
        TransferError: no answer in time; says whether the device is there at all.
        UntrustedError: the answer cannot be read, or is not one result for each input.
    """
    topics = connection.topics
    request = secrets.token_hex(8)
    try:
        question = to_bytes(InferRequest(asked.inputs))
    except UnicodeEncodeError:
        raise InputError("question: a text is not valid Unicode") from None
    count = len(asked.inputs)
    if not count or len(question) > asked.max_bytes:
        raise InputError(
            f"question: {count} inputs in {len(question)} bytes, expected at least one "
            f"and at most {asked.max_bytes} bytes"
        )
    try:
        InferRequest.from_bytes(question)
    except EdgeError as reason:
        raise InputError(f"question: {reason}") from None
    answer = topics.infer_result(device, request)
    connection.listen([answer])
    connection.send("infer", topics.infer(device, request), question)
    connection.settle()
    deadline_s = time.monotonic() + timeout_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        message = connection.receive(min(left_s, 1.0))
        if message is not None and message.topic == answer:
            return _result(message.payload, device, count)
    why = _why(connection, device)
    if len(question) > MAX_MESSAGE_BYTES:
        why += (
            f"; the question has {len(question)} bytes, and some brokers throw away what has more "
            f"than {MAX_MESSAGE_BYTES}"
        )
    raise TransferError(f"device {device}: no answer within {timeout_s:g} s; {why}")


def _result(payload: bytes, device: str, inputs: int) -> InferResult:
    result = InferResult.from_bytes(payload)
    if not result.error and len(result.results) != inputs:
        raise UntrustedError(
            f"device {device}: answered with {len(result.results)} results for {inputs} inputs"
        )
    return result


def _why(connection: Connection, device: str) -> str:
    """What the broker knows of a device that stays silent."""
    (found,) = read_devices(connection, [device])
    if not found.known:
        return "it has never been on this broker"
    if not found.online:
        return "it is offline"
    if found.reported is not None and found.reported.active is None:
        return "it is online but has no bundle"
    return "it is online"
