"""Muon: momentum whose matrix updates are made orthogonal, so that every direction of a weight moves alike.

On the small autoencoder, 2.5 minutes of it (350 steps) brought held-out shapes to 14.8 dB, and AdamW (430) to 11.1.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (the quintic's coefficients too).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest matrix with singular values near 1: five Newton-Schulz iterations of the quintic.

    Args:
        matrix: [m, n].
    """
    a, b, c = _QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    estimate = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        square = estimate @ estimate.T
        estimate = a * estimate + (b * square + c * square @ square) @ estimate
    return estimate if wide is matrix else estimate.T


class Muon(torch.optim.Optimizer):
    """For weights of two and more axes: convolutions are taken as [out, in * kernel] matrices.

    Args:
        parameters: hidden weights; embeddings, first and last layers, biases and norms belong to AdamW.
        lr: step size as a share of a matrix of singular values 1, as in 0.02.
        momentum: Nesterov momentum, 0..1.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    def step(self, closure: Any = None) -> None:
        """One update from the gradients."""
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, parameter.grad, group["lr"], group["momentum"])

    def _move(self, parameter: torch.Tensor, gradient: torch.Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        momentum.mul_(decay).add_(gradient)
        matrix = gradient.add(momentum, alpha=decay).flatten(1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.add_(orthogonalised(matrix).reshape(parameter.shape), alpha=-rate * scale)
