"""What one call of a network does: FLOPs, bytes and kernels, by rows, pixels and text tokens."""

from __future__ import annotations

from dataclasses import dataclass

from trt_engines.architectures import stable_diffusion
from trt_engines.architectures.architecture import Architecture

ATTENTION_SLOWDOWN = 1.5
"""Fused attention against matrix products of the same FLOPs.

FlashAttention-2 reaches 50 to 73 % of an A100's peak, matrix products 80 to 90 % (arXiv:2307.08691, abstract and
section 1); the middle of what that allows.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One call, all rows together."""

    flops: float  # matrix products and convolutions, a multiply-add counting as two; attention weighted by its slowness
    weight_bytes: float  # read once in a call, at two bytes a value
    activation_bytes: float  # written or read by kernels, at two bytes a value
    kernels: int  # that run, one after the other
    operations: int  # that a framework would start one by one, had nothing been fused


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkWork:
    """Polynomials of one network, per row; counts are of `trt_export.measuring.traffic`.

    Fused: matrix products, convolutions, attention and normalisations read and write memory, and whatever lies between
    them is done on the way. Unfused: every operation reads its inputs and writes its output.
    """

    name: str
    cell: int  # pixels along one side of a position of its input grid; 0: it sees no image
    parameters: int
    fixed: float = 0.0  # FLOPs
    per_cell: float = 0.0
    per_token: float = 0.0
    per_cell_squared: float = 0.0  # of attention
    per_cell_token: float = 0.0  # of attention
    head_padding: float = 1.0  # attention's kernels round the width of a head up to a power of two
    bytes_fixed: float = 0.0
    bytes_per_cell: float = 0.0
    kernels: int
    unfused_bytes_fixed: float = 0.0
    unfused_bytes_per_cell: float = 0.0
    operations: int

    def work(self, *, rows: int, width: int = 0, height: int = 0, tokens: int = 77, fused: bool = True) -> Work:
        """One call. Args: width, height: pixels. tokens: text tokens of a row. fused: False: operation by operation."""
        cells = width * height / self.cell**2 if self.cell else 0.0
        products = self.fixed + self.per_cell * cells + self.per_token * tokens
        attention = self.per_cell_squared * cells**2 + self.per_cell_token * cells * tokens
        moved = (
            self.bytes_fixed + self.bytes_per_cell * cells
            if fused
            else self.unfused_bytes_fixed + self.unfused_bytes_per_cell * cells
        )
        return Work(
            flops=rows * (products + ATTENTION_SLOWDOWN * self.head_padding * attention),
            weight_bytes=2.0 * self.parameters,
            activation_bytes=rows * moved,
            kernels=self.kernels if fused else self.operations,
            operations=self.operations,
        )


def _work(
    entry: Architecture,
    name: str,
    *,
    kernels: int,
    operations: int,
    bytes_fixed: float,
    unfused_bytes_fixed: float,
    bytes_per_cell: float = 0.0,
    unfused_bytes_per_cell: float = 0.0,
    head_padding: float = 1.0,
) -> NetworkWork:
    """A network of an architecture: FLOPs and weights as its entry says, what it moves as it was counted."""
    network = entry.network(name)
    cost = network.cost
    return NetworkWork(
        name=f"{entry.name} {name}",
        cell=int(cost.cell),
        parameters=network.parameters,
        fixed=cost.fixed,
        per_cell=cost.per_cell,
        per_token=cost.per_token,
        per_cell_squared=cost.per_cell_squared,
        per_cell_token=cost.per_cell_token,
        head_padding=head_padding,
        bytes_fixed=bytes_fixed,
        bytes_per_cell=bytes_per_cell,
        kernels=kernels,
        unfused_bytes_fixed=unfused_bytes_fixed,
        unfused_bytes_per_cell=unfused_bytes_per_cell,
        operations=operations,
    )


STABLE_DIFFUSION_1 = _work(
    stable_diffusion.STABLE_DIFFUSION_1,
    "denoiser",
    head_padding=1.6,  # 40, 80 and 160 wide
    bytes_fixed=11_585_152.0,
    bytes_per_cell=327_254.0,
    kernels=423,
    unfused_bytes_fixed=11_759_236.0,
    unfused_bytes_per_cell=633_414.0,
    operations=726,
)
SDXL = _work(
    stable_diffusion.SDXL,
    "denoiser",
    bytes_fixed=95_504_640.0,
    bytes_per_cell=579_926.0,
    kernels=1190,
    unfused_bytes_fixed=95_739_676.0,
    unfused_bytes_per_cell=1_111_606.0,
    operations=1851,
)
VAE_DECODER = _work(
    stable_diffusion.SDXL,
    "vae_decoder",
    bytes_fixed=3_840.0,
    bytes_per_cell=1_047_960.0,
    kernels=71,
    unfused_bytes_fixed=3_840.0,
    unfused_bytes_per_cell=2_036_152.0,
    operations=142,
)
CLIP_L = _work(
    stable_diffusion.SDXL,
    "text_encoder",
    bytes_fixed=36_915_648.0,
    kernels=108,
    unfused_bytes_fixed=88_364_584.0,
    operations=171,
)
OPEN_CLIP_BIGG = _work(
    stable_diffusion.SDXL,
    "text_encoder_2",
    bytes_fixed=164_643_074.0,
    kernels=291,
    unfused_bytes_fixed=266_162_816.0,
    operations=396,
)
