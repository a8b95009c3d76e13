"""What every stage of the training does at a step: learning rates, one update, and the running average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trt_export.shapes_tiny.train.muon import Muon

Optimizers = tuple[torch.optim.Optimizer, ...]


def start_as_identity(network: nn.Module) -> None:
    """Let every residual branch add nothing at first: a deep network that starts shallow learns sooner."""
    for name, parameter in network.named_parameters():
        if ".conv2." in name:
            nn.init.zeros_(parameter)


def make_optimizers(network: nn.Module, *, hidden: float, others: float, outer: tuple[str, ...]) -> Optimizers:
    """Muon for the hidden weights, AdamW for the rest; each group's `peak` is its highest learning rate.

    Args:
        hidden, others: learning rates of the two.
        outer: parts of the names of weights that face pixels, latents or tokens, and so belong to the rest.
    """
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    weights = [
        parameter
        for name, parameter in trained.items()
        if parameter.ndim > 1 and not any(part in name for part in outer)
    ]
    known = {id(parameter) for parameter in weights}
    rest = [parameter for parameter in trained.values() if id(parameter) not in known]
    made: Optimizers = (
        Muon(weights, lr=hidden),
        torch.optim.AdamW(rest, lr=others, betas=(0.9, 0.95), weight_decay=0.0),
    )
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def descend(loss: torch.Tensor, network: nn.Module, optimizers: Optimizers, step: int, pace: float) -> None:
    """One update of all weights.

    Args:
        step: from 0; the first fifty are a warm-up.
        pace: learning rate as a share of each group's peak.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 50) * pace
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


class Average:
    """Running average of a network's weights over about the last twentieth of its steps, at most 670 of them."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = {name: value.clone() for name, value in network.state_dict().items()}

    def follow(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step; `step` counts from 0."""
        decay = min(0.9985, (1 + step) / (20 + step))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                kept = self.weights[name]
                kept.lerp_(value, 1 - decay) if value.is_floating_point() else kept.copy_(value)


def standing(network: nn.Module, average: Average, optimizers: Optimizers) -> dict[str, Any]:
    """Where a training stands, as values that `resume` goes on from."""
    moments = [optimizer.state_dict() for optimizer in optimizers]
    return {"weights": network.state_dict(), "average": average.weights, "optimizers": moments}


def resume(saved: Mapping[str, Any], network: nn.Module, average: Average, optimizers: Optimizers) -> None:
    """Go on from where a training stood; a finished model has no moments, and the optimisers begin anew."""
    network.load_state_dict(saved["weights"])
    average.weights = saved["average"]
    for optimizer, moments in zip(optimizers, saved["optimizers"], strict=True) if saved["optimizers"] else ():
        optimizer.load_state_dict(moments)
