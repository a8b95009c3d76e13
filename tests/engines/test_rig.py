"""The cards of a machine, with a stand-in for `nvidia-smi` on the path: a real process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.rig import (
    MIB,
    AmdGpu,
    DriverFailed,
    Gpu,
    UnknownGpu,
    choose_gpus,
    find_amd_gpus,
    find_gpus,
    nvidia_cards_on_bus,
)

TWO = """0, GPU-aaaa1111-0000, NVIDIA GeForce RTX 4090, 8.9, 24564, 580.95.05
1, GPU-bbbb2222-0000, NVIDIA GeForce GTX 1080 Ti, 6.1, 11264, 580.95.05"""

Driver = Callable[..., None]


def a_gpu(index: int, uuid: str) -> Gpu:
    return Gpu(
        index=index, uuid=uuid, name="NVIDIA GeForce RTX 3060", sm=86, memory_bytes=12_288 * MIB, driver="580.95.05"
    )


GPUS = (a_gpu(0, "GPU-aa11"), a_gpu(1, "GPU-aa22"), a_gpu(2, "GPU-bb33"))


def test_cards_are_what_the_driver_says(nvidia_smi: Driver) -> None:
    nvidia_smi(TWO)

    first, second = find_gpus()

    assert (first.sm, first.uuid, first.memory_bytes) == (89, "GPU-aaaa1111-0000", 24_564 * MIB)
    assert first.card is not None
    assert first.card.memory_bytes == first.memory_bytes
    assert first.unsupported is None
    assert "Pascal" in (second.unsupported or "")


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_gpus() == ()


def test_a_driver_without_a_card_is_no_fault(nvidia_smi: Driver) -> None:
    nvidia_smi("No devices were found", 6)

    assert find_gpus() == ()


def test_a_driver_that_does_not_match_its_library_is_said_in_its_words(nvidia_smi: Driver) -> None:
    nvidia_smi("Failed to initialize NVML: Driver/library version mismatch", 18)

    with pytest.raises(DriverFailed, match="version mismatch"):
        find_gpus()


@pytest.mark.parametrize("line", ["0, GPU-a, NVIDIA GeForce RTX 3060, [N/A], 12288, 450.1", "hello"])
def test_an_answer_that_is_no_card_is_an_error_and_not_a_guess(nvidia_smi: Driver, line: str) -> None:
    nvidia_smi(line)

    with pytest.raises(DriverFailed, match="which is not index, uuid"):
        find_gpus()


def test_a_card_we_do_not_know_is_still_a_card() -> None:
    gpu = Gpu(index=0, uuid="GPU-1", name="NVIDIA Something New", sm=120, memory_bytes=MIB, driver="1")

    assert gpu.card is None
    assert gpu.unsupported is None


def test_all_cards_are_used_when_nothing_else_is_said() -> None:
    assert choose_gpus(GPUS, (), {}) == GPUS


@pytest.mark.parametrize(
    ("wanted", "chosen"), [(("1",), [1]), (("2", "0"), [2, 0]), (("GPU-bb", "2"), [2]), (("GPU-aa2", "0"), [1, 0])]
)
def test_cards_are_chosen_by_position_or_the_beginning_of_their_uuid(
    wanted: tuple[str, ...], chosen: list[int]
) -> None:
    assert [gpu.index for gpu in choose_gpus(GPUS, wanted, {})] == chosen


@pytest.mark.parametrize("entry", ["3", "GPU-aa", "GPU-zz"])
def test_a_card_that_is_not_there_or_not_told_apart_is_an_error_that_lists_them(entry: str) -> None:
    with pytest.raises(UnknownGpu, match=r"GPU-aa11.*GPU-bb33"):
        choose_gpus(GPUS, (entry,), {})


@pytest.mark.parametrize(
    ("visible", "chosen"), [("1", [1]), ("2,0", [2, 0]), ("GPU-bb33", [2]), ("", []), ("-1", []), ("0,9,1", [0])]
)
def test_one_worker_per_card_by_cuda_visible_devices_sees_that_card_alone(visible: str, chosen: list[int]) -> None:
    assert [gpu.index for gpu in choose_gpus(GPUS, (), {"CUDA_VISIBLE_DEVICES": visible})] == chosen


def test_positions_count_among_the_visible_cards() -> None:
    assert [gpu.index for gpu in choose_gpus(GPUS, ("0",), {"CUDA_VISIBLE_DEVICES": "2,1"})] == [2]


def an_amd_machine(sysfs: Path, *cards: tuple[int, int | None]) -> None:
    """What the kernel shows of a processor and some cards: their versions, and their bytes of memory."""
    for node, (version, memory) in enumerate(((0, None), *cards)):
        folder = sysfs / "class/kfd/kfd/topology/nodes" / str(node)
        folder.mkdir(parents=True)
        minor = 128 + len(cards) - node  # the order of render nodes is another one
        (folder / "properties").write_text(
            f"cpu_cores_count 0\ngfx_target_version {version}\ndrm_render_minor {minor}\nname x\n"
        )
        if memory is not None:
            device = sysfs / f"class/drm/renderD{minor}/device"
            device.mkdir(parents=True)
            (device / "mem_info_vram_total").write_text(f"{memory}\n")


def test_amd_cards_are_what_the_kernel_lists_each_with_its_own_memory(tmp_path: Path) -> None:
    an_amd_machine(tmp_path, (110_000, 25_753_026_560), (90_010, 68_702_699_520), (100_300, None))

    assert find_amd_gpus(tmp_path) == (
        AmdGpu(target="gfx1100", memory_bytes=25_753_026_560),
        AmdGpu(target="gfx90a", memory_bytes=68_702_699_520),
        AmdGpu(target="gfx1030"),
    )


def test_graphics_built_into_a_processor_works_in_the_machine_s_memory(tmp_path: Path) -> None:
    an_amd_machine(tmp_path, (100_306, 512 * MIB))

    assert find_amd_gpus(tmp_path) == (AmdGpu(target="gfx1036"),)


def test_the_tenth_card_comes_after_the_second(tmp_path: Path) -> None:
    an_amd_machine(tmp_path, *((100_300 if number == 10 else 110_000, None) for number in range(1, 11)))

    assert [gpu.target for gpu in find_amd_gpus(tmp_path)] == ["gfx1100"] * 9 + ["gfx1030"]


@pytest.mark.parametrize(
    ("vendor", "kind", "count"), [("0x10de", "0x030000", 1), ("0x10de", "0x030200", 1), ("0x10de", "0x040300", 0),
                                  ("0x1002", "0x030000", 0)]
)  # fmt: skip
def test_cards_on_the_bus_are_counted_without_a_driver(tmp_path: Path, vendor: str, kind: str, count: int) -> None:
    device = tmp_path / "bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")

    assert nvidia_cards_on_bus(tmp_path) == count
    assert nvidia_cards_on_bus(tmp_path / "absent") == 0


def test_a_machine_without_amds_driver_has_no_amd_card(tmp_path: Path) -> None:
    assert find_amd_gpus(tmp_path / "absent") == ()
