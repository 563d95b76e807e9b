"""The examples' data: the same every time, no font, voice or machine in two splits."""

from __future__ import annotations

import json
import shutil
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tomllib

from converters.progress import Silent
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.audio import DecodeAudio
from examples.anomaly import data as rows_data
from examples.anomaly import machine as machines
from examples.anomaly.features import NAMES, row_of
from examples.anomaly.make import write_recipe
from examples.glyphs import data as glyphs
from examples.glyphs import fonts
from examples.keywords import data as clips
from examples.keywords import mixing, speech, stream, voices
from examples.keywords.score import score
from examples.workbench import ROOT, Bench, Front, classes_of, files_of

EXAMPLES = ROOT / "examples"
SPEAKS = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture
def design() -> fonts.Design:
    """A design whose fonts are installed here."""
    for one in (*fonts.TRAIN, *fonts.TEST):
        if all(path.exists() for path in one.paths):
            return one
    pytest.skip("none of the example's fonts is installed")


def test_no_design_and_no_font_file_is_in_two_splits() -> None:
    names = [one.name for one in (*fonts.TRAIN, *fonts.TEST)]
    files = [file for one in (*fonts.TRAIN, *fonts.TEST) for file in one.files]
    assert len(set(names)) == len(names)
    assert len(set(files)) == len(files)
    assert set(glyphs.SPLIT_OF["calibration"].designs) <= set(fonts.TRAIN)
    # Two designs of one package may be relatives: a package stands in one split too.
    assert not {one.package for one in fonts.TRAIN} & {one.package for one in fonts.TEST}
    assert len(fonts.TRAIN) >= 40
    assert len(fonts.TEST) >= 12


def test_a_missing_font_is_told_with_its_package() -> None:
    missing = fonts.Design("nobody", "fonts-nobody", ("truetype/nobody/Nobody.ttf",))
    with pytest.raises(InputError, match="apt-get install --no-install-recommends fonts-nobody"):
        fonts.check_installed((missing,))


def test_a_glyph_follows_from_its_seed(design: fonts.Design) -> None:
    first, again, other = (glyphs.pictures("test", [design], 2, "Q", seed) for seed in (1, 1, 2))
    assert [name for name, _ in first] == [name for name, _ in again]
    for (_, a), (_, b), (_, c) in zip(first, again, other, strict=True):
        assert a.shape == (32, 32)
        assert a.dtype == np.uint8
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)


def test_calibration_renders_a_font_differently_than_training(design: fonts.Design) -> None:
    (_, train), (_, calibration) = (
        glyphs.pictures(split, [design], 1, "7", 1)[0] for split in ("train", "calibration")
    )
    assert not np.array_equal(train, calibration)


def test_a_glyph_holds_ink_and_paper(design: fonts.Design) -> None:
    for character in glyphs.CLASSES:
        (_, pixels) = glyphs.pictures("train", [design], 1, character, 1)[0]
        assert np.ptp(pixels.astype(int)) > glyphs.FAINTEST / 2, character


def test_no_voice_is_in_two_splits() -> None:
    assert not set(voices.TRAIN_VOICES) & set(voices.TEST_VOICES)
    assert not set(voices.STRANGE_WORDS) & set(voices.WORDS)
    assert not set(voices.KEYWORDS) & {*voices.WORDS, *voices.STRANGE_WORDS}
    assert set(clips.SPLIT_OF["test"].voices) == set(voices.TEST_VOICES)
    for split in ("train", "calibration"):
        assert set(clips.SPLIT_OF[split].voices) == set(voices.TRAIN_VOICES)


@SPEAKS
def test_every_voice_and_accent_is_one_that_espeak_has() -> None:
    for at, voice in enumerate((*voices.TRAIN_VOICES, *voices.TEST_VOICES)):
        accent = voices.ACCENTS[at % len(voices.ACCENTS)]
        assert len(speech.speak("up", speech.Manner(voice, accent, 160, 50))) > 0.05 * speech.RATE


