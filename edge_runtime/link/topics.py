"""MQTT's rules for topic names and filters (MQTT 3.1.1, section 4.7)."""

from __future__ import annotations

from edge_runtime.errors import InputError

MAX_TOPIC_BYTES = 65535


def check_topic(topic: str) -> None:
    """Raises InputError unless `topic` may be published to."""
    _check_text(topic, "topic")
    if "+" in topic or "#" in topic:
        raise InputError(f"topic {topic[:80]!r}: holds a wildcard, expected one exact topic")


def check_filter(topic_filter: str) -> None:
    """Raises InputError unless `topic_filter` may be subscribed to."""
    _check_text(topic_filter, "topic filter")
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if len(level) > 1 and ("+" in level or "#" in level):
            raise InputError(
                f"topic filter {topic_filter[:80]!r}: {level[:80]!r} mixes text and wildcard"
            )
        if level == "#" and index != len(levels) - 1:
            raise InputError(f"topic filter {topic_filter[:80]!r}: # must be the last level")


def _check_text(text: str, kind: str) -> None:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise InputError(f"{kind} {text[:80]!r}: not valid Unicode") from None
    if not 1 <= size <= MAX_TOPIC_BYTES:
        raise InputError(f"{kind}: {size} bytes long, expected 1..{MAX_TOPIC_BYTES}")
    if "\0" in text:
        raise InputError(f"{kind} {text[:80]!r}: holds a NUL character")


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a subscription to `topic_filter` receives `topic`; both are valid.

    `a/#` receives `a` itself, and a wildcard in the first level receives no `$SYS` topic.
    """
    if topic[:1] == "$" and topic_filter[:1] in ("+", "#"):
        return False
    wanted = topic_filter.split("/")
    found = topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(found) or level not in ("+", found[index]):
            return False
    return len(wanted) == len(found)


def unshared(topic_filter: str) -> str:
    """The filter inside MQTT 5's `$share/<group>/<filter>`; any other filter as it is."""
    if topic_filter.startswith("$share/"):
        return topic_filter.split("/", 2)[-1]
    return topic_filter
