"""What a denoiser is given that is the same at every step: text, sizes, guidance, masks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.tensor import Tensor
from trt_worker.condition.prompt import Text
from trt_worker.errors import UnservableJob
from trt_worker.job import JobSpec

Inputs = Mapping[str, NDArray[np.float32]]
"""Values by the denoiser's inputs, of one row, without an axis for the rows."""

STEPPED = frozenset({Feed.STATE, Feed.TIME})
"""What changes at every step, and is therefore not among `Inputs`."""


def constant_inputs(ports: Ports) -> tuple[Tensor, ...]:
    """The inputs of a denoiser that are the same at every step."""
    return tuple(tensor for tensor in ports.inputs if tensor.feed not in STEPPED)


def feeds_of(job: JobSpec, ports: Ports, denoising: Pass, text: Text, given: Inputs = MappingProxyType({})) -> Inputs:
    """Everything that one row of a job gives to a denoiser beside its sample and its time.

    Args:
        ports: the denoiser's.
        denoising: the pass that it makes.
        text: what prompting gives of the row's prompt.
        given: what takes the place of a default, by input: a mask and the latent under it.
    Raises: UnservableJob: an input is filled by something that this worker cannot give.
    """
    return {
        tensor.name: given[tensor.name] if tensor.name in given else _value(tensor, job, denoising, text)
        for tensor in constant_inputs(ports)
    }


def _value(tensor: Tensor, job: JobSpec, denoising: Pass, text: Text) -> NDArray[np.float32]:
    channels, height, width = denoising.latent.shape(job.width, job.height)
    match tensor.feed:
        case Feed.TEXT:
            return text[tensor.name]
        case Feed.SIZES:
            # Source: ComfyUI's model_base.py, SDXL: the sizes of the latent that is stepped, uncropped.
            return np.array([job.height, job.width, 0, 0, job.height, job.width], np.float32)
        case Feed.GUIDANCE:
            return np.array(job.guidance, np.float32)
        case Feed.MASK:
            return np.ones((1, height, width), np.float32)  # all of the picture is painted
        case Feed.MASKED:
            blank = np.array(denoising.latent.blank, np.float32).reshape(channels, 1, 1)
            return np.broadcast_to(blank, (channels, height, width))
        case Feed.ZEROS:
            return np.zeros([size for size in tensor.shape if isinstance(size, int)], np.float32)
        case _:
            raise UnservableJob(f"{job.model} wants {tensor.name} ({tensor.feed}), which this worker does not give yet")
