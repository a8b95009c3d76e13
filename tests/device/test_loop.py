"""The device loop: shared batches, entering and leaving between steps, faults, and nothing lost."""

from __future__ import annotations

import io
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trt_engines.backend import Engine, EngineSpec
from trt_engines.backends.dummy import dummy_network
from trt_engines.backends.graph_source import simulated_card
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice, Stream
from trt_engines.devices.operations import Network
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import OutOfMemory
from trt_engines.model import Model, find_models
from trt_engines.residency import Footprint, Memory
from trt_worker import frames
from trt_worker.device.step_batch import device_bytes
from trt_worker.job import ImageSeed

MODEL = find_models()["shapes-tiny"]
MIB = 2**20
SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "heun", "dpmpp_sde", "lcm", "res_multistep", "dpm_2")


def test_jobs_of_different_samplers_steps_and_guidance_share_a_batch_and_look_as_if_alone(
    a_loop: Any, a_run: Any
) -> None:
    runs = [
        a_run(str(number), prompt=f"a {colour} star", sampler=sampler, steps=3 + number % 3, guidance=1.0 + number % 3)
        for number, (sampler, colour) in enumerate(zip(SAMPLERS, ["red", "green", "blue", "cyan"] * 2, strict=True))
    ]
    together = a_loop(max_rows=8)
    for run in runs:
        together.loop.take(run, b"")
    together.finish()

    alone = a_loop(max_rows=1)
    for run in runs:
        alone.loop.take(run, b"")
        alone.finish()

    assert max(made.mean_rows for made in together.of(frames.Made)) > 4
    for key, picture in alone.pictures.items():
        assert np.abs(picture.astype(int) - together.pictures[key]).max() <= 2


def test_a_job_enters_a_batch_that_is_already_running_and_changes_nobody(a_loop: Any, a_run: Any) -> None:
    first, second = (
        a_run("first", steps=6),
        a_run("second", prompt="a blue square", seeds=(ImageSeed(value=9),)),
    )
    alone = a_loop()
    alone.loop.take(first, b"")
    alone.finish()
    shared = a_loop()
    shared.loop.take(first, b"")
    shared.loop.step()
    shared.loop.step()

    shared.loop.take(second, b"")
    shared.finish()

    assert [made.id for made in shared.of(frames.Made)] == ["second", "first"]
    assert np.abs(shared.pictures["first", 0].astype(int) - alone.pictures["first", 0]).max() <= 2


def test_more_images_than_there_is_room_for_wait_and_are_all_made(a_loop: Any, a_run: Any) -> None:
    seeds = tuple(ImageSeed(value=seed) for seed in range(7))
    collector = a_loop(max_rows=3)

    collector.loop.take(a_run(seeds=seeds), b"")
    collector.finish()

    assert sorted(index for _, index in collector.pictures) == list(range(7))
    assert len({picture.tobytes() for picture in collector.pictures.values()}) == 7


def test_prompts_of_different_lengths_share_a_batch(a_loop: Any, a_run: Any) -> None:
    long = "a red circle, " * 40
    collector = a_loop()

    collector.loop.take(a_run("long", prompt=long), b"")
    collector.loop.take(a_run("longer", prompt=long * 5, negative_prompt=long * 3), b"")
    collector.loop.take(a_run("short"), b"")
    collector.finish()

    assert {made.id for made in collector.of(frames.Made)} == {"long", "longer", "short"}


def test_a_source_image_at_low_strength_is_still_there(a_loop: Any, a_run: Any) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 30, 30)).save(buffer, "PNG")
    collector = a_loop()

    collector.loop.take(a_run(strength=0.05, steps=2, guidance=1.0, sampler="euler"), buffer.getvalue())
    collector.finish()

    red, green, _ = collector.pictures["job", 0].reshape(-1, 3).mean(axis=0)
    assert red > green + 60


def test_a_source_that_is_no_image_fails_its_job_alone(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()

    collector.loop.take(a_run("bad"), b"not an image")
    collector.loop.take(a_run("good"), b"")
    collector.finish()

    assert [(failed.id, failed.kind) for failed in collector.of(frames.Failed)] == [("bad", "bad_source")]
    assert [made.id for made in collector.of(frames.Made)] == ["good"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"sampler": "magic"}, "unservable"),
        ({"scheduler": "magic"}, "unservable"),
        ({"model": "magic"}, "not_at_hand"),  # the supervisor offered it: the job is none the worse
        ({"backend": "magic"}, "not_at_hand"),
    ],
)
def test_what_the_device_does_not_have_is_named(a_loop: Any, a_run: Any, change: dict[str, str], kind: str) -> None:
    collector = a_loop()

    collector.loop.take(a_run(**change), b"")
    collector.finish()

    (failed,) = collector.of(frames.Failed)
    assert failed.kind == kind
    assert "magic" in failed.message


