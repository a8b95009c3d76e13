"""A module gets its weights from where they lie: in the type that it computes with, and without a second copy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trt_engines.architectures.axis import ROWS
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.tensor import Tensor
from trt_engines.bound_weights import BoundNetwork, BoundTensor, Piece, float32_values
from trt_engines.errors import EngineFault
from trt_engines.module_loading import load_module
from trt_engines.modules.module_spec import ModuleSpec

SHAPE = (8, 4)
X = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4), np.float32))


class Matrix(nn.Module):
    """A matrix under two names, a weight that nothing reads, and numbers that the module makes itself."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.one = nn.Linear(4, rows, bias=False)
        self.model.same = nn.Linear(4, rows, bias=False)
        self.model.same.weight = self.model.one.weight
        self.model.unread = nn.Linear(1000, 1000)
        self.model.register_buffer("places", torch.arange(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.model.same(x[self.model.places])
        return result


class Unfilled(Matrix):
    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.model.register_buffer("angles", torch.empty(3), persistent=False)


def a_spec(make: type[Matrix] = Matrix, rows: int = SHAPE[0]) -> ModuleSpec:
    port = Tensor(name="x", shape=(ROWS, 4))
    network = Network(
        name="denoiser",
        role=Role.DENOISER,
        ports=Ports(inputs=(port,), outputs=(port,)),
        folders=(),
        parameters=32,
        cost=Cost(cell=0),
    )

    def made(config: Mapping[str, Any]) -> nn.Module:
        return make(config["rows"])

    return ModuleSpec(network=network, make=made, config={"rows": rows}, small_config={})


def a_weight(folder: Path, dtype: str, *, halves: bool = False, grid: tuple[int, ...] | None = None) -> BoundTensor:
    """Random values behind some other bytes, with their scales behind them."""
    stored = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}[dtype]
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)).to(stored)
    data = values.view(torch.uint8).numpy().tobytes()
    scales = np.linspace(0.5, 3.0, int(np.prod(grid or ())), dtype=np.float32)
    file = folder / "weights"
    file.write_bytes(b"before.." + data + scales.tobytes())
    half = len(data) // 2
    ends = (Piece(file=file, offset=8 + half, length=half), Piece(file=file, offset=8, length=half))
    return BoundTensor(
        name="model.one.weight",
        dtype=dtype,
        shape=SHAPE,
        pieces=ends if halves else (Piece(file=file, offset=8, length=len(data)),),
        scale=None if grid is None else Piece(file=file, offset=8 + len(data), length=scales.nbytes),
        grid=grid or (),
    )


def loaded(*weights: BoundTensor, spec: ModuleSpec | None = None, dtype: torch.dtype = torch.float32) -> Any:
    return load_module(spec or a_spec(), BoundNetwork(config=None, tensors=weights), "cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize(
    ("stored", "grid"),
    [("F32", None), ("F16", None), ("BF16", None), ("F8_E4M3", None), ("F8_E4M3", ()), ("F8_E4M3", (4, 2))],
)
def test_weights_of_any_type_scales_and_order_are_what_the_module_computes_with(
    tmp_path: Path, stored: str, grid: tuple[int, ...] | None, halves: bool, dtype: torch.dtype
) -> None:
    weight = a_weight(tmp_path, stored, halves=halves, grid=grid)

    module = loaded(weight, dtype=dtype)

    assert module.model.one.weight.dtype == dtype
    assert torch.equal(module.model.one.weight, torch.from_numpy(float32_values(weight)).to(dtype))
    with torch.inference_mode():
        assert torch.equal(module(X.to(dtype)), X.to(dtype) @ module.model.one.weight.T)


def test_weights_of_the_wanted_type_stay_in_their_file(tmp_path: Path) -> None:
    weight = a_weight(tmp_path, "F16")
    module = loaded(weight, dtype=torch.float16)

    with weight.pieces[0].file.open("r+b") as file:
        file.seek(8)
        file.write(np.float16(42).tobytes())

    assert module.model.one.weight[0, 0] == 42


def test_a_weight_under_two_names_is_there_once(tmp_path: Path) -> None:
    module = loaded(a_weight(tmp_path, "F32"))

    assert module.model.one.weight is not None
    assert module.model.one.weight.data_ptr() == module.model.same.weight.data_ptr()


def test_a_weight_that_is_not_bound_takes_no_memory_and_is_seen_where_it_is_read(tmp_path: Path) -> None:
    module = loaded(a_weight(tmp_path, "F32"))
    lacking = loaded()

    assert module.model.unread.weight.untyped_storage().nbytes() == 4
    with torch.inference_mode():
        assert module(X).isfinite().all()
        assert lacking(X).isnan().all()


def test_what_does_not_fit_the_network_is_a_fault_that_names_it(tmp_path: Path) -> None:
    weight = a_weight(tmp_path, "F32")

    with pytest.raises(EngineFault, match=r"no weights model\.bias"):
        loaded(weight, replace(weight, name="model.bias"))
    with pytest.raises(EngineFault, match=r"model\.one\.weight is \(8, 4\), and \(9, 4\) in PyTorch's"):
        loaded(weight, spec=a_spec(rows=9))
    with pytest.raises(EngineFault, match=r"model\.angles: nothing gives this buffer its values"):
        loaded(weight, spec=a_spec(Unfilled))


LARGE = """
import sys
from pathlib import Path
import torch
from trt_engines.bound_weights import BoundNetwork, BoundTensor, Piece
from trt_engines.module_loading import load_module
from trt_engines.modules.module_spec import ModuleSpec

class Stack(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = torch.nn.ModuleList(torch.nn.Linear(3200, 3200, bias=False) for _ in range(15))

def memory(word):
    with open("/proc/self/status") as status:
        return 1024 * int(dict(line.split(":") for line in status)[word].split()[0])

file, size = Path(sys.argv[1]), 2 * 3200 * 3200
weights = tuple(
    BoundTensor(name=f"model.{n}.weight", dtype="F16", shape=(3200, 3200),
                pieces=(Piece(file=file, offset=8 + n * size, length=size),)) for n in range(15))
spec = ModuleSpec(network=None, make=Stack, config={}, small_config={})
load_module(spec, BoundNetwork(config=None, tensors=()), "cpu", torch.float16)
for name in sys.argv[2:]:
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # VmHWM begins anew
    before = memory("RssAnon")
    module = load_module(spec, BoundNetwork(config=None, tensors=weights), "cpu", getattr(torch, name))
    total = sum(float(part.weight.sum()) for part in module.model)
    print(name, (memory("VmHWM") - memory("RssFile") - before) / (15 * size), total)
    del module
"""


def test_loading_takes_no_second_copy_in_the_host_s_memory(tmp_path: Path) -> None:
    """Of 307 MB in half precision: nothing where that is computed with, else the converted weights and one more."""
    file = tmp_path / "weights"
    with file.open("wb") as stream:
        stream.truncate(8 + 15 * 2 * 3200**2)  # zeros, which take no place on the disk

    run = subprocess.run(
        [sys.executable, "-c", LARGE, str(file), "float16", "bfloat16", "float32"],
        capture_output=True,
        text=True,
        check=True,
    )

    told = [line.split() for line in run.stdout.splitlines()]
    assert {float(total) for _, _, total in told} == {0.0}
    shares = {name: float(share) for name, share, _ in told}
    assert shares.keys() == {"float16", "bfloat16", "float32"}
    assert shares["float16"] < 0.1
    assert 0.9 < shares["bfloat16"] < 1.3
    assert 1.9 < shares["float32"] < 2.3
