"""Ports in a bucket: as the architecture has them, and as an engine declares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from trt_engines.architectures.feed import Feed
from trt_engines.architectures.registry import architecture
from trt_engines.architectures.stable_diffusion import unet_ports
from trt_engines.architectures.text_encoders import clip_layers_ports
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineRefused
from trt_engines.interface import TensorSpec
from trt_engines.sessions.session import Declared

FLOAT, HALF = np.dtype(np.float32), np.dtype(np.float16)
BUCKET = Bucket(width=512, height=264, rows=4, tokens=154)


def a_unet(width: int, real: Any = HALF, **changes: Declared) -> Mapping[str, Declared]:
    """What an engine of a U-Net of some context width declares."""
    latent = Declared(dtype=np.dtype(real), shape=(-1, 4, -1, -1))
    tensors = {
        "sample": latent,
        "timestep": Declared(dtype=FLOAT, shape=(-1,)),
        "context": Declared(dtype=np.dtype(real), shape=(-1, -1, width)),
        "noise_pred": latent,
    }
    return tensors | changes


def test_dynamic_axes_have_the_buckets_sizes_and_all_else_is_the_architectures_where_no_engine_is_asked() -> None:
    interface = unet_ports(768).at(BUCKET)

    assert interface.inputs == (
        TensorSpec(name="sample", shape=(4, 4, 33, 64), dtype=FLOAT),
        TensorSpec(name="timestep", shape=(4,), dtype=FLOAT),
        TensorSpec(name="context", shape=(4, 154, 768), dtype=FLOAT),
    )
    assert interface.outputs == (TensorSpec(name="noise_pred", shape=(4, 4, 33, 64), dtype=FLOAT),)


@pytest.mark.parametrize("real", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_fixed_sizes_and_types_are_the_engines_of_a_smaller_model(real: Any) -> None:
    interface = unet_ports(768).at(BUCKET, a_unet(64, real))

    assert {one.name: (one.shape, one.dtype) for one in interface.inputs} == {
        "sample": ((4, 4, 33, 64), np.dtype(real)),
        "timestep": ((4,), FLOAT),
        "context": ((4, 154, 64), np.dtype(real)),
    }


def test_an_axis_that_an_engine_declares_for_one_bucket_has_the_size_of_the_one_that_is_asked_for() -> None:
    fixed = Declared(dtype=FLOAT, shape=(8, 77, 64))

    context = unet_ports(768).at(BUCKET, a_unet(64, context=fixed)).inputs[2]

    assert context.shape == (4, 154, 64)


def test_the_layers_of_a_smaller_text_encoder_come_before_its_rows() -> None:
    declared = {
        "input_ids": Declared(dtype=np.dtype(np.int32), shape=(-1, 77)),
        "context": Declared(dtype=FLOAT, shape=(3, -1, 77, 32)),
    }

    interface = clip_layers_ports(12, 768).at(BUCKET, declared)

    assert interface.inputs[0].dtype == np.int32
    assert (interface.outputs[0].shape, interface.outputs[0].row_axis) == ((3, 4, 77, 32), 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pooled": Declared(dtype=FLOAT, shape=(-1, 768))}, "tensors pooled are not in both"),
        ({"context": Declared(dtype=FLOAT, shape=(-1, 64))}, "context has 2 axes in the engine and 3 in the network"),
        ({"timestep": Declared(dtype=HALF, shape=(-1,))}, "timestep is float16 in the engine, and can only be float32"),
        ({"sample": Declared(dtype=np.dtype(np.int64), shape=(-1, 4, -1, -1))}, "sample is int64 in the engine"),
    ],
)
def test_an_engine_of_another_network_is_refused(changes: dict[str, Declared], said: str) -> None:
    with pytest.raises(EngineRefused, match=said):
        unet_ports(768).at(BUCKET, a_unet(64, **changes))


def test_a_missing_tensor_is_refused_too() -> None:
    short = {name: one for name, one in a_unet(64).items() if name != "timestep"}

    with pytest.raises(EngineRefused, match="timestep"):
        unet_ports(768).at(BUCKET, short)


def test_a_masks_type_is_a_truth_value_and_inputs_are_found_by_name() -> None:
    ports = architecture("z_image_turbo").network("denoiser").ports

    mask = next(one for one in ports.at(BUCKET).inputs if one.name == "context_mask")

    assert (mask.shape, mask.dtype) == ((4, 160), np.dtype(np.bool_))  # tokens in groups of 32
    assert ports.input("context_mask").feed is Feed.TEXT
    with pytest.raises(KeyError, match="no input 'pooled'; there are sample, timestep"):
        ports.input("pooled")