@pytest.mark.parametrize("network", ["text_encoder", "denoiser", "vae_decoder"])
def test_an_engine_that_fails_ends_its_jobs_as_faults_and_the_next_job_runs(
    a_loop: Any, a_run: Any, striking: Any, sound: Any, network: str
) -> None:
    collector = a_loop(striking(network), sound())

    collector.loop.take(a_run("bad", backend="spoilt"), b"")
    collector.loop.take(a_run("good"), b"")
    collector.finish()

    assert [(failed.id, failed.kind) for failed in collector.of(frames.Failed)] == [("bad", "fault")]
    assert [made.id for made in collector.of(frames.Made)] == ["good"]


@pytest.mark.parametrize("network", ["text_encoder", "denoiser", "vae_decoder"])
def test_a_value_that_is_not_finite_never_becomes_a_picture(a_loop: Any, a_run: Any, spoilt: Any, network: str) -> None:
    def poison(values: Any) -> None:
        values.reshape(-1)[3] = np.nan

    collector = a_loop(spoilt(network, poison))

    collector.loop.take(a_run(backend="spoilt"), b"")
    collector.finish()

    assert not collector.pictures
    (failed,) = collector.of(frames.Failed)
    assert failed.kind == "not_finite"
    assert "finite" in failed.message


def test_a_picture_that_its_jobs_own_numbers_drive_out_of_range_is_the_jobs_fault(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()

    collector.loop.take(a_run("own", guidance=1e30), b"")
    collector.loop.take(a_run("beside"), b"")
    collector.finish()

    (failed,) = collector.of(frames.Failed)
    assert (failed.id, failed.kind) == ("own", "bad_job")
    assert "guidance" in failed.message
    assert [made.id for made in collector.of(frames.Made)] == ["beside"]


def test_a_model_that_the_device_is_told_of_later_is_drawn_and_one_that_it_knows_stays_what_it_was(
    a_loop: Any, a_run: Any
) -> None:
    collector = a_loop()
    collector.loop.take(a_run("before"), b"")
    collector.loop.step()

    collector.loop.know([replace(MODEL, name="another"), replace(MODEL, architecture="sdxl")])
    collector.loop.take(a_run("other", model="another"), b"")
    collector.loop.take(a_run("after"), b"")
    collector.finish()

    assert {made.id for made in collector.of(frames.Made)} == {"before", "other", "after"}


def test_a_withdrawn_job_leaves_and_the_others_go_on(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()
    collector.loop.take(a_run("gone", steps=9), b"")
    collector.loop.take(a_run("stays"), b"")
    collector.loop.step()

    collector.loop.withdraw("gone")
    collector.finish()

    assert [made.id for made in collector.of(frames.Made)] == ["stays"]
    assert not collector.of(frames.Failed)


def test_a_job_that_is_late_before_it_begins_is_given_up_and_said(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()

    collector.loop.take(a_run(due=monotonic() - 1), b"")
    collector.finish()

    (failed,) = collector.of(frames.Failed)
    assert failed.kind == "late"


def test_a_job_that_its_measured_steps_make_late_is_given_up_before_it_begins(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()
    collector.loop.take(a_run("measured", steps=4), b"")
    collector.finish()

    collector.loop.take(a_run("hopeless", steps=500, due=monotonic() + 0.05), b"")
    collector.finish()

    (failed,) = collector.of(frames.Failed)
    assert (failed.id, failed.kind) == ("hopeless", "late")
    assert "needs" in failed.message


def test_the_same_job_gives_the_same_bytes_again(a_loop: Any, a_run: Any) -> None:
    first, second = a_loop(), a_loop()
    for collector in (first, second):
        collector.loop.take(a_run(sampler="dpmpp_2m_sde"), b"")
        collector.finish()

    np.testing.assert_array_equal(first.pictures["job", 0], second.pictures["job", 0])


def test_the_totals_count_rows_and_calls(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()

    collector.loop.take(a_run(steps=3, seeds=(ImageSeed(value=1), ImageSeed(value=2))), b"")
    collector.finish()

    totals = collector.of(frames.Totals)[-1]
    assert (totals.calls, totals.rows) == (3, 6)
    assert 0 < totals.engine_seconds < totals.loop_seconds
    assert totals.megapixel_steps == pytest.approx(6 * 64 * 64 / 1e6)


def test_the_time_of_decoding_does_not_count_as_denoising(immediate_loop: Any, a_run: Any) -> None:
    now = [0.0]

    def slow(spec: EngineSpec) -> Network:
        network = dummy_network(spec)
        seconds = {"denoiser": 1.0, "vae_decoder": 50.0}.get(spec.network, 0.0)

        def run(inputs: Any) -> Any:
            now[0] += seconds
            return network(inputs)

        return run

    device = immediate_loop(OnDeviceBackend("slow", NetworkSource(slow)), clock=lambda: now[0])
    device.loop.take(a_run(backend="slow", steps=3, received=0.0, due=1e9), b"")
    device.finish()

    assert device.of(frames.Totals)[-1].loop_seconds == 3.0
    (made,) = device.of(frames.Made)
    assert made.decoded - made.denoised == 50.0


def test_what_does_not_fit_a_whole_batch_takes_fewer_images_at_a_time(a_loop: Any, a_run: Any, a_device: Any) -> None:
    backend = Greedy(a_device(), rows=4)
    device = a_loop(backend, memory=110 * MIB)
    seeds = tuple(ImageSeed(value=seed) for seed in range(4))

    device.loop.take(a_run(backend="greedy", seeds=seeds), b"")
    device.finish()

    assert len(device.pictures) == 4
    assert {spec.bucket.rows for spec in backend.loaded if spec.network == "denoiser"} == {4}
    assert max(totals.rows / totals.calls for totals in device.of(frames.Totals)) == 2


@pytest.mark.parametrize("memory", Memory)
def test_networks_fill_the_memory_of_what_computes_them_and_no_other(
    immediate_loop: Any, a_run: Any, memory: Memory
) -> None:
    card = SimulatedDevice(replace(simulated_card({}), memory_bytes=2**30))
    backend = Greedy(card if memory is Memory.CARD else CpuDevice(), rows=8)
    other = next(one for one in Memory if one is not memory)
    enough, short = (immediate_loop(backend, memory={memory: size, other: MIB}) for size in (1000 * MIB, MIB))

    for device in (enough, short):
        device.loop.take(a_run(backend="greedy"), b"")
        device.finish()

    assert len(enough.of(frames.Made)) == 1
    assert "are there for" in short.of(frames.Failed)[0].message


def test_a_device_out_of_memory_closes_what_is_idle_and_goes_on(a_loop: Any, a_run: Any, a_device: Any) -> None:
    backend = Greedy(a_device(), rows=100, refusals=1)
    device = a_loop(backend, memory=1000 * MIB)

    device.loop.take(a_run(backend="greedy"), b"")
    device.finish()

    assert len(device.of(frames.Made)) == 1
    assert backend.unloaded == ["text_encoder"]


def test_a_device_out_of_memory_with_nothing_idle_ends_the_job_as_a_fault(
    a_loop: Any, a_run: Any, a_device: Any
) -> None:
    device = a_loop(Greedy(a_device(), rows=100, refusals=2), memory=1000 * MIB)

    device.loop.take(a_run(backend="greedy"), b"")
    device.finish()

    (failure,) = device.of(frames.Failed)
    assert failure.kind == "fault"
    assert "the card is full" in failure.message


def test_the_supervisor_is_told_which_models_are_in_memory_and_what_loading_them_took(a_loop: Any, a_run: Any) -> None:
    device = a_loop()

    device.loop.take(a_run(), b"")
    device.finish()

    told = device.of(frames.Resident)
    assert {frame.models for frame in told} == {("shapes-tiny",)}
    (load,) = told[-1].load_times
    assert (load.backend, load.model) == ("onnxruntime", "shapes-tiny")
    assert load.seconds > 0


def test_the_model_in_memory_goes_before_one_that_had_to_leave_it(immediate_loop: Any, a_run: Any) -> None:
    shipped = find_models()["shapes-tiny"]
    models = [replace(shipped, name=name) for name in ("a", "b")]
    device = immediate_loop(Greedy(CpuDevice(), rows=8, weights=100), models=models, memory=250 * MIB)

    for model in models:  # the second takes the room of the first
        device.loop.take(a_run(model.name, model=model.name, backend="greedy"), b"")
    device.finish()

    assert [made.id for made in device.of(frames.Made)] == ["b", "a"]


def test_two_models_that_do_not_fit_together_take_turns_and_both_are_made(
    a_loop: Any, a_run: Any, a_device: Any
) -> None:
    backend = Greedy(a_device(), rows=8, weights=100)
    other = replace(MODEL, name="other")
    device = a_loop(backend, memory=250 * MIB, models=(MODEL, other))
    alone = a_loop(Greedy(a_device(), rows=8), memory=1000 * MIB, models=(MODEL, other))
    runs = [a_run(f"{name}{number}", backend="greedy", model=name, steps=6)
            for number in range(2) for name in ("shapes-tiny", "other")]  # fmt: skip

    for run in runs:
        device.loop.take(run, b"")
        device.loop.step()
    device.finish()
    for run in runs:
        alone.loop.take(run, b"")
        alone.finish()

    assert not device.of(frames.Failed)
    assert 1 <= backend.unloaded.count("denoiser") <= 3  # in long turns, not for every step
    assert device.pictures.keys() == alone.pictures.keys()
    assert all((picture == alone.pictures[key]).all() for key, picture in device.pictures.items())


def test_where_engines_take_fewer_rows_fewer_images_share_a_batch(a_loop: Any, a_run: Any, a_device: Any) -> None:
    device = a_loop(Narrow(a_device(), rows=4))
    seeds = tuple(ImageSeed(value=seed) for seed in range(4))

    device.loop.take(a_run(backend="narrow", seeds=seeds), b"")
    device.finish()

    assert len(device.pictures) == 4
    assert max(totals.rows / totals.calls for totals in device.of(frames.Totals)) == 2


def test_a_prompt_longer_than_engines_take_is_handed_back_and_its_batch_goes_on(
    a_loop: Any, a_run: Any, a_device: Any
) -> None:
    device = a_loop(Narrow(a_device(), tokens=154))

    device.loop.take(a_run("short", backend="narrow"), b"")
    device.loop.step()
    device.loop.take(a_run("long", backend="narrow", prompt="a red circle, " * 80), b"")
    device.finish()

    assert [made.id for made in device.of(frames.Made)] == ["short"]
    (failed,) = device.of(frames.Failed)
    assert (failed.id, failed.kind) == ("long", "unsuited")
    assert "takes 154 tokens" in failed.message


def test_prompts_of_two_lengths_find_room_for_both_of_their_engines(a_loop: Any, a_run: Any, a_device: Any) -> None:
    backend = Roomy(a_device(), {"denoiser": Footprint(weights=10 * MIB, tensors=60 * MIB)})
    device = a_loop(backend, memory=90 * MIB)

    device.loop.take(a_run("short", backend="roomy", steps=6), b"")
    device.loop.take(a_run("long", backend="roomy", prompt="a red circle, " * 30, steps=6), b"")
    device.finish()

    assert {made.id for made in device.of(frames.Made)} == {"short", "long"}
    assert max(made.mean_rows for made in device.of(frames.Made)) > 1


def test_a_batch_has_an_engine_for_all_of_its_rows_when_pictures_have_taken_the_room(
    a_loop: Any, a_run: Any, a_device: Any
) -> None:
    backend = Roomy(a_device(), {"denoiser": Footprint(weights=10 * MIB, tensors=60 * MIB)})
    device = a_loop(backend, memory=70 * MIB + device_bytes(4, (4, 8, 8)) + 1000)
    seeds = tuple(ImageSeed(value=seed) for seed in range(3))

    device.loop.take(a_run("short", backend="roomy", steps=1), b"")
    device.loop.take(a_run("long", backend="roomy", steps=3, seeds=seeds), b"")
    device.finish()

    assert not device.of(frames.Failed)
    assert len(device.pictures) == 4


def test_a_denoiser_makes_room_for_the_decoder_that_does_not_fit_beside_it(
    a_loop: Any, a_run: Any, a_device: Any
) -> None:
    footprints = {
        "denoiser": Footprint(weights=80 * MIB),
        "vae_decoder": Footprint(weights=60 * MIB),
    }
    device = a_loop(Roomy(a_device(), footprints), memory=100 * MIB)

    device.loop.take(a_run("short", backend="roomy", steps=2), b"")
    device.loop.take(a_run("long", backend="roomy", steps=4), b"")
    device.finish()

    assert {made.id for made in device.of(frames.Made)} == {"short", "long"}


def test_engines_that_take_fewer_rows_of_long_prompts_are_called_several_times(
    a_loop: Any, a_run: Any, a_device: Any
) -> None:
    device = a_loop(Narrow(a_device(), rows=2, wide_tokens=77))
    seeds = tuple(ImageSeed(value=seed) for seed in range(3))

    device.loop.take(a_run("short", backend="narrow"), b"")
    device.loop.take(a_run("long", backend="narrow", prompt="a red circle, " * 30, seeds=seeds), b"")
    device.finish()

    assert {made.id for made in device.of(frames.Made)} == {"short", "long"}


def test_a_job_that_comes_while_another_model_steps_closes_nothing_before_its_turn(
    immediate_loop: Any, a_run: Any
) -> None:
    other = replace(MODEL, name="other")
    device = immediate_loop(Greedy(CpuDevice(), rows=8, weights=100), models=(MODEL, other), memory=250 * MIB)
    device.loop.take(a_run("before", backend="greedy", model="other"), b"")
    device.finish()
    device.loop.take(a_run("first", backend="greedy", steps=9), b"")
    device.loop.step()
    loads = len(device.of(frames.Loading))

    device.loop.take(a_run("second", backend="greedy", model="other"), b"")

    assert not [frame for frame in device.of(frames.Loading)[loads:] if "denoiser" in frame.engine]
    device.finish()
    assert {made.id for made in device.of(frames.Made)} == {"before", "first", "second"}


class Roomy(OnDeviceBackend):
    """Networks that say what they take; tensors are in proportion to the rows, of which there are eight at most."""

    def __init__(self, device: HostComputingDevice, footprints: dict[str, Footprint]) -> None:
        super().__init__("roomy", NetworkSource(dummy_network, device))
        self._footprints = footprints

    def footprint(self, spec: EngineSpec) -> Footprint:
        told = self._footprints.get(spec.network, Footprint(weights=0))
        return replace(told, tensors=told.tensors * spec.bucket.rows // 8)


class Narrow(OnDeviceBackend):
    """Denoisers of so many rows and tokens at most; of any rows for so many tokens."""

    def __init__(self, device: HostComputingDevice, rows: int = 99, tokens: int = 999, wide_tokens: int = 0) -> None:
        super().__init__("narrow", NetworkSource(dummy_network, device))
        self._rows, self._tokens, self._wide_tokens = rows, tokens, wide_tokens

    def refuses(self, spec: EngineSpec) -> str | None:
        if spec.network != "denoiser":
            return None
        fits_rows = spec.bucket.rows <= self._rows or spec.bucket.tokens <= self._wide_tokens
        fits = fits_rows and spec.bucket.tokens <= self._tokens
        return None if fits else f"takes {self._tokens} tokens in {self._rows} rows"


class Greedy(OnDeviceBackend):
    """Denoisers of some rows fill 100 MiB, of more rows more; calls find no memory as often as they are told.

    Args:
        weights: MiB of a denoiser beside those.
    """

    def __init__(self, device: HostComputingDevice, rows: int, refusals: int = 0, weights: int = 0) -> None:
        super().__init__("greedy", NetworkSource(dummy_network, device))
        self._full_rows, self._refusals, self._weights = rows, refusals, weights
        self.loaded: list[EngineSpec] = []
        self.unloaded: list[str] = []

    def footprint(self, spec: EngineSpec) -> Footprint:
        denoises = spec.network == "denoiser"
        if not denoises:
            return Footprint(weights=0, activations=MIB)
        return Footprint(weights=self._weights * MIB, activations=100 * MIB * spec.bucket.rows // self._full_rows)

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        self.loaded.append(spec)
        engine = super().load(spec, stream)
        if spec.network == "denoiser":
            run = engine.run

            def refusing(rows: int) -> None:
                if self._refusals:
                    self._refusals -= 1
                    raise OutOfMemory(f"{spec.label}: the card is full")
                run(rows)

            engine.run = refusing  # type: ignore[method-assign]
        return engine

    def unload(self, model: Model, network: str) -> None:
        super().unload(model, network)
        self.unloaded.append(network)
