"""Which device processes a rig gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trt_engines.backends.ladder import BACKENDS, BUILT
from trt_engines.rig import MIB, AmdGpu, Gpu
from trt_worker.plan.devices import CARD, OTHER_CARD, PROCESSOR, plan_devices, plan_rig


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


RIG = """0, GPU-aaaa, NVIDIA GeForce RTX 3060, 8.6, 12288, 580.95.05
1, GPU-bbbb, NVIDIA GeForce GTX 1080 Ti, 6.1, 11264, 580.95.05
2, GPU-cccc, NVIDIA H100 80GB HBM3, 9.0, 81559, 580.95.05"""


def test_cards_of_different_kinds_in_one_rig_each_get_their_own_plan(nvidia_smi: Callable[..., None]) -> None:
    nvidia_smi(RIG)

    ampere, pascal, hopper = plan_rig((), (), {})

    assert [plan.sm for plan in (ampere, pascal, hopper)] == [86, 61, 90]
    assert [plan.memory_bytes for plan in (ampere, pascal, hopper)] == [size * MIB for size in (12288, 11264, 81559)]
    assert ampere.backends == ("tensorrt-rtx", "tensorrt", *CARD)
    assert pascal.backends == OTHER_CARD
    assert hopper.backends == ("tensorrt", *CARD)
    assert [bool(plan.note) for plan in (ampere, pascal, hopper)] == [False, True, False]


@pytest.mark.parametrize(
    ("gpus", "visible", "uuids"),
    [
        ((), None, ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]),
        (("2", "GPU-aa"), None, ["GPU-cccc", "GPU-aaaa"]),
        ((), "1", ["GPU-bbbb"]),
        (("1",), "2,0", ["GPU-aaaa"]),
    ],
)
def test_one_configuration_drives_all_cards_or_those_it_lists_or_those_that_are_visible(
    nvidia_smi: Callable[..., None], gpus: tuple[str, ...], visible: str | None, uuids: list[str]
) -> None:
    nvidia_smi(RIG)

    plans = plan_rig(gpus, (), {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})

    assert [plan.environment["CUDA_VISIBLE_DEVICES"] for plan in plans] == uuids
    assert [plan.index for plan in plans] == list(range(1, len(uuids) + 1))


@pytest.mark.parametrize(("sm", "generation"), [(61, "Pascal"), (70, "Volta"), (52, "SM52"), (130, "newer")])
def test_a_card_without_engines_says_in_one_line_why_and_what_still_works(sm: int, generation: str) -> None:
    (plan,) = plan_devices([a_gpu(sm=sm)], [], ())

    assert plan.backends == OTHER_CARD
    assert generation in plan.note
    assert "\n" not in plan.note


def test_an_amd_card_is_used_through_pytorch() -> None:
    first, second = plan_devices([], [AmdGpu(target="gfx1100"), AmdGpu(target="gfx1030")], ())

    assert first.backends == OTHER_CARD
    assert second.environment == {"HIP_VISIBLE_DEVICES": "1"}
    assert "ROCm" in first.note


def test_an_amd_card_s_engines_get_its_own_memory_and_built_in_graphics_the_machine_s() -> None:
    card, built_in = plan_devices([], [AmdGpu(target="gfx1100", memory_bytes=24 * 10**9), AmdGpu(target="gfx1036")], ())

    assert (card.memory_bytes, card.label) == (24 * 10**9, "AMD gfx1100 (24 GB)")
    assert (built_in.memory_bytes, built_in.label) == (None, "AMD gfx1036")


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
