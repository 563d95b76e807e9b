"""What a linear map saw: second moments of its inputs and of what it should have answered.

They are all that least squares needs, so texts stream by and only (inputs, inputs) and
(inputs, outputs) stay. Batches are multiplied in float32 and summed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Quadratic:
    """How far a map with weights w, (inputs, outputs), is from what it should answer.

    Up to a constant that is tr(w' curvature w) - 2 tr(w' pull), a mean over tokens; `curvature` is
    (inputs, inputs) and positive definite, `pull` (inputs, outputs). The bias that goes with w is
    `target_mean - input_mean @ w`. All are float64.
    """

    curvature: torch.Tensor
    pull: torch.Tensor
    input_mean: torch.Tensor
    target_mean: torch.Tensor

    def weights(self, kept: torch.Tensor) -> torch.Tensor:
        """The best weights where inputs not in `kept`, int64, have none: (kept, outputs)."""
        root = torch.linalg.cholesky(self.curvature[kept][:, kept])
        return torch.cholesky_solve(self.pull[kept], root)

    def bias(self, kept: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The bias that goes with `weights`, (outputs,)."""
        return self.target_mean - self.input_mean[kept] @ weights


class Moments:
    """Running sums over tokens of inputs x, (inputs,), and targets t, (outputs,)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        wide = torch.float64
        self.count = 0
        self.inputs = torch.zeros(inputs, dtype=wide)
        self.targets = torch.zeros(outputs, dtype=wide)
        self.squares = torch.zeros(inputs, inputs, dtype=wide)
        self.products = torch.zeros(inputs, outputs, dtype=wide)

    def add(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Tokens of one batch: (tokens, inputs) and (tokens, outputs), float32."""
        self.count += len(inputs)
        self.inputs += inputs.sum(0, dtype=torch.float64)
        self.targets += targets.sum(0, dtype=torch.float64)
        self.squares += inputs.T @ inputs
        self.products += inputs.T @ targets

    @property
    def energy(self) -> torch.Tensor:
        """The mean of x², (inputs,)."""
        return self.squares.diagonal() / self.count

    def quadratic(self, weights: torch.Tensor, *, ridge: float) -> Quadratic:
        """The loss around the mean, pulled gently to `weights`, (inputs, outputs).

        `ridge` is in units of the inputs' mean variance; it decides what becomes of directions
        that the texts never went in.
        """
        mean, target = self.inputs / self.count, self.targets / self.count
        curvature = self.squares / self.count - torch.outer(mean, mean)
        pull = self.products / self.count - torch.outer(mean, target)
        strength = ridge * curvature.diagonal().mean().clamp(min=1e-12)
        curvature.diagonal().add_(strength)
        return Quadratic(curvature, pull + strength * weights.double(), mean, target)
