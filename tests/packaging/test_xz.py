"""Blocks put together are what liblzma and xz read."""

from __future__ import annotations

import lzma
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packaging.checkout import module

xz: Any = module("xz")


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_the_content_is_the_segments_one_after_the_other(segments: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as cache:
        assert lzma.decompress(xz.compress(segments, Path(cache))) == b"".join(segments)


def test_sizes_that_need_long_numbers_are_indexed_rightly(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes
    segments = [noise(100), noise(300_000), bytes(3_000_000), noise(127), noise(128)]
    packed = xz.compress(segments, tmp_path)
    # xz checks every block against the index.
    subprocess.run(["xz", "--test"], input=packed, check=True)
    said = subprocess.run(["xz", "-dc"], input=packed, capture_output=True, check=True)
    assert said.stdout == b"".join(segments)


def test_a_segment_has_the_same_bytes_whatever_comes_after_it(tmp_path: Path) -> None:
    first = random.Random(2).randbytes(50_000)
    one = xz.compress([first, b"one"], tmp_path)
    other = xz.compress([first, b"other"], tmp_path)
    assert one[:50_000] == other[:50_000]
