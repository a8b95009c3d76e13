"""What the operations of the worker's loop cost on a card: the cost model behind the simulated device."""

from __future__ import annotations

from dataclasses import dataclass

from trt_engines.architectures.network import Role
from trt_engines.architectures.registry import architecture
from trt_engines.costs.hardware import Arithmetic, Hardware
from trt_engines.costs.roofline import copy_seconds, evaluation_seconds, kernel_seconds, occupancy, ramp_seconds
from trt_engines.costs.work import NetworkWork
from trt_engines.devices.operations import (
    CopyOperation,
    Direction,
    FillOperation,
    KernelOperation,
    NetworkOperation,
    Operation,
)
from trt_perf.simulation.trace import FAMILIES

SUBMIT_SECONDS = 10e-6
"""Estimate: what each thing that is asked of the card costs the host. A step asks for ten, for which the loop takes 70
to 90 us of Python (`step_host_us` of the suite `device`); the driver's own call takes a few microseconds more.

Left out: the drawing of an image's first noise and the cutting of a prompt into tokens, 2 ms each, while the card has
steps ahead."""

_FAMILIES = {family.name: family for family in FAMILIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an operation takes of the card."""

    seconds: float  # if it has the card to itself
    share: float  # of the card that it keeps busy meanwhile, 0..1


class CardCosts:
    """The cost model's answer for a card whose engines run as CUDA graphs; engines are called `family/network`.

    Denoisers and text encoders sum in float16, as the published TensorRT speeds of GeForce cards do; the decoder is
    bfloat16, since half precision overflows in it.
    """

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._known: dict[Operation, Cost] = {}  # a trace asks for the same few hundred again and again

    def seconds(self, operation: Operation) -> float:
        """Seconds of an operation that has the card to itself. Raises: ValueError: of an engine that is not known."""
        return self._of(operation).seconds

    def share(self, operation: Operation) -> float:
        """Share of the card, or of a copy's own engine, that it keeps busy meanwhile. Raises: ValueError: see there."""
        return self._of(operation).share

    def _of(self, operation: Operation) -> Cost:
        if operation not in self._known:
            self._known[operation] = self._cost(operation)
        return self._known[operation]

    def _cost(self, operation: Operation) -> Cost:
        match operation:
            case NetworkOperation():
                return self._call(operation)
            case CopyOperation(direction=Direction.INSIDE, size=size):
                return self._kernel(2 * size)
            case CopyOperation(size=size):
                return Cost(seconds=copy_seconds(size, self._hardware), share=1.0)
            case FillOperation(size=size):
                return self._kernel(size)
            case KernelOperation(read=read, written=written):
                return self._kernel(read + written)

    def _kernel(self, moved: int) -> Cost:
        seconds = kernel_seconds(moved, self._hardware)
        return Cost(seconds=seconds, share=1.0 - ramp_seconds(self._hardware) / seconds)

    def _call(self, operation: NetworkOperation) -> Cost:
        network, role = _called(operation.engine)
        shapes = dict(operation.shapes)
        match role:
            case Role.TEXT_ENCODER:
                return self._evaluation(network, operation.rows, 0, 0, shapes["input_ids"][1], Arithmetic.FLOAT16_SUMS)
            case Role.DENOISER:
                *_, height, width = shapes["sample"]
                tokens = shapes["context"][1]
                return self._evaluation(network, operation.rows, width, height, tokens, Arithmetic.FLOAT16_SUMS)
            case Role.AUTOENCODER:
                *_, height, width = shapes["latent"]
                return self._evaluation(network, operation.rows, width, height, 0, Arithmetic.FLOAT16)

    def _evaluation(
        self, network: NetworkWork, rows: int, width: int, height: int, tokens: int, arithmetic: Arithmetic
    ) -> Cost:
        """Args: width, height: cells of the latent."""
        pixels = max(network.cell, 1)
        work = network.work(rows=rows, width=width * pixels, height=height * pixels, tokens=tokens)
        return Cost(
            seconds=evaluation_seconds(work, self._hardware, arithmetic),
            share=occupancy(work, self._hardware, arithmetic),
        )


def _called(engine: str) -> tuple[NetworkWork, Role]:
    """Raises: ValueError: it is none of the trace's."""
    name, _, network = engine.partition("/")
    family = _FAMILIES.get(name)
    if family is None or network not in family.networks:
        raise ValueError(f"the cost model knows nothing of {engine}")
    return family.networks[network], architecture(family.architecture).network(network).role
