"""The shapes that an encoder can be cut to, what each would cost, and which of them to try. Pure.

A shape is a depth, a share of the feed-forward neurons and of the attention heads that stay, and a
vocabulary. What it would cost is estimated from the multiplications it leaves, scaled by what was
measured of the original; figures that are reported are always measured later.

Which to try: at each target, a share of the original's cost, of every depth the shape that fits and
does the least damage, because how best to spend a budget between depth and width differs from task
to task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.search.budget import Budget

NEURONS = (1.0, 0.75, 0.5, 0.375, 0.25)
HEADS = (1.0, 5 / 6, 2 / 3, 1 / 2, 1 / 3)
TARGETS = (0.6, 0.4, 0.25, 0.15)
"""Shares of the original's multiplications that are aimed at where a budget bounds no cost."""
FIXED = 0.05
"""Share of the original's latency that no shape takes away: embedding, head, the engine."""
PER_LAYER = 0.05
"""Share of it that goes with the layers, whatever their width: norms and adds.

Fitted, as is `ATTENTION`, to MiniLM-L6 in INT8 on LiteRT at 128 tokens, with VNNI: 10.4 ms, of
which linear maps take 6.8 (1.36 G multiplications) and attention's products with all around them
2.6 (0.075 G)."""
ATTENTION = 7.0
"""A multiplication of attention's products takes so many times as long as one of a linear map: they
are float, short, and come with softmax and with heads that are moved about."""
NEURON_DAMAGE, HEAD_DAMAGE = 0.23, 0.44
"""Cosine that is lost where a share x of them goes, before any training: so many times x².

Fitted to MiniLM-L6 (docs/compression/pruning.md)."""
FIXED_SIZE, PER_LAYER_SIZE = 0.01, 0.03
"""Shares of the original's size, quantized, that are no matrix: one stays, one goes with the
layers, their biases, norms, scales and operators. Fitted to MiniLM-L6 on LiteRT, three entry
points."""
AIM = 0.96
"""Of a bound, what a shape may be estimated at: estimates are right within 4 %, and the original
that the bound is a share of is measured again in the end. What is trained should be within then."""
FILLED = 0.35
"""A shape that would spend less than this of a bound wastes it and is left out."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """What the estimates need of the original: sizes of its parts, all layers alike.

    Without `loose_heads` heads cannot go.
    """

    depth: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    loose_heads: bool = True

    def macs(self, shape: Shape, tokens: int, *, attention: float = 1.0) -> float:
        """Multiplications of a text of `tokens` tokens, embedding and head left out.

        Those of attention's products count `attention` times.
        """
        products = 2 * tokens * self._width(shape)
        return float(shape.depth * tokens * (self._weights(shape) + attention * products))

    def parameters(self, shape: Shape) -> float:
        """Weights of the matrices, the embedding's included."""
        return float(shape.depth * self._weights(shape) + self.hidden * shape.vocabulary)

    def _width(self, shape: Shape) -> float:
        return self.hidden * round(self.heads * shape.heads) / self.heads

    def _weights(self, shape: Shape) -> float:
        """Of one layer."""
        feed_forward = 2 * self.hidden * self.intermediate * shape.neurons
        return 4 * self.hidden * self._width(shape) + feed_forward


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """`neurons` and `heads` are the shares that stay, 0..1; `vocabulary` is a number of tokens."""

    depth: int
    neurons: float
    heads: float
    vocabulary: int

    @property
    def name(self) -> str:
        """A name that decodes, as `d3-n50-h100-v9k`."""
        return (
            f"d{self.depth}-n{round(100 * self.neurons)}-h{round(100 * self.heads)}"
            f"-v{round(self.vocabulary / 1000)}k"
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Of the original, quantized for its best engine: latency in ms, size of the file."""

    latency_ms: float
    size_bytes: float


def whole(encoder: Encoder, vocabulary: int) -> Shape:
    """The original's own shape, with this vocabulary."""
    return Shape(encoder.depth, 1.0, 1.0, vocabulary)


def latency_ms(encoder: Encoder, shape: Shape, measured: Measured, tokens: int) -> float:
    """Estimated latency at `tokens` tokens."""
    original = whole(encoder, 0)
    work = [encoder.macs(one, tokens, attention=ATTENTION) for one in (shape, original)]
    layers = PER_LAYER * shape.depth / original.depth
    share = FIXED + layers + (1 - FIXED - PER_LAYER) * work[0] / work[1]
    return measured.latency_ms * share


def damage(shape: Shape) -> float:
    """What a shape is expected to lose of its layers' answers; to compare shapes of one depth."""
    return NEURON_DAMAGE * (1 - shape.neurons) ** 2 + HEAD_DAMAGE * (1 - shape.heads) ** 2


def size_bytes(encoder: Encoder, shape: Shape, measured: Measured) -> float:
    """Estimated size of the quantized file."""
    original = whole(encoder, encoder.vocabulary)
    layers = PER_LAYER_SIZE * shape.depth / original.depth
    matrices = encoder.parameters(shape) / encoder.parameters(original)
    share = FIXED_SIZE + layers + (1 - FIXED_SIZE - PER_LAYER_SIZE) * matrices
    return measured.size_bytes * share


def promising(
    encoder: Encoder,
    budget: Budget,
    measured: Measured,
    *,
    tokens: int,
    vocabularies: Sequence[int],
    count: int,
) -> list[Shape]:
    """At most `count` shapes to train, the most capable of each depth first.

    `vocabularies` are those that texts of the domain can do with, the largest first; the largest
    that fits the size is taken.
    """
    bounds = [budget.latency_ms] if budget.latency_ms else [
        target * measured.latency_ms for target in TARGETS
    ]  # fmt: skip
    ranked: list[list[Shape]] = []
    for bound in bounds:
        fitting = [
            shape
            for depth in range(encoder.depth, 0, -1)
            if (shape := _best(encoder, depth, bound, budget, measured, tokens, vocabularies))
        ]
        ranked.append(sorted(fitting, key=lambda one: -encoder.macs(one, tokens)))
    found: list[Shape] = []
    for place in range(max(map(len, ranked), default=0)):
        for fitting in ranked:
            if place < len(fitting) and fitting[place] not in found:
                found.append(fitting[place])
    return found[:count]


def _best(
    encoder: Encoder,
    depth: int,
    bound_ms: float,
    budget: Budget,
    measured: Measured,
    tokens: int,
    vocabularies: Sequence[int],
) -> Shape | None:
    """The shape of this depth that fits and does the least damage; of these the most words."""
    fitting = [
        shape
        for heads in (HEADS if encoder.loose_heads else HEADS[:1])
        for neurons in NEURONS
        for vocabulary in vocabularies
        if _fits(encoder, shape := Shape(depth, neurons, heads, vocabulary), bound_ms, budget,
                 measured, tokens)
    ]  # fmt: skip
    return min(fitting, key=lambda one: (damage(one), -one.vocabulary), default=None)


def _fits(
    encoder: Encoder,
    shape: Shape,
    bound_ms: float,
    budget: Budget,
    measured: Measured,
    tokens: int,
) -> bool:
    """Whether the shape's estimates are within the bounds, and use enough of the time."""
    found = latency_ms(encoder, shape, measured, tokens)
    size = size_bytes(encoder, shape, measured)
    small = not budget.size_bytes or size <= AIM * budget.size_bytes
    return small and FILLED * bound_ms <= found <= AIM * bound_ms
