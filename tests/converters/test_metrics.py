"""Metrics give what their definitions give by hand, and a stranger's function is held to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.bootstrap import DRAWS, interval, paired, paired_scores
from converters.metrics import METRICS, find_metric, nearest
from edge_runtime.errors import InputError

LOGITS = np.array([[2, 1, 0], [0, 3, 1], [0, 1, 5], [4, 0, 1]], dtype=np.float32)
LABELS = np.array([0, 1, 1, 0])


def value(name: str, answers: object, reference: object = LOGITS, targets: object = None) -> float:
    found = METRICS[name].of(
        np.asarray(answers, np.float32), np.asarray(reference, np.float32),
        None if targets is None else np.asarray(targets),
    )  # fmt: skip
    return found.value


def test_accuracy_is_the_share_of_right_rows() -> None:
    assert value("accuracy", LOGITS, targets=LABELS) == 0.75


def test_macro_f1_counts_each_class_alike() -> None:
    # Found 0, 1, 2, 0 of 0, 1, 1, 0: F1 is 1 for class 0, 2/3 for class 1, 0 for class 2.
    assert value("macro-f1", LOGITS, targets=LABELS) == pytest.approx(5 / 9)


def test_agreement_looks_at_the_reference_only() -> None:
    assert value("agreement", LOGITS[[0, 1, 2, 1]]) == 0.75


def test_cosine_of_a_row_that_is_not_finite_is_nothing() -> None:
    spoiled = LOGITS.copy()
    spoiled[0, 0] = np.nan
    assert METRICS["cosine"].of(spoiled, LOGITS, None).scores == pytest.approx([0, 1, 1, 1])


def test_recall_is_the_share_of_the_same_neighbours() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(700, 16)).astype(np.float32)
    assert value("recall@10", vectors, vectors) == 1
    assert value("recall@10", 3 * vectors, vectors) == 1
    assert value("recall@10", generator.normal(size=(700, 16)), vectors) < 0.1
    close = vectors + 0.05 * generator.normal(size=vectors.shape)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    others = close / np.linalg.norm(close, axis=1, keepdims=True)

    def near(rows: np.ndarray, place: int) -> set[int]:
        return set(np.argsort(-(rows @ rows[place]))[1:11].tolist())

    by_hand = np.mean([len(near(units, i) & near(others, i)) / 10 for i in range(700)])
    assert value("recall@10", close, vectors) == pytest.approx(by_hand, abs=1e-6)
    assert 0.5 < by_hand < 1


def test_asymmetric_recall_looks_in_the_references_index() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 16)).astype(np.float32)
    close = (vectors + 0.3 * generator.normal(size=vectors.shape)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def near(query: np.ndarray, place: int) -> set[int]:
        ranked = np.argsort(-(units @ query)).tolist()
        return set([one for one in ranked if one != place][:10])

    by_hand = np.mean([len(near(close[i], i) & near(units[i], i)) / 10 for i in range(300)])
    assert value("asymmetric-recall@10", close, vectors) == pytest.approx(by_hand, abs=1e-6)
    assert value("recall@10", close, vectors) < by_hand < 1
    assert value("asymmetric-recall@10", vectors, vectors) == 1


def test_nearest_leaves_the_row_itself_out() -> None:
    same = np.ones((5, 3), dtype=np.float32)
    assert all(row not in found for row, found in enumerate(nearest(same, 4).tolist()))


def test_tokens_that_do_not_count_are_left_out() -> None:
    labels = [0, 2, -100, 0]
    assert value("token-accuracy", LOGITS, targets=labels) == pytest.approx(2 / 3)
    # Inside are the found 1 of row 1 and the wanted 2 of row 1: no hit of two.
    assert value("token-f1", LOGITS, targets=labels) == 0
    assert value("token-f1", LOGITS, targets=[0, 1, -100, 0]) == 1


def test_regression_is_measured_on_the_first_output() -> None:
    answers, wanted = [[1.0], [2.0], [4.0]], [1.0, 3.0, 4.0]
    assert value("mae", answers, targets=wanted) == pytest.approx(-1 / 3)
    assert value("rmse", answers, targets=wanted) == pytest.approx(-((1 / 3) ** 0.5))
    assert value("r2", answers, targets=wanted) == pytest.approx(1 - 1 / (14 / 3))
    assert value("spearman", answers, targets=wanted) == pytest.approx(1)
    assert value("spearman", answers, targets=[3.0, 2.0, 2.0]) == pytest.approx(-0.8660254)


def test_a_metric_that_needs_labels_says_so() -> None:
    with pytest.raises(InputError, match="metric accuracy: needs labels"):
        value("accuracy", LOGITS)


USERS = """
import numpy as np
def first(answers, reference, targets): return answers[:, 0]
def one(answers, reference, targets): return 0.25
def wrong(answers, reference, targets): return np.ones(7)
def fails(answers, reference, targets): raise KeyError("price")
def leaves(answers, reference, targets): raise SystemExit(0)
def sorts(answers, reference, targets): return answers.sort(axis=0)
"""


@pytest.fixture
def users(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(USERS)
    return tmp_path


def test_a_function_of_the_user_is_a_metric(users: Path) -> None:
    assert find_metric("mine.py:first", base=users).of(LOGITS, LOGITS, None).value == 1.5
    assert find_metric("mine.py:one", base=users).of(LOGITS, LOGITS, None).value == 0.25
    assert find_metric("mine.py:one", base=users).of(LOGITS, LOGITS, None).scores is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mine.py:wrong", r"returned an array of shape \[7\], expected a finite number or one for"),
        ("mine.py:fails", "KeyError: 'price'"),
        ("mine.py:leaves", "SystemExit: 0"),
        ("mine.py:sorts", "ValueError: .*read-only"),
        ("mine.py:other", "has no function 'other'"),
        ("their.py:one", "there is no file"),
        ("precision", "expected one of accuracy, macro-f1"),
    ],
)
def test_a_metric_that_cannot_be_had_is_named(users: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_metric(name, base=users).of(LOGITS, LOGITS, None)


def test_what_a_user_imports_may_leave_or_look_for_itself(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(InputError, match=r"leaves\.py cannot be imported"):
        find_metric("leaves.py:one", base=tmp_path)
    (tmp_path / "classes.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Price:\n    euro: float\n"
        "def one(answers, reference, targets): return Price(0.5).euro\n"
    )
    assert find_metric("classes.py:one", base=tmp_path).of(LOGITS, LOGITS, None).value == 0.5


@pytest.mark.parametrize("n", [100, 1000, 3144])
def test_a_share_of_rows_is_exact(n: int) -> None:
    """A loss of exactly what may be lost must not be over it by a rounding."""
    for wrong in range(1, n // 10):
        logits = np.zeros((n, 2), dtype=np.float32)
        logits[:, 0], logits[:wrong, 1] = 0.5, 1.0
        targets = np.zeros(n, dtype=np.int64)
        found = METRICS["accuracy"].of(logits, logits, targets).value
        assert abs(found - (n - wrong) / n) < 1e-12


def answers_right(share: float, n: int = 2000, seed: int = 1) -> np.ndarray:
    """Logits of two classes, right on `share` of rows whose label is 0."""
    right = np.random.default_rng(seed).random(n) < share
    return np.stack([right, ~right], axis=1).astype(np.float32)


def test_a_real_loss_is_told_from_none() -> None:
    labels = np.zeros(2000, dtype=np.int64)
    good, bad = answers_right(0.8), answers_right(0.74, seed=2)
    lost = paired(METRICS["accuracy"], bad, good, good, labels).difference
    assert not lost.no_worse
    assert lost.worse > 0.99
    assert lost.value == pytest.approx(-0.06, abs=0.03)
    same = paired(METRICS["accuracy"], good, good, good, labels).difference
    assert (same.value, same.interval, same.worse) == (0, (0, 0), 0.5)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    labels = np.zeros(2000, dtype=np.int64)
    good = answers_right(0.8)
    worse = good.copy()
    worse[np.flatnonzero(good[:, 0])[:30]] = [0, 1]
    assert not paired(METRICS["accuracy"], worse, good, good, labels).difference.no_worse
    a, b = (interval((one[:, 0] > 0).astype(np.float32)) for one in (worse, good))
    assert a[1] > b[0]


def test_a_figure_without_row_scores_is_drawn_anew(users: Path) -> None:
    labels = np.zeros(300, dtype=np.int64)
    good, bad = answers_right(0.9, 300), answers_right(0.5, 300, seed=2)
    assert not paired(METRICS["macro-f1"], bad, good, good, labels).difference.no_worse


def test_the_interval_is_that_of_theory_and_the_same_each_time() -> None:
    scores = (np.random.default_rng(3).random(1000) < 0.5).astype(np.float32)
    low, high = interval(scores)
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 1000) ** 0.5, rel=0.1)
    assert interval(scores) == (low, high)
    assert paired_scores(scores, 1 - scores).n == 1000
    assert DRAWS >= 1000
