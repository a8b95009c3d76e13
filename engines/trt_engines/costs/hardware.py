"""What a card computes and moves in a second, beyond what `cards` lists: multiprocessors, power, link, clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trt_engines.cards import Card, UnknownCard, card


class Arithmetic(StrEnum):
    """What matrix products are computed in. A speed without it is not comparable: they differ by factors of two."""

    FLOAT32 = "float32"  # outside of tensor cores
    TENSOR_FLOAT32 = "tensor_float32"  # float32 values rounded on their way into tensor cores, from SM80
    FLOAT16 = "float16"  # summed in float32
    FLOAT16_SUMS = "float16_sums"  # float16, summed in float16: twice as fast on GeForce cards
    EIGHT_BITS = "eight_bits"  # int8, or float8 at its fastest summation

    @property
    def value_bytes(self) -> int:
        """Bytes of an activation. Values between eight-bit products stay in half precision."""
        return 4 if self in {Arithmetic.FLOAT32, Arithmetic.TENSOR_FLOAT32} else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A card with what a cost needs of its chip."""

    card: Card
    multiprocessors: int
    lanes: int  # float32 multiply-adds that a multiprocessor starts in a cycle
    watts: float  # of the whole board, at its listed limit
    float16_sums: float  # rate with float16 sums over the rate with float32 sums: 2 on GeForce tensor cores, else 1
    link: float  # bytes a second and direction between host and card, as listed
    cache: float  # bytes of L2

    @property
    def clock(self) -> float:
        """Listed boost clock in Hz: what the float32 peak is stated at."""
        return self.card.fp32_tflops * 1e12 / (2 * self.lanes * self.multiprocessors)

    def peak(self, arithmetic: Arithmetic) -> float:
        """Dense FLOP/s at the listed boost clock.

        Raises: ValueError: the card has no units for it.
        """
        float16 = self.card.fp16_tflops * 1e12
        if arithmetic is Arithmetic.FLOAT32:
            return self.card.fp32_tflops * 1e12
        if arithmetic is Arithmetic.FLOAT16:
            return float16
        if arithmetic is Arithmetic.FLOAT16_SUMS:
            return float16 * self.float16_sums
        if not self.card.tensor_cores or (arithmetic is Arithmetic.TENSOR_FLOAT32 and self.card.sm < 80):
            raise ValueError(f"{self.card.name} does not compute in {arithmetic}")
        return float16 / 2 if arithmetic is Arithmetic.TENSOR_FLOAT32 else float16 * self.float16_sums * 2


def hardware(name: str) -> Hardware:
    """The hardware of a card, by any name that `cards.card` takes.

    Raises: UnknownCard: no such card, or nothing is listed here about its chip; the message names those that are.
    """
    known = card(name)
    if known.name not in _CHIPS:
        raise UnknownCard(f"the cost model has no chip data of {known.name}; it knows {', '.join(_CHIPS)}")
    multiprocessors, watts, float16_sums, link, cache = _CHIPS[known.name]
    return Hardware(
        card=known,
        multiprocessors=multiprocessors,
        lanes=64 if known.sm in {60, 70, 75, 80} else 128,
        watts=watts,
        float16_sums=float16_sums,
        link=link * 1e9,
        cache=cache * 2**20,
    )


_PCIE_3, _PCIE_4_X8, _PCIE_4, _PCIE_5 = 15.8, 15.8, 31.5, 63.0
"""GB/s in one direction: lanes times the transfer rate, less the line coding."""

_CHIPS: dict[str, tuple[int, float, float, float, float]] = {
    "GTX 1660": (22, 120, 1, _PCIE_3, 1.5),
    "GTX 1660 Super": (22, 125, 1, _PCIE_3, 1.5),
    "RTX 3060": (28, 170, 2, _PCIE_4, 3),
    "RTX 3090": (82, 350, 2, _PCIE_4, 6),
    "RTX 4060 Ti 16GB": (34, 165, 2, _PCIE_4_X8, 32),
    "RTX 4080": (76, 320, 2, _PCIE_4, 64),
    "RTX 4090": (128, 450, 2, _PCIE_4, 72),
    "RTX 5090": (170, 575, 2, _PCIE_5, 96),
    "A100 80GB": (108, 400, 1, _PCIE_4, 40),
    "H100": (132, 700, 1, _PCIE_5, 50),
    "H100 PCIe": (114, 350, 1, _PCIE_5, 50),
    "H200": (132, 700, 1, _PCIE_5, 50),
    "H200 NVL": (132, 600, 1, _PCIE_5, 50),
    "B200": (148, 1000, 1, _PCIE_5, 126),
    "L4": (58, 72, 1, _PCIE_4, 48),
    "L40S": (142, 350, 1, _PCIE_4, 96),
    "RTX 6000 Ada": (142, 300, 1, _PCIE_4, 96),
    "RTX 2000E Ada": (22, 50, 1, _PCIE_4_X8, 12),
    "RTX PRO 6000": (188, 600, 1, _PCIE_5, 128),
}
"""Multiprocessors, watts, gain of float16 sums, link in GB/s, L2 in MiB, by card.

Source: NVIDIA's specification pages and architecture whitepapers, from memory and not looked up again.
"""
