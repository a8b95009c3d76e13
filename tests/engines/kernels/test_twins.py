"""The twins against other ways to compute the same, and against the CUDA source run on the processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.cuda import CudaDevice
from trt_engines.devices.device import Device, DeviceProperties
from trt_engines.devices.errors import DeviceUnavailable
from trt_engines.devices.memory import Allocation, Buffer, Place
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.kernels import catalogue, twins
from trt_engines.kernels.kernel import BFLOAT16, FLOAT, HALF, KernelCall
from trt_engines.philox import philox_randn

REGISTERS, TENSORS, NOISE = 5, 8, 7
VALUES = (FLOAT, HALF, BFLOAT16)
BYTE = np.dtype(np.uint8)
RunSource = Callable[[KernelCall, tuple[Any, ...]], None]

some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
value_types = st.sampled_from(VALUES)
seeds = st.integers(0, 2**32 - 1)


def buffer(array: NDArray[Any]) -> Buffer:
    return Buffer(Allocation(Place.DEVICE, 0, array.nbytes), 0, array.nbytes)


def a_row_scale(value: np.dtype[Any], seed: int, rows: int, size: int) -> tuple[KernelCall, tuple[Any, ...]]:
    random = np.random.default_rng(seed)
    state = random.normal(size=(rows + 2, TENSORS, size)).astype(np.float32).reshape(-1)
    place = random.permutation(rows + 2)[:rows].astype(np.int32)
    scale = random.uniform(0.01, 1, rows).astype(np.float32)
    sample = np.zeros(rows * size, value)
    call = catalogue.row_scale(
        value,
        sample=buffer(sample),
        state=buffer(state),
        place=buffer(place),
        scale=buffer(scale),
        size=size,
        tensors=TENSORS,
    )
    return call, (sample, state, place, scale, size, TENSORS)


def a_row_combine(value: np.dtype[Any], seed: int, rows: int, size: int) -> tuple[KernelCall, tuple[Any, ...]]:
    random = np.random.default_rng(seed)
    state = random.normal(size=rows * TENSORS * size).astype(np.float32)
    outputs = random.normal(size=2 * rows * size).astype(value)
    mix = random.normal(size=rows * REGISTERS * TENSORS).astype(np.float32)
    mix[random.random(mix.size) < 0.4] = 0
    kept = random.random((rows, REGISTERS)) < 0.3  # registers that stay as they are
    mix.reshape(rows, REGISTERS, TENSORS)[kept] = np.eye(TENSORS, dtype=np.float32)[np.nonzero(kept)[1]]
    order = random.permutation(2 * rows).astype(np.int64) * size
    conditional, unconditional = order[:rows].copy(), order[rows:].copy()
    unconditional[random.random(rows) < 0.5] = -1
    call = catalogue.row_combine(
        value,
        state=buffer(state),
        outputs=buffer(outputs),
        mix=buffer(mix),
        conditional=buffer(conditional),
        unconditional=buffer(unconditional),
        size=size,
        registers=REGISTERS,
        tensors=TENSORS,
    )
    return call, (state, outputs, mix, conditional, unconditional, size, REGISTERS, TENSORS)


def a_mask_blend(value: np.dtype[Any], seed: int, rows: int, size: int) -> tuple[KernelCall, tuple[Any, ...]]:
    random = np.random.default_rng(seed)
    sample, known = (random.normal(size=rows * 4 * size).astype(value) for _ in range(2))
    mask = random.choice([0.0, 0.25, 1.0], rows * size).astype(np.float32)
    call = catalogue.mask_blend(
        value, sample=buffer(sample), known=buffer(known), mask=buffer(mask), channels=4, cells=size
    )
    return call, (sample, known, mask, 4, size)


def a_to_pixels(value: np.dtype[Any], seed: int, rows: int, size: int) -> tuple[KernelCall, tuple[Any, ...]]:
    random = np.random.default_rng(seed)
    decoded = random.uniform(-1.2, 1.2, (rows, 3, 3, size)).astype(value)
    spoilt = random.random((rows, 3, 3, size)) < 0.01
    decoded[spoilt] = random.choice([np.nan, np.inf, -np.inf], spoilt.sum()).astype(value)
    pixels, flags = np.zeros(rows * 9 * size, np.uint8), np.zeros(rows, np.int32)
    call = catalogue.to_pixels(
        value, pixels=buffer(pixels), not_finite=buffer(flags), decoded=buffer(decoded), height=3, width=size
    )
    return call, (pixels, flags, decoded.reshape(-1), 3, size)


def a_philox_normal(value: np.dtype[Any], seed: int, rows: int, size: int) -> tuple[KernelCall, tuple[Any, ...]]:
    random = np.random.default_rng(seed)
    state = random.normal(size=rows * TENSORS * size).astype(np.float32)
    keys = random.integers(0, 2**64, rows, np.uint64).view(np.int64)
    calls = random.choice([-1, 0, 3, 2**32 + 1], rows).astype(np.int64)
    firsts = random.choice([0, size, 2**32 - size // 2], rows).astype(np.int64)
    call = catalogue.philox_normal(
        state=buffer(state),
        seed=buffer(keys),
        call=buffer(calls),
        first=buffer(firsts),
        size=size,
        tensor=NOISE,
        tensors=TENSORS,
    )
    return call, (state, keys, calls, firsts, size, NOISE, TENSORS)


MAKERS = {
    "row_scale": a_row_scale,
    "row_combine": a_row_combine,
    "mask_blend": a_mask_blend,
    "to_pixels": a_to_pixels,
    "philox_normal": a_philox_normal,
}
ULPS = {"philox_normal": twins.PHILOX_ULPS}
"""Units in the last place by which a kernel's values may differ from its twin's; the others give the same bits."""


def as_bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.view(np.uint8)


def assert_agrees(name: str, ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    if name in ULPS and ours.dtype == FLOAT:
        np.testing.assert_array_max_ulp(ours, theirs, ULPS[name])
    else:
        np.testing.assert_array_equal(as_bits(ours), as_bits(theirs))


@pytest.mark.parametrize("name", MAKERS)
@some
@given(value=value_types, seed=seeds, rows=st.integers(1, 3), size=st.integers(1, 300))
def test_a_twin_gives_what_its_cuda_source_does(
    run_source: RunSource, name: str, value: np.dtype[Any], seed: int, rows: int, size: int
) -> None:
    call, of_twin = MAKERS[name](value, seed, rows, size)
    _, of_source = MAKERS[name](value, seed, rows, size)

    call.kernel.twin(*of_twin)
    run_source(call, of_source)

    for ours, theirs in zip(of_twin, of_source, strict=True):
        if isinstance(ours, np.ndarray):
            assert_agrees(name, ours, theirs)


def a_device(kind: str) -> Device:
    match kind:
        case "cpu":
            return CpuDevice()
        case "simulated":
            properties = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 24, multiprocessors=128)
            return SimulatedDevice(properties)
        case _:
            try:
                return CudaDevice()
            except DeviceUnavailable as error:
                pytest.skip(str(error))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("kind", ["cpu", "simulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_gives_what_the_twin_does(kind: str, value: np.dtype[Any], name: str) -> None:
    device = a_device(kind)
    stream = device.create_stream("kernels")
    call, expected = MAKERS[name](value, 7, 3, 1000)
    _, given_to_it = MAKERS[name](value, 7, 3, 1000)
    arguments, back = [], []
    for one in given_to_it:
        if isinstance(one, np.ndarray):
            memory, host = device.allocate(one.nbytes), device.allocate(one.nbytes, Place.HOST)
            device.view(host, BYTE, (one.nbytes,), write=True)[:] = as_bits(one)
            device.copy(memory, host, stream)
            arguments.append(memory)
            back.append((memory, host))
        else:
            arguments.append(one)

    call.kernel.twin(*expected)
    device.launch(replace(call, arguments=tuple(arguments)), stream)
    for memory, host in back:
        device.copy(host, memory, stream)
    device.synchronize(stream)

    results = [device.view(host, BYTE, (host.size,)) for _, host in back]
    for ours, theirs in zip(results, (one for one in expected if isinstance(one, np.ndarray)), strict=True):
        assert_agrees(name, ours.view(theirs.dtype), theirs)
    device.close()


@some
@given(value=value_types, seed=seeds, rows=st.integers(1, 4), size=st.integers(1, 64))
def test_a_row_is_scaled_from_its_place_and_rounded_once(value: np.dtype[Any], seed: int, rows: int, size: int) -> None:
    call, arguments = a_row_scale(value, seed, rows, size)
    sample, state, place, scale, *_ = arguments

    call.kernel.twin(*arguments)

    exact = state.reshape(-1, TENSORS, size)[place, 0] * scale[:, np.newaxis]
    np.testing.assert_array_equal(sample.reshape(rows, size), exact.astype(value))


@some
@given(value=value_types, seed=seeds, rows=st.integers(1, 4), size=st.integers(1, 64))
def test_combining_rows_is_a_matrix_product_over_their_tensors(
    value: np.dtype[Any], seed: int, rows: int, size: int
) -> None:
    call, arguments = a_row_combine(value, seed, rows, size)
    state, outputs, mix, conditional, unconditional, *_ = arguments
    before = state.reshape(rows, TENSORS, size).astype(np.float64)
    for tensor, firsts in ((REGISTERS, conditional), (REGISTERS + 1, unconditional)):
        for row, first in enumerate(firsts):
            before[row, tensor] = 0 if first < 0 else outputs[first : first + size].astype(np.float64)
    expected = np.matmul(mix.reshape(rows, REGISTERS, TENSORS).astype(np.float64), before)
    untouched = state.reshape(rows, TENSORS, size)[:, REGISTERS:].copy()

    call.kernel.twin(*arguments)

    after = state.reshape(rows, TENSORS, size)
    np.testing.assert_allclose(after[:, :REGISTERS], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after[:, REGISTERS:], untouched)


def test_a_tensor_whose_factor_is_zero_does_not_count_even_if_it_is_not_finite(run_source: RunSource) -> None:
    _, of_twin = a_row_combine(FLOAT, 3, 2, 16)
    call, of_source = a_row_combine(FLOAT, 3, 2, 16)
    for state, _, mix, *_ in (of_twin, of_source):
        mix.reshape(2, REGISTERS, TENSORS)[:, :, TENSORS - 1] = 0
        state.reshape(2, TENSORS, 16)[:, TENSORS - 1] = np.nan

    call.kernel.twin(*of_twin)
    run_source(call, of_source)

    for state, *_ in (of_twin, of_source):
        assert np.isfinite(state.reshape(2, TENSORS, 16)[:, :REGISTERS]).all()
    np.testing.assert_array_equal(as_bits(of_twin[0]), as_bits(of_source[0]))


def test_an_output_that_a_row_has_not_does_not_reach_it_even_if_it_is_not_finite() -> None:
    call, arguments = a_row_combine(FLOAT, 1, 2, 16)
    state, outputs, _, conditional, unconditional, *_ = arguments
    unconditional[:] = -1
    present = np.zeros(len(outputs), bool)
    for first in conditional:
        present[first : first + 16] = True
    outputs[~present] = np.nan

    call.kernel.twin(*arguments)

    assert np.isfinite(state).all()


@some
@given(value=value_types, seed=seeds, rows=st.integers(1, 3), size=st.integers(1, 64))
def test_a_mask_of_one_keeps_the_sample_and_of_zero_shows_what_is_known(
    value: np.dtype[Any], seed: int, rows: int, size: int
) -> None:
    call, arguments = a_mask_blend(value, seed, rows, size)
    sample, known, mask, *_ = arguments
    before = sample.copy()

    call.kernel.twin(*arguments)

    wide = np.repeat(mask.reshape(rows, 1, size), 4, axis=1).reshape(-1)
    np.testing.assert_array_equal(sample[wide == 1], before[wide == 1])
    np.testing.assert_array_equal(sample[wide == 0], known[wide == 0])
    between = wide == 0.25
    exact = 0.25 * before[between].astype(np.float32) + 0.75 * known[between].astype(np.float32)
    np.testing.assert_array_equal(sample[between], exact.astype(value))


@some
@given(value=value_types, seed=seeds, rows=st.integers(1, 3), width=st.integers(1, 80))
def test_pixels_are_those_of_the_host_and_rows_that_are_not_finite_are_flagged(
    value: np.dtype[Any], seed: int, rows: int, width: int
) -> None:
    call, arguments = a_to_pixels(value, seed, rows, width)
    pixels, flags, decoded, *_ = arguments
    planes = decoded.reshape(rows, 3, 3, width).astype(np.float32)

    call.kernel.twin(*arguments)

    finite = np.isfinite(planes).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(flags, (~finite).astype(np.int32))
    shown = np.nan_to_num(planes, nan=-1, posinf=9, neginf=-9) * np.float32(0.5) + np.float32(0.5)
    expected = np.clip(shown * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)


@some
@given(seed=st.integers(0, 2**64 - 1), call=st.integers(0, 2**40), first=st.integers(0, 2**40))
def test_noise_of_a_row_is_the_generators_whatever_its_seed_and_offset(
    run_source: RunSource, seed: int, call: int, first: int
) -> None:
    made, arguments = a_philox_normal(FLOAT, 1, 2, 300)
    state, keys, calls, firsts, *_ = arguments
    keys[:], calls[:], firsts[:] = np.uint64(seed).view(np.int64), call, (first, first + 300)

    run_source(made, arguments)

    drawn = state.reshape(2, TENSORS, 300)[:, NOISE]
    np.testing.assert_array_max_ulp(drawn, philox_randn(seed, (2, 300), call, first), twins.PHILOX_ULPS)


@pytest.mark.parametrize("from_source", [False, True])
def test_a_row_that_draws_nothing_keeps_its_noise_and_all_keep_their_other_tensors(
    run_source: RunSource, from_source: bool
) -> None:
    made, arguments = a_philox_normal(FLOAT, 3, 3, 300)
    state, _, calls, *_ = arguments
    calls[:] = (0, -1, 5)
    before = state.reshape(3, TENSORS, 300).copy()

    run_source(made, arguments) if from_source else made.kernel.twin(*arguments)

    changed = (state.reshape(before.shape) != before).any(axis=2)
    expected = np.zeros((3, TENSORS), bool)
    expected[(0, 2), NOISE] = True
    np.testing.assert_array_equal(changed, expected)


def test_noise_goes_into_a_tensor_that_rows_have() -> None:
    state, word = np.zeros(2, np.float32), np.zeros(1, np.int64)
    numbers = {"seed": buffer(word), "call": buffer(word), "first": buffer(word)}

    with pytest.raises(ValueError, match="rows of 2 tensors have no tensor 2"):
        catalogue.philox_normal(state=buffer(state), **numbers, size=1, tensor=2, tensors=2)
    with pytest.raises(ValueError, match="first has 4 bytes, and the call needs 8"):
        catalogue.philox_normal(
            state=buffer(state), **(numbers | {"first": buffer(state[:1])}), size=1, tensor=1, tensors=2
        )


def test_a_call_with_a_buffer_of_the_wrong_size_is_refused() -> None:
    mask = np.zeros(8, np.float32)

    with pytest.raises(ValueError, match="sample has 4 bytes, and the call needs 64"):
        catalogue.mask_blend(HALF, sample=buffer(mask[:1]), known=buffer(mask), mask=buffer(mask), channels=4, cells=8)


def test_a_kernel_refuses_a_type_that_no_engine_has() -> None:
    flags, pixels, decoded = np.zeros(1, np.int32), np.zeros(3, np.uint8), np.zeros(3, np.float64)

    with pytest.raises(ValueError, match="float64"):
        catalogue.to_pixels(
            decoded.dtype, pixels=buffer(pixels), not_finite=buffer(flags), decoded=buffer(decoded), height=1, width=1
        )
