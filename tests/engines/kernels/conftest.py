"""The kernels' own source, compiled for the processor: what a card would compute, thread by thread."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.kernels.catalogue import KERNELS
from trt_engines.kernels.compile import SOURCES
from trt_engines.kernels.kernel import BLOCK, VALUE_TYPES, Kernel, KernelCall, Role

HOST = Path(__file__).parent / "host"

RunSource = Callable[[KernelCall, tuple[Any, ...]], None]


def _wrapper(kernel: Kernel) -> str:
    """A C function that runs every thread of a kernel; it compiles only if the declared parameters are the source's."""
    declared = ", ".join(
        f"{one.element.value} {'' if one.role is Role.SCALAR else '*'}{one.name}" for one in kernel.parameters
    )
    names = ", ".join(one.name for one in kernel.parameters)
    return (
        f'extern "C" void host_{kernel.name}(unsigned grid_x, unsigned grid_y, unsigned block_x, {declared}) '
        f"{{ for_every_thread(grid_x, grid_y, block_x, [&] {{ {kernel.name}({names}); }}); }}"
    )


@pytest.fixture(scope="session")
def run_source(tmp_path_factory: pytest.TempPathFactory) -> RunSource:
    """Runs a call's kernel from its CUDA C source on flat arrays in place of its buffers."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the kernels' source on the processor")
    folder = tmp_path_factory.mktemp("kernels")
    sources = sorted({kernel.source for kernel in KERNELS})
    text = "\n".join(
        ['#include "cuda.h"', *(f'#include "{source}"' for source in sources), *(_wrapper(one) for one in KERNELS)]
    )
    (folder / "all.cpp").write_text(text)
    libraries = {}
    for number, (dtype, c_name) in enumerate(VALUE_TYPES.items()):
        library = folder / f"{number}.so"
        options = [
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-shared",
            "-fPIC",
            "-Wno-unknown-pragmas",
            f"-DVALUE={c_name}",
        ]
        subprocess.run(
            [compiler, *options, f"-I{HOST}", f"-I{SOURCES}", str(folder / "all.cpp"), "-o", str(library)], check=True
        )
        libraries[dtype] = ctypes.CDLL(str(library))

    def run(call: KernelCall, arguments: tuple[Any, ...]) -> None:
        function = getattr(libraries[call.value], f"host_{call.kernel.name}")
        passed = [_argument(one) for one in arguments]
        function(call.grid[0], call.grid[1], BLOCK, *passed)

    return run


def _argument(value: NDArray[Any] | int) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_int(value)
