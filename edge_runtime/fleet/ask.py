"""A question to a device's model over the broker, and its answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from edge_runtime.errors import InputError, TransferError
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.inventory import read_inventory
from edge_runtime.messages.fleet import (
    MAX_MESSAGE_BYTES,
    InferRequest,
    InferResult,
    to_bytes,
)


def ask(connection: Connection, device: str, texts: Sequence[str], timeout_s: float) -> InferResult:
    """What `device` answers to `texts`: one result for each, or its one sentence why not.

    Raises:
        InputError: not a device id, no text, or more than one message carries.
        TransferError: no answer in time; says whether the device is there at all.
        UntrustedError: the answer cannot be read, or is not one result for each text.
    """
    topics = connection.topics
    request = secrets.token_hex(8)
    question = to_bytes(InferRequest(tuple(texts)))
    if not texts or len(question) > MAX_MESSAGE_BYTES:
        raise InputError(
            f"question: {len(texts)} texts in {len(question)} bytes, expected at least one text "
            f"and at most {MAX_MESSAGE_BYTES} bytes"
        )
    InferRequest.from_bytes(question)
    answer = topics.infer_result(device, request)
    connection.listen([answer])
    connection.send("infer", topics.infer(device, request), question)
    connection.settle()
    deadline_s = time.monotonic() + timeout_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        message = connection.receive(min(left_s, 1.0))
        if message is not None and message.topic == answer:
            return InferResult.from_bytes(message.payload)
    raise TransferError(
        f"device {device}: no answer within {timeout_s:g} s{_why(connection, device)}"
    )


def _why(connection: Connection, device: str) -> str:
    """What the broker knows of a device that stays silent."""
    (found,) = read_inventory(connection, device)
    if not found.known:
        return "; it has never been on this broker"
    if not found.online:
        return "; it is offline"
    if found.reported is not None and found.reported.active is None:
        return "; it is online but has no bundle"
    return "; it is online"
