"""What every exported module has in common."""

from __future__ import annotations

from typing import Any

from torch import nn


class LibraryModule(nn.Module):
    """A library's network behind a network's ports: `forward` takes and gives those, `model` has the weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
