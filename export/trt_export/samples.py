"""At which shapes an exported graph is compared with PyTorch."""

from __future__ import annotations

from trt_engines.architectures.network import Network
from trt_engines.bucket import Bucket

SAMPLES = (
    Bucket(width=192, height=256, rows=1, tokens=77),
    Bucket(width=264, height=136, rows=2, tokens=96),
)
"""Buckets of every certificate: two, that differ in every axis, so that an axis which was traced as a number shows; one
has sides that no halving divides. They are small: what a wrong weight, a wrong operator or half precision does to a
network's output does not depend on the size of the picture, and what they cost is nearly all of a certificate.

They do not depend on the card, so that engines of a graph share its certificate.
"""


def sample_flops(network: Network) -> float:
    """FLOPs of computing the samples of a network once."""
    return sum(
        sample.rows * network.cost.flops(width=sample.width, height=sample.height, tokens=sample.tokens)
        for sample in SAMPLES
    )
