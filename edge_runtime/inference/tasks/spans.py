"""The step `spans`: a label for every token to stretches of the text, with offsets.

Labels are of the usual kinds: "B-PER", "I-PER" and "O", or without prefixes. Tokens become words
or stay alone, neighbours of one label become a span. It is what transformers' pipeline does with
the strategies of the same names.

Source: Ramshaw and Marcus 1995 (the inside-outside-begin scheme); transformers,
`TokenClassificationPipeline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.results import FloatArray, Span

STRATEGIES = ("simple", "first", "average", "max")
MAX_LABELS = 1 << 16


@dataclass(frozen=True, slots=True)
class Token:
    """Characters `start` to `end` of the text, and the number of the word that it is part of."""

    start: int
    end: int
    word: int


@dataclass(frozen=True, slots=True)
class FindSpans:
    """Options of the step: `labels` (one for each output), `strategy`, `ignore`.

    `strategy` says which label a word of several tokens has: each token its own ("simple"), that
    of the first, of the mean of all, or of the surest.
    """

    labels: tuple[str, ...]
    strategy: str
    ignore: tuple[str, ...]

    @classmethod
    def parse(cls, options: Fields) -> FindSpans:
        """From the step's options; faults go to `options`."""
        labels = options.texts("labels", max_items=MAX_LABELS)
        if not labels:
            options.fault(f"{options.where}: labels is empty")
        return cls(
            labels=labels,
            strategy=options.choice("strategy", STRATEGIES, "simple"),
            ignore=options.texts("ignore", ("O",), max_items=MAX_LABELS),
        )

    def __call__(self, rows: FloatArray, tokens: Sequence[Token | None]) -> tuple[Span, ...]:
        """Probabilities, (tokens, labels), of `tokens`; None where one is special or padding."""
        pieces = [(rows[at], token) for at, token in enumerate(tokens) if token is not None]
        words = [[piece] for piece in pieces] if self.strategy == "simple" else _words(pieces)
        spans: list[Span] = []
        group: list[tuple[str, float, int, int]] = []
        for word in words:
            label, score = self._label(np.stack([row for row, _ in word]))
            begins, tag = _parts(label)
            if group and (begins or _parts(group[-1][0])[1] != tag):
                spans += self._span(group)
                group = []
            group.append((label, score, word[0][1].start, word[-1][1].end))
        return (*spans, *self._span(group))

    def _label(self, rows: FloatArray) -> tuple[str, float]:
        """Of a word: of the probabilities of its tokens, (tokens, labels)."""
        if self.strategy == "average":
            row = rows.mean(axis=0)
        elif self.strategy == "max":
            row = rows[int(rows.max(axis=1).argmax())]
        else:
            row = rows[0]
        best = int(row.argmax())
        return self.labels[best], float(row[best])

    def _span(self, group: Sequence[tuple[str, float, int, int]]) -> list[Span]:
        """One span of neighbours with one tag, or none where the tag is ignored."""
        if not group or group[0][0] in self.ignore:
            return []
        tag = _parts(group[0][0])[1]
        if tag in self.ignore:
            return []
        score = float(np.mean([one[1] for one in group]))
        return [Span(tag, score, group[0][2], group[-1][3])]


def _words(pieces: Sequence[tuple[FloatArray, Token]]) -> list[list[tuple[FloatArray, Token]]]:
    words: list[list[tuple[FloatArray, Token]]] = []
    for piece in pieces:
        if words and words[-1][-1][1].word == piece[1].word:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _parts(label: str) -> tuple[bool, str]:
    """Whether a label begins a span, and its tag; "PER" is inside, as "I-PER" is."""
    if label.startswith(("B-", "I-")):
        return label[0] == "B", label[2:]
    return False, label
