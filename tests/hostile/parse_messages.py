"""What crosses a broker or a pipe, as the product reads it, and what must hold of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from edge_runtime.errors import EdgeError
from edge_runtime.text import plain
from tests.hostile.promises import demand

Parser = Callable[[bytes], object]


def message(kind: str) -> Parser:
    """A message of `messages.fleet`; what an operator's terminal shows of it is tried, too."""

    def parse(data: bytes) -> object:
        from edge_runtime.messages import fleet

        made: Any = getattr(fleet, kind)
        read = made.from_bytes(data)
        again = getattr(read, "to_bytes", lambda: fleet.to_bytes(read))()
        demand(made.from_bytes(again) == read, f"a {kind} is what it was written from")
        _shown(kind, read)
        return read

    return parse


def _shown(kind: str, read: Any) -> None:
    from edge_runtime.messages.fleet import Telemetry
    from edge_runtime.telemetry.metrics import Histogram

    if isinstance(read, Telemetry):
        for value in (read.latency, read.queue_wait):
            try:
                found = Histogram.from_json(value)
            except EdgeError:
                continue
            demand(Histogram.from_json(found.as_json()).count == found.count, "a count is kept")
            for percent in (0, 50, 100):
                found.percentile(percent)
    if importlib.util.find_spec("rich") is None:
        return  # An operator's machine has it.
    from edge_runtime.fleet import show
    from edge_runtime.fleet.inventory import Device
    from edge_runtime.fleet.watch import KINDS, Notice

    lines: list[str] = []
    if kind.lower() in KINDS:
        lines.append(show.notice(Notice("d1", kind.lower(), read, False), "12:00:00"))
    if kind == "Reported":
        show.status_table([Device("d1", True, read, None)])
    if kind == "InferResult":
        lines += show.answers(["a text"] * len(read.results), read)
    for line in lines:
        shown = line.replace("\t", " ")
        demand(plain(shown, len(shown)) == shown, "what is shown acts on no terminal")


def frame(data: bytes) -> object:
    """What a worker or a notary sends, in pieces."""
    from edge_runtime.messages.worker import FrameReader, to_frame

    reader = FrameReader()
    frames = [*reader.feed(data[:7]), *reader.feed(data[7:])]
    for one in frames:
        demand(list(FrameReader().feed(to_frame(one))) == [one], "a frame is what it was made of")
    return frames


def token(data: bytes) -> object:
    """What a person pasted on a board."""
    from edge_runtime.messages.enrollment import Token

    read = Token.parse(data.decode("utf-8", "replace"))
    demand(Token.parse(read.text) == read, "a token is what it was written from")
    demand(read.text.replace("-", "_").isidentifier(), "a token is one word")
    return read


def enrolling(kind: str) -> Parser:
    """What a board and an enrolment server say to each other."""

    def parse(data: bytes) -> object:
        from edge_runtime.messages import enrollment

        made: Any = getattr(enrollment, kind)
        read = made.from_bytes(data)
        demand(made.from_bytes(read.to_bytes()) == read, f"a {kind} is what it was written from")
        return read

    return parse


def topic(data: bytes) -> object:
    """A topic that a broker names, and a prefix that a person does."""
    from edge_runtime.link.topics import check_filter, check_topic, matches
    from edge_runtime.messages.topics import Topics

    text = data.decode("utf-8", "replace")
    topics = Topics()
    found = topics.device_of(text), topics.request_of(text), topics.chunk_of(text)
    if found[0] is not None:
        demand(topics.device(*found[0]) == text, "a device's topic is made of what it holds")
        demand(matches(topics.device("+", found[0][1]), text), "its filter finds it")
    if found[1] is not None and found[0] is not None:
        demand(topics.infer(found[0][0], found[1]) == text, "a request's topic is, too")
    if found[2] is not None:
        demand(topics.chunk(found[2]) == text, "a chunk's topic is, too")
    check_filter(text)
    check_topic(text)
    demand(matches(text, text), "a topic matches itself")
    demand(Topics(text).device("d1", "online").startswith(text), "a prefix stands in front")
    return found
