"""A batch gives the latents that its rows have alone, and finds no hazard on the strict device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.architectures.prompting import Lengths
from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import network_plan
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import CopyOperation, Direction, KernelOperation, NetworkOperation, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import OutOfMemory
from trt_engines.model import find_models
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostSession
from trt_engines.sessions.onnx_graph import declared_tensors, open_graph, session_network
from trt_worker.batch.admission import BatchKey
from trt_worker.denoise.parameterisation import stable_diffusion
from trt_worker.denoise.program import CONDITIONAL, NOISE, REGISTERS, TENSORS, UNCONDITIONAL, X
from trt_worker.denoise.start import Sampling, start
from trt_worker.device.row import Row, halves
from trt_worker.device.step_batch import STEPS_AHEAD, Step, StepBatch, device_bytes

MODEL = find_models()["shapes-tiny"]
KEY = BatchKey(model=MODEL.name, backend="onnxruntime", width=64, height=64)
LATENT = MODEL.facts.passes[0].latent.shape(64, 64)
PORTS = MODEL.facts.network("denoiser").ports
CAPACITY = 4
CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 28, multiprocessors=128)
SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "heun", "dpmpp_sde", "lcm")


def a_row(job: str, *, sampler: str = "euler", steps: int = 3, guidance: float = 4.0, chunks: int = 1) -> Row:
    seed = 2**63 + sum(job.encode())
    random = np.random.default_rng(seed)
    sampling = Sampling(sampler=sampler, scheduler="karras", steps=steps, guidance=guidance, strength=1.0)
    begun = start(sampling, stable_diffusion(), LATENT, seed=seed, draw=0, latent=None)

    def context(chunks: int) -> dict[str, NDArray[np.float32]]:
        return {"context": random.normal(size=(77 * chunks, WIDTH)).astype(np.float32)}

    positive, negative = halves(
        context(chunks),
        context(1) if guidance != 1.0 else None,
        along=PORTS.along_tokens,
        lengths=Lengths.REPEATED,
        least=77,
    )
    return Row(
        job=job,
        index=0,
        program=begun.program,
        start=begun.sample,
        noise=begun.noise,
        positive=positive,
        negative=negative,
    )


def a_spec(tokens: int, rows: int) -> EngineSpec:
    bucket = Bucket(width=KEY.width, height=KEY.height, rows=rows, tokens=tokens)
    return EngineSpec(model=MODEL, network="denoiser", bucket=bucket)


class Alone:
    """What every row is to become: its program in double precision, its network calls by itself."""

    def __init__(self) -> None:
        self.batch = self
        self.rows: list[Row] = []
        self.latents: dict[str, NDArray[np.float32]] = {}
        self.room = CAPACITY

    def join(self, row: Row) -> None:
        state = np.zeros((TENSORS, *LATENT))
        state[X] = row.start
        for stage, mix in enumerate(row.program.mix):
            sample = (state[X] * row.program.c_in[stage]).astype(np.float32)
            for tensor, half in ((CONDITIONAL, row.positive), (UNCONDITIONAL, row.negative)):
                if half is not None:
                    state[tensor] = denoised(sample, row.program.timestep[stage], half.inputs["context"])
            drawn = row.noise.draw(row.program.noise[stage])
            state[NOISE] = 0 if drawn is None else drawn
            state[:REGISTERS] = np.einsum("rt,tchw->rchw", mix.astype(np.float64), state)
        self.latents[row.job] = state[X].astype(np.float32)

    def leave(self, job: str) -> None:
        self.latents.pop(job)

    def step(self) -> None:
        pass


GRAPH = open_graph(MODEL.networks["denoiser"].graph, 1)
NETWORK, TENSORS_OF_IT = session_network(GRAPH), declared_tensors(GRAPH)
WIDTH = TENSORS_OF_IT["context"].shape[-1]


def denoised(sample: NDArray[np.float32], timestep: float, context: NDArray[np.float32]) -> NDArray[np.float32]:
    inputs = {"sample": sample[None], "timestep": np.array([timestep], np.float32), "context": context[None]}
    output: NDArray[np.float32] = NETWORK(inputs)["noise_pred"][0]
    return output


class OnDevice:
    """The batch on a device, whose finished latents are downloaded in a second stream."""

    def __init__(
        self, device: HostComputingDevice, engine_rows: Callable[[int], int] = lambda rows: 2 * CAPACITY
    ) -> None:
        self.device = device
        self.stream, self.downloads = device.create_stream("denoise"), device.create_stream("download")
        self._engine_rows = engine_rows  # of the engine that is given to whoever needs so many
        self._engines: dict[tuple[int, int], BoundEngine] = {}
        self.batch = StepBatch(KEY, CAPACITY, LATENT, PORTS, device, self.stream, self._engine)
        self._targets: dict[str, Buffer] = {}
        self.under_way: deque[Step] = deque()
        self.full = 0  # calls that find no memory

    def step(self) -> None:
        self.under_way.append(self.batch.step())
        self.batch.hand_out(self.hand_out)
        if len(self.under_way) == STEPS_AHEAD:  # as the loop does
            self.under_way.popleft().wait()

    @property
    def latents(self) -> dict[str, NDArray[np.float32]]:
        self.device.synchronize(self.downloads)
        return {job: self.device.view(at, np.dtype(np.float32), LATENT) for job, at in self._targets.items()}

    def _engine(self, tokens: int, rows: int) -> BoundEngine:
        key = tokens, self._engine_rows(rows)
        if key not in self._engines:
            spec = a_spec(*key)
            session = HostSession(self.device, network_plan(spec, NETWORK, TENSORS_OF_IT))
            engine = self._engines[key] = BoundEngine(
                self.device, session, spec.ports.at(spec.bucket, TENSORS_OF_IT), self.stream
            )
            run = engine.run

            def maybe_full(rows: int) -> None:
                if self.full:
                    self.full -= 1
                    raise OutOfMemory("the card is full: the test asked for it")
                run(rows)

            engine.run = maybe_full  # type: ignore[method-assign]
        return self._engines[key]

    def hand_out(self, row: Row, latent: Buffer) -> None:
        kept, target = self.device.allocate(latent.size), self.device.allocate(latent.size, Place.HOST)
        ready = self.device.create_event("latent is kept")
        self.device.copy(kept, latent, self.stream)
        self.device.record(ready, self.stream)
        self.device.wait(self.downloads, ready)
        self.device.copy(target, kept, self.downloads)
        self._targets[row.job] = target


def drive(bench: Any, script: Callable[[Any], None]) -> dict[str, NDArray[np.float32]]:
    script(bench)
    while bench.batch.rows:
        bench.step()
    latents: dict[str, NDArray[np.float32]] = bench.latents
    return latents


def every_sampler(bench: Any) -> None:
    """Rows of all samplers enter and leave between steps, more of them than there is room for."""
    waiting = [
        a_row(sampler, sampler=sampler, steps=2 + number % 2, guidance=1.0 if number == 1 else 3.0)
        for number, sampler in enumerate(SAMPLERS)
    ]
    while waiting:
        while waiting and bench.batch.room:
            bench.batch.join(waiting.pop())
        bench.step()


def contexts_of_several_lengths(bench: Any) -> None:
    bench.batch.join(a_row("short"))
    bench.batch.join(a_row("long", chunks=5))
    bench.step()
    bench.batch.join(a_row("late", steps=2, guidance=1.0))


def a_job_that_is_withdrawn(bench: Any) -> None:
    for job in ("first", "gone", "last"):
        bench.batch.join(a_row(job))
    bench.step()
    bench.batch.leave("gone")


def ancestral(bench: Any) -> None:
    bench.batch.join(a_row("one", sampler="euler_ancestral"))


@pytest.mark.parametrize("script", [every_sampler, contexts_of_several_lengths, a_job_that_is_withdrawn])
@pytest.mark.parametrize("kind", ["cpu", "simulated"])
def test_a_batch_gives_the_latents_that_each_row_has_alone(kind: str, script: Callable[[Any], None]) -> None:
    device = CpuDevice() if kind == "cpu" else SimulatedDevice(CARD, seed=1)

    expected = drive(Alone(), script)
    found = drive(OnDevice(device), script)

    assert found.keys() == expected.keys()
    for job, latent in expected.items():
        # sums in another order, which the network amplifies; a wrong coefficient or row is off by tenths
        np.testing.assert_allclose(found[job], latent, rtol=0, atol=3e-4 * np.abs(latent).max(), err_msg=job)


def test_the_order_in_which_a_card_works_makes_no_difference() -> None:
    immediate = drive(OnDevice(CpuDevice()), every_sampler)

    for seed in range(3):
        shuffled = drive(OnDevice(SimulatedDevice(CARD, seed=seed)), every_sampler)
        for job, latent in immediate.items():
            np.testing.assert_array_equal(shuffled[job], latent)


def operations_of_a_step(*samplers: str) -> list[Operation]:
    """What the second step of a batch with these rows asks of a card."""
    asked: list[Operation] = []

    def noting(operation: Operation) -> float:
        asked.append(operation)
        return 0.0

    bench = OnDevice(SimulatedDevice(CARD, seconds=noting))
    for number, sampler in enumerate(samplers):
        bench.batch.join(a_row(str(number), sampler=sampler, steps=4))
    bench.step()
    asked.clear()
    bench.step()
    return asked


def directions(operations: list[Operation]) -> list[Direction]:
    return [one.direction for one in operations if isinstance(one, CopyOperation)]


def kernels(operations: list[Operation]) -> list[str]:
    return [one.kernel for one in operations if isinstance(one, KernelOperation)]


def test_a_steady_step_is_one_upload_one_engine_call_and_two_kernels() -> None:
    asked = operations_of_a_step("euler", "euler")

    assert directions(asked) == [Direction.UPLOAD, Direction.INSIDE]  # coefficients; timesteps into their place
    assert kernels(asked) == ["row_scale", "row_combine"]
    assert [one.rows for one in asked if isinstance(one, NetworkOperation)] == [4]


def test_noise_that_the_device_can_draw_is_not_uploaded() -> None:
    asked = operations_of_a_step("euler_ancestral", "euler", "lcm")

    assert directions(asked) == [Direction.UPLOAD, Direction.INSIDE]
    assert kernels(asked) == ["philox_normal", "row_scale", "row_combine"]


def test_noise_of_a_tree_is_uploaded_beside_that_which_the_device_draws() -> None:
    asked = operations_of_a_step("dpmpp_2m_sde", "euler_ancestral")

    assert directions(asked) == [Direction.UPLOAD, Direction.UPLOAD, Direction.INSIDE]
    assert kernels(asked) == ["philox_normal", "row_scale", "row_combine"]


def test_the_host_runs_ahead_of_the_card() -> None:
    def slow(operation: Operation) -> float:
        return 1.0 if isinstance(operation, NetworkOperation) else 0.0

    device = SimulatedDevice(CARD, seconds=slow)
    bench = OnDevice(device)
    bench.batch.join(a_row("one", steps=8))

    steps = [bench.batch.step() for _ in range(STEPS_AHEAD)]

    assert device.clock == 0
    assert not any(step.done for step in steps)
    steps[1].wait()
    assert device.clock == 2
    assert [step.done for step in steps] == [True, True, False]
    assert steps[1].engine_seconds() == 1


def test_a_step_that_found_no_memory_is_tried_again_with_the_same_noise() -> None:
    expected = drive(OnDevice(CpuDevice()), ancestral)
    bench = OnDevice(CpuDevice())
    bench.full = 1

    with pytest.raises(OutOfMemory):
        drive(bench, ancestral)
    while bench.batch.rows:
        bench.step()

    np.testing.assert_array_equal(bench.latents["one"], expected["one"])


@pytest.mark.parametrize("device", [CpuDevice(), SimulatedDevice(CARD)], ids=["cpu", "simulated"])
def test_rows_that_join_may_come_to_a_larger_engine(device: HostComputingDevice) -> None:
    expected = drive(OnDevice(CpuDevice()), joining)

    latents = drive(OnDevice(device, engine_rows=lambda rows: rows), joining)

    assert latents.keys() == expected.keys()
    for job, latent in expected.items():
        np.testing.assert_allclose(latents[job], latent, atol=1e-5)


@pytest.mark.parametrize("kind", ["cpu", "simulated"])
def test_an_engine_that_takes_fewer_rows_than_there_are_is_called_several_times(kind: str) -> None:
    device = CpuDevice() if kind == "cpu" else SimulatedDevice(CARD, seed=5)
    expected, bench = drive(OnDevice(CpuDevice()), crowded), OnDevice(device, engine_rows=lambda rows: 2)

    latents = drive(bench, crowded)

    assert latents.keys() == expected.keys()
    for job, latent in expected.items():
        np.testing.assert_allclose(latents[job], latent, atol=1e-5)


def crowded(bench: OnDevice) -> None:
    for job, chunks in (("one", 1), ("two", 1), ("long", 6), ("longer", 6)):
        bench.batch.join(a_row(job, chunks=chunks, steps=len(job)))


def joining(bench: OnDevice) -> None:
    for job in ("one", "two", "three"):
        bench.batch.join(a_row(job))
        bench.step()


def test_a_batch_keeps_staging_for_few_lengths_of_prompts() -> None:
    bench, alone = OnDevice(SimulatedDevice(CARD)), Alone()
    for chunks in (1, 2, 3, 4, 5, 6, 1):
        for one in (bench, alone):
            one.batch.join(a_row(f"{chunks}", steps=1, guidance=1.0, chunks=chunks))
            one.step()

    assert list(bench.batch._inputs._rings) == [77 * chunks for chunks in (4, 5, 6, 1)]
    for job, latent in alone.latents.items():
        np.testing.assert_allclose(bench.latents[job], latent, atol=1e-5)


def no_engine(tokens: int, rows: int) -> BoundEngine:
    raise AssertionError(f"an empty batch asked for an engine of {tokens} tokens")


def test_a_batch_gives_back_all_memory_it_took() -> None:
    device = SimulatedDevice(CARD)
    before = device.memory_info().free
    batch = StepBatch(KEY, CAPACITY, LATENT, PORTS, device, device.create_stream("denoise"), no_engine)
    taken = before - device.memory_info().free
    assert 0 < taken <= device_bytes(CAPACITY, LATENT)

    batch.close()

    assert device.memory_info().free == before


def test_a_batch_that_finds_no_room_keeps_none() -> None:
    device = SimulatedDevice(replace(CARD, memory_bytes=CAPACITY * TENSORS * int(np.prod(LATENT)) * 4))

    with pytest.raises(OutOfMemory):
        StepBatch(KEY, CAPACITY, LATENT, PORTS, device, device.create_stream("denoise"), no_engine)

    assert device.memory_info().free == device.memory_info().total


def test_a_full_batch_takes_no_row() -> None:
    bench = OnDevice(CpuDevice())
    for number in range(CAPACITY):
        bench.batch.join(a_row(str(number)))

    with pytest.raises(ValueError, match="is full"):
        bench.batch.join(a_row("one too many"))
