"""CUDA C to machine code, with NVRTC: it needs no card and no driver."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from trt_engines.devices.errors import DeviceUnavailable
from trt_engines.kernels.kernel import VALUE_TYPES, Kernel

SOURCES: Final = Path(__file__).parent
TARGETS: Final = (75, 80, 86, 89, 90, 100, 120, 121)
"""Compute capabilities, times ten, that the tests compile every kernel for."""

INSTALL: Final = "./horde-bridge.sh installs it; remove .venv to have that done anew"


def compile_source(source: str, value: np.dtype[Any], sm: int) -> Any:
    """All kernels of one file, for one type of the engine's tensors.

    Without fused multiply-add: the kernels wait for memory, so it gains nothing, and results equal the twins'.

    Args:
        source: file name in this folder.
        sm: compute capability times ten.
    Returns: `cuda.core.ObjectCode` with machine code.
    Raises: DeviceUnavailable: NVRTC is not installed. ValueError: the source does not compile; the log is in it.
    """
    try:
        core = import_module("cuda.core")
    except ImportError as error:
        raise DeviceUnavailable(
            f"kernels are compiled with cuda-core, which does not load ({error}): {INSTALL}"
        ) from error
    options = core.ProgramOptions(
        name=source,
        arch=f"sm_{sm}",
        std="c++17",
        fma=False,
        define_macro=("VALUE", VALUE_TYPES[value]),
        include_path=str(SOURCES),
    )
    try:
        program = core.Program((SOURCES / source).read_text(encoding="utf-8"), "c++", options)
        return program.compile("cubin")
    except Exception as error:  # NVRTC's own class is not public
        if type(error).__name__ == "DynamicLibNotFoundError":
            raise DeviceUnavailable(f"kernels are compiled with NVRTC, which is not here: {INSTALL}") from error
        raise ValueError(f"{source} does not compile for SM{sm} and {value}: {error}") from error


class CompiledKernels:
    """Kernels of one card, each file compiled when it is first needed. Args: sm: compute capability times ten."""

    def __init__(self, sm: int) -> None:
        self._sm = sm
        self._files: dict[tuple[str, np.dtype[Any]], Any] = {}
        self._kernels: dict[tuple[str, np.dtype[Any]], Any] = {}

    def get(self, kernel: Kernel, value: np.dtype[Any]) -> Any:
        """`cuda.core.Kernel`. Raises: see `compile_source`."""
        key = kernel.name, value
        if key not in self._kernels:
            file = kernel.source, value
            if file not in self._files:
                self._files[file] = compile_source(kernel.source, value, self._sm)
            self._kernels[key] = self._files[file].get_kernel(kernel.name)
        return self._kernels[key]