@SPEAKS
@pytest.mark.parametrize("name", ["stop", voices.UNKNOWN, voices.SILENCE])
def test_a_clip_follows_from_its_seed(name: str) -> None:
    babble = [np.random.default_rng(0).normal(size=speech.RATE)]
    clip = clips.Clip("train", name, 3)
    (voice, a), (_, b), (_, c) = (clips.samples_of(clip, babble, seed) for seed in (1, 1, 2))
    assert a.shape == (mixing.CLIP,)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert voice == "nobody" or voice in voices.TRAIN_VOICES


@SPEAKS
def test_half_of_the_unknown_words_of_the_test_are_new() -> None:
    said = [
        clips.word_of(clip, clip.random(1))
        for clip in (clips.Clip("test", voices.UNKNOWN, at) for at in range(40))
    ]
    assert sum(word in voices.STRANGE_WORDS for word in said) == 20
    trained = [
        clips.word_of(clip, clip.random(1))
        for clip in (clips.Clip("train", voices.UNKNOWN, at) for at in range(40))
    ]
    assert not set(trained) & set(voices.STRANGE_WORDS)


@SPEAKS
def test_a_stream_says_what_it_holds_and_nothing_overlaps() -> None:
    samples, said = stream.make_stream(12, 5)
    again, _ = stream.make_stream(12, 5)
    assert np.array_equal(samples, again)
    assert len(said) >= 3
    ends = [0.0]
    for one in said:
        start_s, end_s = float(str(one["start_s"])), float(str(one["end_s"]))
        assert ends[-1] < start_s < end_s < 12
        ends.append(end_s)
        assert one["label"] in voices.CLASSES
        assert one["voice"] in voices.TEST_VOICES
        at = slice(int(start_s * speech.RATE), int(end_s * speech.RATE))
        before = slice(at.start - speech.RATE // 4, at.start)
        assert np.std(samples[at]) > 2 * np.std(samples[before])


def test_a_wav_file_reads_as_it_was_written() -> None:
    samples = np.random.default_rng(1).uniform(-0.9, 0.9, 1600)
    step = DecodeAudio.parse(Fields({}, "test", InputError))
    read = step(speech.wav_bytes(samples)).values
    assert np.abs(read - samples).max() < 1e-4


def test_noise_has_the_level_that_it_promises() -> None:
    random = np.random.default_rng(1)
    babble = [random.normal(size=5000)]
    for kind in mixing.NOISES:
        made = mixing.noise(kind, mixing.CLIP, babble, random)
        assert np.sqrt(np.mean(np.square(made))) == pytest.approx(1, abs=1e-6), kind


def test_no_machine_is_in_two_splits() -> None:
    for a, b in combinations(rows_data.SPLIT_OF.values(), 2):
        assert not set(a.machines) & set(b.machines)
    assert rows_data.SPLIT_OF["train"].ill == rows_data.SPLIT_OF["calibration"].ill == 0


def test_a_row_follows_from_its_seed() -> None:
    a, b, c = (next(rows_data.rows("test", seed)) for seed in (1, 1, 2))
    assert a == b
    assert a.values != c.values
    assert tuple(a.values) == NAMES
    assert all(np.isfinite(list(a.values.values())))


def test_a_defect_shows_at_the_rate_that_the_geometry_gives() -> None:
    machine = rows_data.machine_of(0, 1)
    for fault, rate in (("outer-race", machines.OUTER), ("inner-race", machines.INNER)):
        rows = {
            kind: np.mean(
                [
                    row_of(*machines.record(machine, kind, 1.0, np.random.default_rng([7, at])))
                    for at in range(4)
                ],
                axis=0,
            )
            for kind in (fault, machines.NORMAL)
        }
        rise = (rows[fault] - rows[machines.NORMAL])[-64:]  # the envelope's orders, to 16
        width = (16 - 0.1) / 64
        at = int((rate - 0.1) / width)
        assert rise[at - 1 : at + 2].max() > np.median(rise) + 10, fault


def test_recipes_lead_from_files_to_the_tensors_that_the_networks_take(
    tmp_path: Path, design: fonts.Design
) -> None:
    from PIL import Image

    name, pixels = glyphs.pictures("train", [design], 1, "A", 1)[0]
    Image.fromarray(pixels).save(tmp_path / name)
    (picture,) = Front(EXAMPLES / "glyphs" / "recipe-keras.toml")(
        (tmp_path / name).read_bytes()
    ).values()
    assert picture.shape == (32, 32, 1)
    assert np.allclose(picture[..., 0], pixels / 255 * 2 - 1, atol=1e-6)

    samples = np.random.default_rng(1).normal(0, 0.1, mixing.CLIP)
    (sound,) = Front(EXAMPLES / "keywords" / "recipe.toml")(speech.wav_bytes(samples)).values()
    assert sound.shape == (49, 10, 1)

    train = [dict.fromkeys(NAMES, value) for value in (1.0, 3.0)]
    write_recipe(tmp_path / "recipe.toml", train, 0.5)
    (row,) = Front(tmp_path / "recipe.toml")(train[1]).values()
    assert np.array_equal(row, np.ones(len(NAMES), dtype=np.float32))


@pytest.mark.parametrize(
    ("recipe", "classes"),
    [("glyphs/recipe-keras.toml", tuple(glyphs.CLASSES)), ("keywords/recipe.toml", voices.CLASSES)],
)
def test_labels_of_a_recipe_stand_in_the_order_of_the_folders(
    recipe: str, classes: tuple[str, ...]
) -> None:
    declared = tomllib.loads((EXAMPLES / recipe).read_text())["postprocess"]
    (top,) = (step for step in declared if step["step"] == "top_k")
    assert top["labels"] == list(classes) == sorted(classes)


def test_files_of_a_split_carry_the_place_of_their_class(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
        (tmp_path / name / "notes.txt").write_bytes(b"")
    assert classes_of(tmp_path) == ("a", "b")
    assert files_of(tmp_path) == [(tmp_path / "a" / "1.png", 0), (tmp_path / "b" / "1.png", 1)]


def test_a_stage_is_done_once_and_again_when_its_options_change(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Silent())
    done: list[int] = []
    for options in (1, 1, 2):
        bench.stage("work", ["examples.workbench"], options, partial(done.append, options))
    assert done == [1, 2]


def test_a_stage_that_fails_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Silent())
    done: list[int] = []

    def fail() -> None:
        raise InputError("no")

    bench.stage("work", [], 1, lambda: done.append(1))
    with pytest.raises(InputError):
        bench.stage("work", [], 2, fail)
    bench.stage("work", [], 1, lambda: done.append(1))
    assert done == [1, 1]


def test_rows_are_written_as_recipes_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "train": rows_data.Split(range(1), 1, 0),
        "calibration": rows_data.Split(range(1, 2), 1, 0),
        "test": rows_data.Split(range(2, 3), 1, 1),
    }
    monkeypatch.setattr(rows_data, "SPLIT_OF", small)
    rows_data.make_data(tmp_path, Silent())
    lines = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert [one["label"] for one in lines] == ["normal"] + ["anomaly"] * len(machines.FAULTS)
    assert all(tuple(one["row"]) == NAMES for one in lines)
    details = (tmp_path / "test-details.jsonl").read_text().splitlines()
    assert [json.loads(one)["fault"] for one in details] == ["normal", *machines.FAULTS]


def test_a_stream_is_scored_by_words_heard_missed_and_imagined() -> None:
    said = [
        {"label": "yes", "word": "yes", "start_s": 1.0, "end_s": 1.5},
        {"label": "no", "word": "no", "start_s": 3.0, "end_s": 3.4},
        {"label": "_unknown_", "word": "rice", "start_s": 5.0, "end_s": 5.5},
    ]
    found = score(said, [("yes", 1.7), ("no", 4.6), ("yes", 5.6)])
    assert (found["heard"], found["words"], found["others_said"]) == (1, 2, 1)
    assert found["missed"] == ["no"]
    assert found["false_alarms"] == ["no at 4.6 s", "yes at 5.6 s"]
    assert found["latency_after_word_s"] == 0.2
