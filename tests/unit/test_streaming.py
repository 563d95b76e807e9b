"""A model of tones listens: from chunks to detections, at any speed, in bounded memory."""

from __future__ import annotations

import io
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_runtime
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import DeviceError, IncompatibleError, InputError
from edge_runtime.inference.microphone import BACKLOG
from edge_runtime.inference.model import Model
from edge_runtime.inference.spotting import Detection
from edge_runtime.inference.tasks.results import Classification
from edge_runtime.inference.tasks.table import declared_steps
from edge_runtime.inference.wav import paced, wav_pieces
from tests.fakes.senses import (
    RATE,
    STREAM,
    WINDOW,
    colours,
    meters,
    pcm,
    pumps,
    sound,
    step,
    tone,
    tones,
    wav,
)

SPEECH = sound(("", 0.5), ("low", 0.3), ("", 0.5), ("high", 0.3), ("", 0.3))
SPOKEN = [("low", 0.5), ("high", 1.3)]
"""Each with the second in which it begins."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    pytest.importorskip("onnxruntime")
    with edge_runtime.load(tones(tmp_path_factory.mktemp("tones") / "tones")) as loaded:
        yield loaded


def named(found: list[Detection]) -> list[tuple[str, float]]:
    return [(one.label, round(one.at_s, 3)) for one in found]


@pytest.mark.parametrize("size", [1, 333, 1600, 10**9])
def test_words_are_heard_once_each_whatever_the_chunks(model: Model, size: int) -> None:
    data = pcm(SPEECH)[: 2 * 6000] if size == 1 else pcm(SPEECH)
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    found = list(model.listen(chunks))
    assert named(found) == [("low", 0.58), ("high", 1.38)][: len(found)]
    assert len(found) == (1 if size == 1 else 2)
    for one, (_, begins_s) in zip(found, SPOKEN, strict=False):
        # The window that heard it holds its beginning, and it was certain soon after.
        assert one.start_s < begins_s < one.end_s <= one.at_s < begins_s + WINDOW / RATE
        assert one.score >= STREAM["threshold"]
        assert one.latency_ms >= 1000 * (one.at_s - one.end_s)


def test_floats_and_integers_are_the_same_sound(model: Model) -> None:
    whole = np.rint(SPEECH * 32767).astype(np.int16)
    assert named(list(model.listen([whole]))) == named(list(model.listen([SPEECH])))


def test_what_was_heard_is_counted(model: Model) -> None:
    listening = model.listen([pcm(SPEECH)])
    list(listening)
    heard = listening.heard
    assert (heard.windows, heard.dropped) == (91, 0)
    assert heard.seconds == pytest.approx(1.9)
    assert heard.run_ms > 0
    assert set(heard.as_json()) == {"windows", "dropped", "seconds", "run_ms"}


def test_what_the_caller_says_goes_before_what_the_bundle_says(model: Model) -> None:
    assert list(model.listen([pcm(SPEECH)], ignore=["low", "high", "_silence_"])) == []
    assert [one.label for one in model.listen([pcm(SPEECH)], ignore=("low", "_silence_"))] == [
        "high"
    ]
    listening = model.listen([pcm(SPEECH)], hop_ms=50, smooth_ms=0, threshold=0.9, suppress_ms=10)
    assert listening.stream.hop_ms == 50
    assert {one.label for one in listening} == {"low", "high"}
    assert listening.heard.windows == 37
    with pytest.raises(InputError, match="listen: threshold is 2"):
        model.listen([], threshold=2)


def test_a_bundle_that_says_nothing_has_the_defaults(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with edge_runtime.load(tones(tmp_path / "tones", stream=None)) as model:
        listening = model.listen([pcm(SPEECH)])
        assert (listening.stream.hop_ms, listening.stream.threshold) == (100, 0.7)
        # A word of three windows is certain with the third of them; what comes too soon is left.
        assert named(list(listening)) == [("low", 0.8)]
        both = list(model.listen([pcm(SPEECH)], suppress_ms=500))
        assert named(both) == [("low", 0.8), ("high", 1.6)]
        assert named(list(model.listen([pcm(SPEECH)], smooth_ms=0))) == [
            ("low", 0.6),
            ("high", 1.6),
        ]


def test_a_clip_is_still_classified_as_one(model: Model) -> None:
    found = model(wav(tone("low", WINDOW / RATE)))
    assert isinstance(found, Classification)
    assert found.label == "low"
    assert model.sample_rate == RATE


def test_a_live_source_is_heard_as_well(model: Model) -> None:
    there = threading.Event()
    heard: list[Any] = []

    def source() -> Iterator[bytes]:
        there.wait(10)
        data = pcm(SPEECH)
        for at in range(0, len(data), 320):
            yield data[at : at + 320]
            due = 1 + (at // 2 + 160 - WINDOW) // 160  # Windows that there are by now.
            while heard[0].windows < due:
                time.sleep(0.001)

    listening = model.listen(source(), live=True)
    heard.append(listening.heard)
    there.set()
    assert named(list(listening)) == [("low", 0.58), ("high", 1.38)]
    assert (listening.heard.windows, listening.heard.dropped) == (91, 0)


def test_a_model_that_is_too_slow_drops_windows_and_says_so(model: Model) -> None:
    given = threading.Event()

    def source() -> Iterator[bytes]:
        yield from (pcm(SPEECH)[at : at + 320] for at in range(0, 2 * len(SPEECH), 320))
        given.set()

    listening = model.listen(source(), live=True)
    assert given.wait(10)
    list(listening)
    heard = listening.heard
    assert heard.windows == BACKLOG
    assert heard.windows + heard.dropped == 91
    assert heard.seconds == pytest.approx(1.9)


def test_an_hour_of_sound_costs_no_more_memory_than_a_second(model: Model) -> None:
    silence = bytes(2 * RATE)

    def peak(seconds: int) -> int:
        tracemalloc.start()
        listening = model.listen((silence for _ in range(seconds)), hop_ms=5000)
        list(listening)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert listening.heard.windows == 1 + max(0, seconds * RATE - WINDOW) // (5 * RATE)
        return top

    peak(1)
    assert peak(3600) < peak(2) + 100_000


def test_only_what_hears_and_gives_labels_can_listen(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for folder, says in (
        (colours(tmp_path / "colours"), "task image-classification of image input: only a model"),
        (pumps(tmp_path / "pumps"), "task anomaly-detection of audio input: only a model"),
    ):
        with edge_runtime.load(folder) as model, pytest.raises(InputError, match=says):
            model.listen([b""])
    with (
        edge_runtime.load(tmp_path / "colours") as model,
        pytest.raises(InputError, match="takes image, there is nothing to listen to"),
    ):
        _ = model.sample_rate


def test_labels_that_are_too_few_and_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    few = [step("softmax"), step("top_k", labels=["a", "b"])]
    with (
        edge_runtime.load(tones(tmp_path / "few", postprocess=few)) as model,
        pytest.raises(IncompatibleError, match="2 labels for 3 outputs"),
    ):
        list(model.listen([SPEECH]))
    with edge_runtime.load(tones(tmp_path / "tones")) as model:
        loud = np.full(WINDOW, 1e30, np.float32)  # Its energy is infinite, its softmax no number.
        with np.errstate(all="ignore"), pytest.raises(DeviceError, match="not finite"):
            list(model.listen([loud]))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"postprocess": [step("stream"), step("top_k", labels=["a"])]}, "stream stands last"),
        (
            {"postprocess": [step("top_k", labels=["a"]), step("stream"), step("stream")]},
            "stream stands last",
        ),
        ({"postprocess": [step("stream")]}, "must end in one step top_k"),
        (
            {"postprocess": [step("top_k", labels=["a"]), step("stream", hop_ms=-1)]},
            "step stream: hop_ms is -1",
        ),
    ],
)
def test_a_stream_that_is_declared_wrongly_is_refused(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    bundle = verify(FolderReader(tones(tmp_path / "b", **changed)))
    with pytest.raises(IncompatibleError, match=says):
        declared_steps(bundle.manifest)


def test_a_stream_is_for_labels_of_sounds_only(tmp_path: Path) -> None:
    after = [step("top_k", labels=["a", "b", "c"]), step("stream")]
    for folder in (
        colours(tmp_path / "c", postprocess=after),
        meters(tmp_path / "m", postprocess=[step("anomaly", threshold=1), step("stream")]),
    ):
        with pytest.raises(IncompatibleError, match="in a task that gives labels to sounds"):
            declared_steps(verify(FolderReader(folder)).manifest)


# A WAV file as a microphone would deliver it.


def test_a_wav_file_comes_in_pieces_of_20_ms() -> None:
    pieces = list(wav_pieces(io.BytesIO(wav(SPEECH)), RATE))
    assert {len(piece) for piece in pieces[:-1]} == {RATE // 50}
    np.testing.assert_allclose(np.concatenate(pieces), SPEECH, atol=1e-4)
    assert list(wav_pieces(io.BytesIO(wav(SPEECH[:0])), RATE)) == []


def test_channels_are_mixed_and_what_else_is_in_the_file_is_passed_over() -> None:
    both = np.stack([SPEECH, np.zeros_like(SPEECH)], axis=1).ravel()
    head = struct.pack("<HHIIHH", 3, 2, RATE, RATE * 8, 8, 32)
    body = b"junk" + struct.pack("<I", 100_001) + bytes(100_002)
    body += b"fmt " + struct.pack("<I", len(head)) + head
    data = both.astype("<f4").tobytes()
    for size in (len(data), 0, 0xFFFFFFFF):
        file = b"RIFF\0\0\0\0WAVE" + body + b"data" + struct.pack("<I", size) + data
        pieces = list(wav_pieces(io.BytesIO(file), RATE))
        assert np.concatenate(pieces).tolist() == (SPEECH / 2).tolist()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a WAV file"),
        (b"RIFF\0\0\0\0AVI ", "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE", "has no samples"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "samples before their format"),
        (b"RIFF\0\0\0\0WAVEfmt \4\0\0\0abcd", "format is cut off"),
        (b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x7f", "has no samples"),
        (wav(SPEECH, 16_000), "16000 samples a second, the model hears 8000: resample it first"),
        (wav(SPEECH)[:2001], "cut off, 1957 of 30400 bytes of samples are there"),
    ],
)
def test_a_file_that_cannot_be_heard_is_told_in_a_sentence(data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(wav_pieces(io.BytesIO(data), RATE))


def test_a_paced_file_comes_as_fast_as_it_sounds() -> None:
    now = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pieces = wav_pieces(io.BytesIO(wav(SPEECH)), RATE)
    came = []
    for number, _ in enumerate(paced(pieces, RATE, sleep, lambda: now[0])):
        came.append(now[0] - 100)
        if number == 10:
            now[0] += 0.1  # Whoever takes them was slow: the next ones come at once.
    assert came[:3] == pytest.approx([0.02, 0.04, 0.06])
    assert came[-1] == pytest.approx(1.9)
    assert 95 - len(slept) in (4, 5)
