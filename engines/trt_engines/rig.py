"""The cards of this machine, as its drivers report them. Loads no driver library: nothing here can hang a process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trt_engines.cards import Card, UnknownCard, card, unsupported
from trt_engines.errors import EngineError

MIB = 2**20
DRIVER_SECONDS = 20.0
"""A driver that does not answer within this hangs; `nvidia-smi` takes a second or two on a rig without persistence."""

SYSFS = Path("/sys")
"""Where the Linux kernel shows the machine's devices."""

BUILT_IN_BYTES = 2 * 2**30
"""Less memory than this is no card's own: graphics built into a processor has so much of main memory set aside at boot
and works in all of it."""

_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, and the class of what drives a display or computes beside one

_QUERY = ("index", "uuid", "name", "compute_cap", "memory.total", "driver_version")


class DriverFailed(EngineError):
    """The NVIDIA driver is there and does not work; the message says what it answered."""


class NoDevices(DriverFailed):
    """The NVIDIA driver works and finds no card."""


class UnknownGpu(EngineError):
    """A card was asked for that this machine does not have; the message lists those it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One NVIDIA card of this machine."""

    index: int  # as nvidia-smi counts, by PCI bus
    uuid: str  # "GPU-..."; names the card to CUDA whatever the order is
    name: str
    sm: int  # compute capability times ten: 86
    memory_bytes: int
    driver: str

    @property
    def unsupported(self) -> str | None:
        """Why no engine can be built for it, in an operator's words; None: one can."""
        return unsupported(self.sm)

    @property
    def card(self) -> Card | None:
        """What its vendor specifies, with the memory that it really has; None: not in our table."""
        try:
            return replace(card(self.name), memory_bytes=self.memory_bytes)
        except UnknownCard:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdGpu:
    """One AMD card that the kernel's compute driver serves."""

    target: str  # "gfx1100"
    memory_bytes: int | None = None  # its own; None: it works in the machine's


def find_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA cards of this machine in the driver's order; none where there is no driver, or it finds none.

    Raises: DriverFailed: the driver is installed and does not answer as it should.
    """
    try:
        return listed_gpus()
    except NoDevices:
        return ()


def listed_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA cards that the driver lists, in its order; none where there is no driver.

    Raises: NoDevices: it finds none. DriverFailed: it does not answer as it should.
    """
    query = shutil.which("nvidia-smi")
    if query is None:
        return ()
    command = [query, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        # In an environment of its own: ours may hold secrets, and it needs none of it.
        answer = subprocess.run(
            command, env={"PATH": os.defpath}, capture_output=True, text=True, check=False, timeout=DRIVER_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DriverFailed(f"nvidia-smi gave no answer within {DRIVER_SECONDS:.0f} s: the driver hangs") from error
    if answer.returncode:
        said = (answer.stdout.strip() or answer.stderr.strip()).splitlines()
        none = bool(said) and said[0].startswith("No devices were found")
        failure = NoDevices if none else DriverFailed
        raise failure(f"nvidia-smi failed: {said[0] if said else f'exit status {answer.returncode}'}")
    return tuple(_gpu(line) for line in answer.stdout.strip().splitlines())


def find_amd_gpus(sysfs: Path = SYSFS) -> tuple[AmdGpu, ...]:
    """The AMD cards that the kernel's compute driver serves, in its order."""
    found = []
    # One folder per processor or card.
    for properties in sorted((sysfs / "class/kfd/kfd/topology/nodes").glob("*/properties"), key=_node):
        values = dict(line.split(maxsplit=1) for line in properties.read_text().splitlines() if " " in line)
        # Decimal digits as major * 10000 + minor * 100 + step, the latter two written in hexadecimal in the name.
        if version := int(values.get("gfx_target_version", "0")):
            target = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
            memory = _amd_memory(sysfs / f"class/drm/renderD{values.get('drm_render_minor', '')}/device")
            found.append(AmdGpu(target=target, memory_bytes=memory))
    return tuple(found)


def nvidia_cards_on_bus(sysfs: Path = SYSFS) -> int:
    """NVIDIA cards on the PCI bus, whether a driver serves them or not."""
    devices = (sysfs / "bus/pci/devices").glob("*")
    return sum(
        (device / "vendor").read_text().strip() == _NVIDIA and (device / "class").read_text().startswith(_DISPLAY)
        for device in devices
    )


def choose_gpus(gpus: Sequence[Gpu], wanted: Sequence[str], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The cards a worker is to use, in the order in which it was told.

    Args:
        wanted: positions or beginnings of UUIDs, as `gpus:` lists them; empty: all that are visible.
        environ: CUDA_VISIBLE_DEVICES, where set, says which cards are visible; `wanted` then counts among those, as
            CUDA itself does. An entry that names no card hides itself and all after it (CUDA C Programming Guide).

    Raises: UnknownGpu.
    """
    visible = tuple(gpus)
    if (listed := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        visible = _visible(gpus, listed)
    if not wanted:
        return visible
    chosen = []
    for entry in wanted:
        found = _named(visible, entry)
        if found is None:
            there = ", ".join(f"{place} ({gpu.name}, {gpu.uuid})" for place, gpu in enumerate(visible)) or "no card"
            raise UnknownGpu(f"gpus names {entry!r}, and there is no such card; this worker sees {there}")
        if found not in chosen:
            chosen.append(found)
    return tuple(chosen)


def _node(properties: Path) -> int:
    return int(properties.parent.name)


def _amd_memory(device: Path) -> int | None:
    """Bytes on a card; None where the kernel says none, or so few that they are none."""
    shown = device / "mem_info_vram_total"
    size = int(shown.read_text()) if shown.exists() else 0
    return size if size >= BUILT_IN_BYTES else None


def _visible(gpus: Sequence[Gpu], listed: str) -> tuple[Gpu, ...]:
    visible: list[Gpu] = []
    for entry in (part.strip() for part in listed.split(",")):
        found = _named(gpus, entry)
        if found is None:
            break
        visible.append(found)
    return tuple(visible)


def _named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if re.fullmatch(r"\d+", entry):
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    matching = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None


def _gpu(line: str) -> Gpu:
    fields = [field.strip() for field in line.split(",")]
    try:
        index, uuid, name, capability, mebibytes, driver = fields
        return Gpu(
            index=int(index),
            uuid=uuid,
            name=name,
            sm=int(capability.replace(".", "")),
            memory_bytes=int(mebibytes) * MIB,
            driver=driver,
        )
    except ValueError as error:
        raise DriverFailed(
            f"nvidia-smi answered {line!r}, which is not {', '.join(_QUERY)}; a driver before 450 is too old"
        ) from error
