"""Driver and cards, the device that each of them gives, and what runs each model there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from trt_engines.backends.ladder import make_backends
from trt_engines.errors import EngineError, EngineRefused
from trt_engines.model import Model, find_models
from trt_engines.rig import DriverFailed, UnknownGpu, choose_gpus, find_amd_gpus, find_gpus
from trt_worker.config.schema import Config
from trt_worker.doctor.finding import Finding
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.devices import DevicePlan, plan_devices
from trt_worker.plan.route import route


def examine_rig(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The cards and what each is used for, with the reason."""
    try:
        gpus = find_gpus()
        plans = plan_devices(choose_gpus(gpus, config.gpus, environ), find_amd_gpus(), config.backends)
    except DriverFailed as error:
        yield Finding(mark="fault", what="driver", text=str(error), mend="sudo reboot")
        return
    except UnknownGpu as error:
        yield Finding(mark="fault", what="cards", text=str(error), mend="nvidia-smi -L")
        return
    if gpus:
        yield Finding(mark="ok", what="driver", text=gpus[0].driver)
    for gpu in gpus:
        text = f"{gpu.index}: {gpu.name}, SM{gpu.sm}, {gpu.memory_bytes / 1e9:.1f} GB, {gpu.uuid}"
        yield Finding(mark="ok", what="card", text=text)
    for plan in plans:
        text = "; ".join(filter(None, (f"{plan.index}: {plan.label}, with {', then '.join(plan.backends)}", plan.note)))
        yield Finding(mark="note" if plan.note else "ok", what="device", text=text)
    yield from _models(config, plans)


def _models(config: Config, plans: Sequence[DevicePlan]) -> Iterator[Finding]:
    try:
        models = find_models((config.cache_home,))
    except EngineError as error:
        yield Finding(mark="fault", what="models", text=str(error))
        return
    for plan in plans:
        ladder = make_backends(plan.backends, sm=plan.sm)
        for model in models.values():
            try:
                chosen = route(_a_job(model), model, ladder, max_rows=config.max_batch)
            except EngineRefused as error:
                yield Finding(mark="fault", what="model", text=f"on device {plan.index} {error}")
            else:
                text = f"{model.name} runs on device {plan.index} with {chosen.backend}: {chosen.reason}"
                yield Finding(mark="ok", what="model", text=text)


def _a_job(model: Model) -> JobSpec:
    return JobSpec(
        id="doctor",
        model=model.name,
        prompt="",
        width=model.native_width,
        height=model.native_height,
        steps=1,
        seeds=(ImageSeed(value=0),),
        received=0.0,
        due=0.0,
    )
