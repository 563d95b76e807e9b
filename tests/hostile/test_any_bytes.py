"""Whatever arrives, only our own errors escape: every parser fed with noise and with near misses.

The same targets are run for longer, and guided by coverage, by `python -m tests.hostile.fuzz`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EdgeError
from edge_runtime.messages.worker import FrameReader
from tests.hostile.mutate import mutate
from tests.hostile.parsers import PARSERS, TARGETS
from tests.hostile.sound import CORPUS, EXAMPLES, corpus

KEPT = [(name, path) for name in TARGETS for path in sorted((CORPUS / name).glob("*"))]
MOST = 60
SLOW = {"archive": 30, "golden": 30, "metadata": 25, "slot": 30, "spool": 30}
"""Where a run takes milliseconds: how many of them."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Parsers log what they pass over."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_the_corpus_is_of_every_parser_and_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(PARSERS) == set(EXAMPLES)
    assert sum(path.stat().st_size for _, path in KEPT) < 1 << 20


@pytest.mark.parametrize(("name", "path"), KEPT, ids=lambda value: getattr(value, "name", value))
def test_what_was_found_before_is_survived(name: str, path: object) -> None:
    TARGETS[name](corpus(name)[getattr(path, "name", "")])


@pytest.mark.parametrize("name", TARGETS)
def test_noise_raises_nothing_but_our_errors(name: str) -> None:
    @settings(max_examples=min(SLOW.get(name, MOST), 30))
    @given(st.binary(max_size=300))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_near_misses_raise_nothing_but_our_errors(name: str) -> None:
    examples = list(corpus(name).values())

    @settings(max_examples=SLOW.get(name, MOST))
    @given(st.randoms(use_true_random=False))
    def run(chance: Random) -> None:
        TARGETS[name](mutate(chance, examples))

    run()


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_frames_of_noise_raise_nothing_but_our_errors(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            list(reader.feed(piece))
    except EdgeError:
        pass
