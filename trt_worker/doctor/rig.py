"""Driver and cards, the device that each of them gives, and what runs each model there."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trt_engines.backends.ladder import BUILT, make_backends
from trt_engines.errors import EngineRefused
from trt_engines.model import Model, find_models
from trt_engines.rig import (
    SYSFS,
    DriverFailed,
    Gpu,
    UnknownGpu,
    choose_gpus,
    find_amd_gpus,
    find_gpus,
    nvidia_cards_on_bus,
)
from trt_worker.config.schema import Config
from trt_worker.doctor.finding import Finding
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.devices import DevicePlan, plan_devices
from trt_worker.plan.route import route

LEAST_DRIVER = 580
"""Branch of the NVIDIA driver that CUDA 13 needs, which all our engine libraries are made for (CUDA compatibility
guide, minor version compatibility)."""


def examine_rig(config: Config, environ: Mapping[str, str], sysfs: Path = SYSFS) -> Iterator[Finding]:
    """The cards and what each is used for, with the reason.

    Args:
        sysfs: where the kernel shows the machine's devices.
    """
    try:
        gpus = find_gpus()
        chosen = choose_gpus(gpus, config.gpus, environ)
    except DriverFailed as error:
        yield Finding(mark="fault", what="driver", text=str(error), mend="sudo reboot")
        return
    except UnknownGpu as error:
        yield Finding(mark="fault", what="cards", text=str(error), mend="nvidia-smi -L")
        return
    yield from _driver(gpus, nvidia_cards_on_bus(sysfs))
    for gpu in gpus:
        text = f"{gpu.index}: {gpu.name}, SM{gpu.sm}, {gpu.memory_bytes / 1e9:.1f} GB, {gpu.uuid}"
        yield Finding(mark="ok", what="card", text=text)
    if gpus and not chosen:
        text = f"CUDA_VISIBLE_DEVICES is {environ['CUDA_VISIBLE_DEVICES']!r} and shows none of them: none is used"
        yield Finding(mark="note", what="cards", text=text, mend="unset CUDA_VISIBLE_DEVICES")
    plans = plan_devices(chosen, find_amd_gpus(sysfs), config.backends)
    for plan in plans:
        text = "; ".join(filter(None, (f"{plan.index}: {plan.label}, with {', then '.join(plan.backends)}", plan.note)))
        yield Finding(mark="note" if plan.note else "ok", what="device", text=text)
    yield from _models(config, plans)


def _driver(gpus: Sequence[Gpu], on_bus: int) -> Iterator[Finding]:
    install = "sudo ubuntu-drivers install" if shutil.which("ubuntu-drivers") else "sudo apt install nvidia-driver"
    if gpus:
        version = gpus[0].driver
        branch = version.partition(".")[0]
        if branch.isdigit() and int(branch) < LEAST_DRIVER:
            text = (
                f"{version} is too old: CUDA 13, which the engine libraries are made for, needs {LEAST_DRIVER} or newer"
            )
            yield Finding(mark="fault", what="driver", text=text, mend=install)
        else:
            yield Finding(mark="ok", what="driver", text=version)
    elif on_bus:
        text = f"this machine has {on_bus} NVIDIA card(s) that no driver serves"
        yield Finding(mark="fault", what="driver", text=text, mend=install)


def _models(config: Config, plans: Sequence[DevicePlan]) -> Iterator[Finding]:
    """What runs each model on each device. A device that cannot run one is no fault where another can."""
    models = find_models((config.cache_home,), unusable=lambda _: None)  # `examine_models` tells of those
    ladders = {plan.index: make_backends(plan.backends, sm=plan.sm) for plan in plans}
    builds = any(set(plan.backends) & set(BUILT) for plan in plans)
    for model in models.values():
        runs: list[str] = []
        refusals: list[str] = []
        for plan in plans:
            try:
                chosen = route(_a_job(model), model, ladders[plan.index], max_rows=config.max_batch)
            except EngineRefused as error:
                refusals.append(f"on device {plan.index} {error}")
            else:
                runs.append(f"{model.name} runs on device {plan.index} with {chosen.backend}: {chosen.reason}")
        for text in runs:
            yield Finding(mark="ok", what="model", text=text)
        for text in refusals:
            mend = f"./horde-bridge.sh {'build' if builds else 'plan'} {shlex.quote(model.name)}"
            yield Finding(mark="note" if runs else "fault", what="model", text=text, mend=mend)


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
