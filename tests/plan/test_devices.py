"""Which device processes a rig gets."""

from __future__ import annotations

import pytest

from trt_engines.backends.ladder import BACKENDS, BUILT
from trt_engines.rig import AmdGpu, Gpu
from trt_worker.plan.devices import CARD, OTHER_CARD, PROCESSOR, plan_devices


def a_gpu(index: int = 0, sm: int = 86) -> Gpu:
    return Gpu(index=index, uuid=f"GPU-{index}", name="a card", sm=sm, memory_bytes=12 * 10**9, driver="580")


def test_every_backend_of_every_ladder_exists() -> None:
    assert {*PROCESSOR, *BUILT, *CARD, *OTHER_CARD} <= set(BACKENDS)


def test_every_card_gets_a_device_that_sees_it_alone() -> None:
    plans = plan_devices([a_gpu(0), a_gpu(3, sm=89)], [], ())

    assert [plan.index for plan in plans] == [1, 2]
    assert [plan.environment for plan in plans] == [
        {"CUDA_VISIBLE_DEVICES": "GPU-0"},
        {"CUDA_VISIBLE_DEVICES": "GPU-3"},
    ]
    assert {plan.backends for plan in plans} == {("tensorrt-rtx", "tensorrt", *CARD)}
    assert [plan.sm for plan in plans] == [86, 89]


@pytest.mark.parametrize("sm", [90, 100])
def test_a_card_that_rtx_has_no_target_for_gets_tensorrt_alone(sm: int) -> None:
    (plan,) = plan_devices([a_gpu(sm=sm)], [], ())

    assert plan.backends == ("tensorrt", *CARD)


def test_a_pascal_card_says_in_one_line_why_it_has_no_engines_and_what_still_works() -> None:
    (plan,) = plan_devices([a_gpu(sm=61)], [], ())

    assert plan.backends == OTHER_CARD
    assert "Pascal" in plan.note
    assert "PyTorch" in plan.note
    assert "\n" not in plan.note


def test_an_amd_card_is_used_through_pytorch() -> None:
    first, second = plan_devices([], [AmdGpu(target="gfx1100"), AmdGpu(target="gfx1030")], ())

    assert first.backends == OTHER_CARD
    assert second.environment == {"HIP_VISIBLE_DEVICES": "1"}
    assert "ROCm" in first.note


def test_nvidia_cards_come_before_amds() -> None:
    assert len(plan_devices([a_gpu()], [AmdGpu(target="gfx1100")], ())) == 1


def test_without_a_card_the_processor_is_the_device_and_says_so() -> None:
    (plan,) = plan_devices([], [], ())

    assert plan.backends == PROCESSOR
    assert "processor" in plan.note


def test_the_operators_order_holds_where_the_card_can_have_it() -> None:
    turing, pascal = plan_devices([a_gpu(sm=75), a_gpu(1, sm=61)], [], ("pytorch-gpu", "onnxruntime-cuda"))

    assert turing.backends == ("pytorch-gpu", "onnxruntime-cuda")
    assert pascal.backends == ("pytorch-gpu",)


def test_backends_of_a_card_in_the_file_leave_the_processor_what_it_can_have() -> None:
    (plan,) = plan_devices([], [], ("onnxruntime-cuda",))

    assert plan.backends == PROCESSOR
