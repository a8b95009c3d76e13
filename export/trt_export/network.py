"""What every exported network has in common."""

from __future__ import annotations

from typing import Any

from torch import nn


class Network(nn.Module):
    """A library's network behind a component's inputs and outputs: `forward` has those, `model` has the weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
