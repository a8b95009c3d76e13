"""Every kernel compiles for every card; NVRTC needs none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_engines.kernels.catalogue import KERNELS, MOST_TENSORS
from trt_engines.kernels.compile import SOURCES, TARGETS, compile_source
from trt_engines.kernels.kernel import FLOAT, HALF, VALUE_TYPES


@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("value", VALUE_TYPES, ids=str)
def test_every_kernel_compiles_for_every_card_and_type(value: np.dtype[Any], sm: int) -> None:
    for source in sorted({kernel.source for kernel in KERNELS}):
        code = compile_source(source, value, sm).code

        assert code.startswith(b"\x7fELF")
        for kernel in KERNELS:
            assert (kernel.name.encode() in code) == (kernel.source == source)


def test_a_source_that_does_not_compile_gives_the_compilers_words(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.cu").write_text('extern "C" __global__ void wrong() { missing(); }')
    monkeypatch.setattr("trt_engines.kernels.compile.SOURCES", tmp_path)

    with pytest.raises(ValueError, match=r'(?s)wrong.cu does not compile for SM89.*"missing" is undefined'):
        compile_source("wrong.cu", FLOAT, 89)


def test_kernels_need_nothing_of_the_machine_but_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "/proc/nowhere")

    for source in sorted({kernel.source for kernel in KERNELS}):
        assert compile_source(source, HALF, 89).code


def test_the_source_holds_as_many_tensors_as_calls_may_have() -> None:
    assert f"#define MOST_TENSORS {MOST_TENSORS} " in (SOURCES / "rows.cu").read_text()
