"""What is to be built of a model and what stands in the way, before anything is exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from trt_engines.architectures.registry import architecture
from trt_engines.builders.builder import Progress
from trt_engines.builders.preflight import Machine
from trt_engines.model import BUILT_IN
from trt_engines.profiles.histogram import Demand, write_histogram
from trt_export.building.asked import Asked
from trt_export.building.compiling import Shares
from trt_export.building.located import Located, locate
from trt_export.building.targets import named_target
from trt_export.building.work import Work, work_for
from trt_export.checkpoints.random_checkpoint import describe, random_tensors
from trt_export.checkpoints.safetensors_file import Values, encode

GB = 10**9
LARGE = Machine(memory_bytes=64 * GB, disk_bytes=500 * GB)


@pytest.fixture
def tally(tmp_path: Path) -> Path:
    file = tmp_path / "tally.json"
    write_histogram(file, [Demand(width=64, height=64, rows=2, tokens=77)])
    return file


def asked(tally: Path, *cards: str, **changes: object) -> Asked:
    plain = Asked(
        targets=tuple(named_target(card) for card in cards or ("SM86",)),
        library=None,
        refittable=False,
        components=(),
        histogram=tally,
        profiles=6,
        disk_bytes=None,
        family=None,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def work(tally: Path, *cards: str, machine: Machine = LARGE, **changes: object) -> Work:
    return work_for(locate("shapes-tiny"), asked(tally, *cards, **changes), machine)


def test_a_profile_is_as_large_as_jobs_are_in_steps_of_eight_pixels(tmp_path: Path) -> None:
    write_histogram(tmp_path / "odd.json", [Demand(width=72, height=136, rows=2, tokens=77)])

    (order,) = work(tmp_path / "odd.json", components=("denoiser",)).orders

    (profile,) = order.profiles
    assert {one.name: (one.min[2:], one.max[2:]) for one in profile}["sample"] == ((17, 9), (17, 9))


def test_cards_that_can_share_an_engine_do_and_one_without_its_library_does_not(tally: Path) -> None:
    found = work(
        tally, "RTX 3060", "RTX 4090", "H100", components=("denoiser",), machine=replace(LARGE, cards=frozenset({90}))
    )

    assert [order.label for order in found.orders] == ["shapes-tiny denoiser float16 SM86+SM89"]
    (problem,) = found.problems
    assert problem.startswith("shapes-tiny denoiser float16 SM90: ")
    assert "pip install tensorrt" in problem


def test_a_smaller_model_of_a_family_is_planned_in_its_own_size(tally: Path) -> None:
    (order,) = work(tally, components=("denoiser",)).orders

    assert 10**6 < order.weights.engine_bytes < 10**8
    assert order.weights.stored_bytes == order.weights.engine_bytes  # it ships in half precision
    assert sum(order.expected.values()) < 60


def test_what_the_machine_lacks_is_told_for_every_network(tally: Path) -> None:
    found = work(tally, machine=Machine(memory_bytes=GB // 2, disk_bytes=500 * GB))

    assert found.orders == ()
    assert len(found.problems) == 4
    assert all("of memory and 0.5 GB are free" in problem for problem in found.problems)


def test_a_disk_budget_leaves_out_what_does_not_fit_and_says_so(tally: Path) -> None:
    found = work(tally, disk_bytes=10**6)

    assert found.orders == ()
    assert all("no disk for the engine" in problem for problem in found.problems)


def test_a_network_that_the_architecture_has_not_is_named_with_those_it_has(tally: Path) -> None:
    (problem,) = work(tally, components=("unet",)).problems

    assert "has no 'unet'; it has text_encoder, denoiser" in problem


def test_float8_weights_are_refused_for_a_card_that_has_no_float8(tally: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scaled"
    folder.mkdir()
    model = BUILT_IN / "shapes-tiny"
    for place in ("text_encoder", "vae", "model_index.json"):
        (folder / place).symlink_to(model / place)
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").symlink_to(model / "unet" / "config.json")
    data = (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    described = orjson.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    described.pop("__metadata__", None)
    tensors = {}
    for name, entry in described.items():
        size = 1
        for side in entry["shape"]:
            size *= side
        tensors[name] = Values(dtype="F8_E4M3", shape=tuple(entry["shape"]), data=bytes(size))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"".join(encode(tensors)))

    located = Located(name="scaled", path=folder, family="stable_diffusion_1")
    found = work_for(located, asked(tally, "SM86", components=("denoiser",)), LARGE)

    assert found.orders == ()
    assert "SM86 cannot compute in float8" in found.problems[0]


def test_a_model_that_cannot_be_opened_is_a_problem_and_no_end_of_the_others(tally: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"no header")

    found = work_for(locate(str(file)), asked(tally), LARGE)

    assert found.checkpoint is None
    assert "broken: " in found.problems[0]
    assert "download it again" in found.problems[0]


def test_the_share_of_a_build_only_grows_and_parsing_is_told_apart() -> None:
    told: list[tuple[str, float]] = []
    shares = Shares(lambda step, share: told.append((step, share)))

    for phase, parent, done, steps in (
        ("parse", None, 0, 1),
        ("parse", None, 1, 1),
        ("first", None, 1, 4),
        ("inner", "first", 9, 10),
        ("first", None, 4, 4),
        ("second", None, 0, 2),
        ("second", None, 2, 2),
    ):
        assert shares.take(Progress(phase=phase, parent=parent, done=done, steps=steps))

    assert told == [("parse", 0.0), ("parse", 1.0), ("build", 0.25), ("build", 1.0)]


def test_a_network_whose_weights_are_not_all_there_is_told_once_and_the_others_are_planned_by_what_is_stored(
    tally: Path, tmp_path: Path, file_with_holes: Callable[..., None]
) -> None:
    described = describe(random_tensors(architecture("stable_diffusion_1")), "float32")
    del described[next(name for name in described if name.endswith("decoder.conv_out.weight"))]
    file = tmp_path / "model.safetensors"
    file_with_holes(file, described)

    found = work_for(locate(str(file)), asked(tally, "SM86", "SM120"), LARGE)

    (problem,) = found.problems
    assert problem.startswith("model vae_decoder: ")
    assert "decoder.conv_out.weight' (3, 128, 3, 3) is missing" in problem
    assert {order.module.name for order in found.orders} == {"text_encoder", "denoiser", "vae_encoder"}
    (denoiser,) = (order for order in found.orders if order.module.name == "denoiser")
    assert denoiser.weights.stored_bytes == 2 * denoiser.weights.engine_bytes
    assert denoiser.needs.disk_bytes < 2 * GB < denoiser.needs.memory_bytes
