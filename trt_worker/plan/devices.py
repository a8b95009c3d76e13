"""Which device processes a rig gets, and which backends each may use: decided once, with the reason written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from trt_engines.backends.ladder import TEST_BACKENDS
from trt_engines.cards import builders
from trt_engines.rig import AmdGpu, Gpu, choose_gpus, find_amd_gpus, find_gpus

PROCESSOR = ("onnxruntime", "pytorch")
"""What computes without a card."""

CARD = ("onnxruntime-cuda", "pytorch-gpu", "onnxruntime")
"""What computes where an NVIDIA card has no built engine, after what runs those; the processor is the last resort."""

OTHER_CARD = ("pytorch-gpu", "onnxruntime")
"""Cards that no engine library supports: PyTorch tells when it is loaded whether it has kernels for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """One device process: its card, what it may compute with, and why."""

    index: int  # from 1: the N of bridge_N.log
    label: str  # as logs and `doctor` call it
    backends: tuple[str, ...]  # best first
    sm: int | None = None  # compute capability of its card, times ten; None: no card that CUDA drives
    memory_bytes: int | None = None  # of its card; None: it works in the machine's own
    environment: Mapping[str, str] = field(default_factory=dict)  # shows the process its own card and no other
    note: str = ""  # what an operator has to know of a card that is not used to the full; "": nothing


def plan_rig(gpus: Sequence[str], backends: Sequence[str], environ: Mapping[str, str]) -> tuple[DevicePlan, ...]:
    """The devices of this machine: asks its drivers, then `plan_devices`.

    Args:
        gpus: which cards, as in the configuration; empty: all.
        backends: the operator's order; empty: the best for each card.
    Raises: DriverFailed, UnknownGpu.
    """
    return plan_devices(choose_gpus(find_gpus(), gpus, environ), find_amd_gpus(), backends)


def plan_devices(gpus: Sequence[Gpu], amd_gpus: Sequence[AmdGpu], wanted: Sequence[str]) -> tuple[DevicePlan, ...]:
    """One device per card, or one for the processor.

    Args:
        gpus: cards to use; AMD's are used where there are none.
        wanted: backends in the operator's order; empty: the best order for each card. A backend that a card cannot
            have is passed over there; where none is left, the device gets those that it can have.
    """
    found = enumerate(_devices(gpus, amd_gpus), start=1)
    return tuple(
        replace(plan, index=index, backends=_chosen(wanted, plan.backends) or plan.backends) for index, plan in found
    )


def _devices(gpus: Sequence[Gpu], amd_gpus: Sequence[AmdGpu]) -> Iterator[DevicePlan]:
    for gpu in gpus:
        yield DevicePlan(
            index=0,
            label=f"{gpu.name} (SM{gpu.sm}, {gpu.memory_bytes / 1e9:.0f} GB)",
            backends=OTHER_CARD if gpu.unsupported else (*builders(gpu.sm), *CARD),
            sm=gpu.sm,
            memory_bytes=gpu.memory_bytes,
            environment={"CUDA_VISIBLE_DEVICES": gpu.uuid},
            note=gpu.unsupported or "",
        )
    if gpus:
        return
    for number, amd in enumerate(amd_gpus):
        note = (
            f"{amd.target} is an AMD card: no engine library supports it; jobs run on it with a PyTorch for ROCm, "
            "and on the processor without one"
        )
        shown = {"HIP_VISIBLE_DEVICES": str(number)}
        size = f" ({amd.memory_bytes / 1e9:.0f} GB)" if amd.memory_bytes else ""
        yield DevicePlan(
            index=0,
            label=f"AMD {amd.target}{size}",
            backends=OTHER_CARD,
            memory_bytes=amd.memory_bytes,
            environment=shown,
            note=note,
        )
    if not amd_gpus:
        note = (
            "no card with a working driver that CUDA_VISIBLE_DEVICES does not hide: "
            "jobs run on the processor, which serves small models only"
        )
        yield DevicePlan(
            index=0, label="processor", backends=PROCESSOR, environment={"CUDA_VISIBLE_DEVICES": ""}, note=note
        )


def _chosen(wanted: Sequence[str], possible: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in wanted if name in possible or name in TEST_BACKENDS)
