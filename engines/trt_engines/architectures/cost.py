"""What one evaluation of a network costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one evaluation of one row costs: polynomials in image cells and text tokens.

    An image cell is one position of the network's coarsest *input* grid (a latent position, or a packed 2x2 patch).

    FLOPs = fixed + per_cell * cells + per_cell_squared * cells^2 + per_token * tokens + per_cell_token * cells * tokens
    + per_token_squared * tokens^2, a multiply-add counting as two.

    Exact where every level of the network divides the sides. Where they are rounded up on the way down, a U-Net
    computes more: 1 to 2 % at 1080 x 720 pixels, 4 to 7 % at 520 x 520, 10 to 13 % at 264 x 264. That is not counted.
    """

    cell: float  # pixels along one side of an image cell; 0: the network sees no image
    fixed: float = 0.0
    per_cell: float = 0.0
    per_cell_squared: float = 0.0
    per_token: float = 0.0
    per_cell_token: float = 0.0
    per_token_squared: float = 0.0
    activation_bytes_per_cell: float = 0.0  # at two bytes a value: the most that is alive at once
    activation_bytes_per_token: float = 0.0

    def flops(self, *, width: int, height: int, tokens: int) -> float:
        """FLOPs of one row.

        Args: width, height: pixels. tokens: text tokens.
        """
        cells = width * height / self.cell**2 if self.cell else 0.0
        return (
            self.fixed
            + self.per_cell * cells
            + self.per_cell_squared * cells**2
            + self.per_token * tokens
            + self.per_cell_token * cells * tokens
            + self.per_token_squared * tokens**2
        )

    def activation_bytes(self, *, width: int, height: int, tokens: int) -> float:
        """Bytes of activations of one row at two bytes a value."""
        cells = width * height / self.cell**2 if self.cell else 0.0
        return self.activation_bytes_per_cell * cells + self.activation_bytes_per_token * tokens
