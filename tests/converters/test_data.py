"""Data is read line by line and whole, or refused with the line; splits do not overlap."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from converters.data import load_dataset, read_rows
from converters.recipe import DataConfig
from edge_runtime.errors import InputError
from tests.converters.small import CLASSES, as_lines

TASK = "text-classification"


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    names = {"train": 6, "calibration": 5, "test": 6}
    for name, count in names.items():
        rows = [{"text": f"{name} {n}", "label": "ab"[n % 2]} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text(as_lines(rows))
    train, calibration, test = (tmp_path / f"{name}.jsonl" for name in names)
    return DataConfig(train, calibration, test, None, "text", "label", 16)


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_small_data_holds_its_classes_in_order(workshop: Path) -> None:
    config = DataConfig(
        workshop / "train.jsonl", workshop / "calibration.jsonl", workshop / "test.jsonl.xz",
        None, "text", "label", 48,
    )  # fmt: skip
    data = load_dataset(config, TASK)
    assert data.classes == CLASSES
    assert data.train is not None
    assert (len(data.train), len(data.calibration), len(data.test)) == (240, 36, 100)
    assert set(data.indexes(data.test).tolist()) == {0, 1, 2, 3}


def test_plain_and_packed_give_the_same_rows(tmp_path: Path) -> None:
    lines = as_lines([{"text": "ä", "label": "x"}])
    plain = read_rows(written(tmp_path / "a.jsonl", lines), "text", "label")
    packed = read_rows(
        written(tmp_path / "a.jsonl.xz", lzma.compress(lines.encode())), "text", "label"
    )
    assert (plain.texts, plain.labels, plain.sha256) == (packed.texts, packed.labels, packed.sha256)


def test_the_first_rows_are_another_data_set(config: DataConfig) -> None:
    rows = load_dataset(config, TASK).test
    assert rows.first(0) is rows
    assert rows.first(99) is rows
    assert rows.first(2).texts == ("test 0", "test 1")
    assert rows.first(2).sha256 != rows.sha256


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no rows"),
        (b'{"text": "a", "label": "b"}\n{"text": "a"}\n',
             "line 2: column 'label' is missing; found are text"),
            (b'{"words": "a"}\n', "line 1: column 'text' is missing; found are words"),
            (b'{"text": " ", "label": "b"}\n', "line 1: text is empty, expected words"),
        (b'{"text": 5, "label": "b"}\n', "line 1: text must be a string, found 5"),
        (b'{"text": "a"\n', "line 1: not valid JSON"),
        (b"\xff\xfe\n", "line 1: not valid JSON"),
        (b"[1, 2]\n", "line 1: expected an object, found a list"),
        (b'{"text": "' + b"x" * (1 << 20) + b'"}\n', "line 1: at most 1048576 bytes a line"),
    ],
)  # fmt: skip
def test_a_faulty_line_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_rows(written(tmp_path / "rows.jsonl", content), "text", "label")
    assert says in str(caught.value)
    assert "rows.jsonl" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", '\n{"text": "a"}\n\n')
    assert read_rows(path, "text", None).texts == ("a",)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    packed = lzma.compress(as_lines([{"text": "a " * 500}] * 200).encode())
    for content in (packed[: len(packed) // 2], b"not xz at all", packed[:-9] + b"x" * 9):
        with pytest.raises(InputError, match=r"not a whole \.xz file"):
            read_rows(written(tmp_path / "rows.jsonl.xz", content), "text", None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jsonl: cannot be read \(No such file"):
        read_rows(tmp_path / "nowhere.jsonl", "text", None)


def test_one_class_is_no_classification(config: DataConfig) -> None:
    assert config.train is not None
    rows = [{"text": f"t{n}", "label": "only"} for n in range(3)]
    config.train.write_text(as_lines(rows))
    with pytest.raises(InputError, match=r"hold 1 class \(only\), expected 2"):
        load_dataset(config, TASK)


def test_a_test_set_of_one_class_proves_nothing(config: DataConfig) -> None:
    assert config.test is not None
    config.test.write_text(as_lines([{"text": f"t{n}", "label": "a"} for n in range(3)]))
    with pytest.raises(InputError, match=r"test\.jsonl: every row is 'a', expected at least 2"):
        load_dataset(config, TASK)


def test_a_label_that_is_never_trained_is_refused(config: DataConfig) -> None:
    assert config.test is not None
    config.test.write_text(as_lines([{"text": "t", "label": "c"}]))
    with pytest.raises(InputError, match=r"label 'c' does not stand in .*train\.jsonl"):
        load_dataset(config, TASK)


def test_calibration_may_not_be_the_test_set_under_another_name(config: DataConfig) -> None:
    assert config.calibration is not None
    assert config.test is not None
    config.calibration.write_text(config.test.read_text())
    with pytest.raises(InputError, match="6 of 6 calibration rows also stand in"):
        load_dataset(config, TASK)


def test_the_test_set_may_not_be_what_was_trained_on(config: DataConfig) -> None:
    assert config.train is not None
    assert config.test is not None
    config.test.write_text(config.train.read_text())
    with pytest.raises(InputError, match=r"6 of 6 test texts also stand in .*train\.jsonl; train"):
        load_dataset(config, TASK)
    rows = [{"text": f"test {n}", "label": "ab"[n % 2]} for n in range(9)]
    config.test.write_text(as_lines([*rows, {"text": "train 0", "label": "a"}]))
    assert len(load_dataset(config, TASK).test) == 10, "short texts do repeat"


def test_a_few_shared_texts_are_left_out_of_calibration(config: DataConfig) -> None:
    assert config.calibration is not None
    rows = [{"text": f"calibration {n}"} for n in range(30)]
    config.calibration.write_text(as_lines([*rows, {"text": "test 3"}]))
    data = load_dataset(config, TASK)
    assert len(data.calibration) == 30
    assert "test 3" not in data.calibration.texts


def test_a_task_without_labels_needs_no_label_column(config: DataConfig) -> None:
    for path in (config.calibration, config.test):
        assert path is not None
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        path.write_text(as_lines([{"text": text} for text in texts]))
    data = load_dataset(replace(config, train=None), "embedding")
    assert data.classes == ()
    assert data.test.labels is None


def test_a_task_without_labels_learns_from_the_texts_of_training_rows(config: DataConfig) -> None:
    data = load_dataset(config, "embedding")
    assert data.train is not None
    assert len(data.train) == 6
    assert data.train.labels is None
    assert data.classes == ()
