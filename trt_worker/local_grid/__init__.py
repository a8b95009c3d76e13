"""The other side of both networks, on the loopback address: for the tests, the benchmarks and `trt-worker demo`."""

from trt_worker.local_grid.faults import Fault, Faults
from trt_worker.local_grid.ledger import Entry, Ledger, Outcome
from trt_worker.local_grid.recipe import Recipe, read_recipe, shipped_recipes
from trt_worker.local_grid.requests import (
    GridHandle,
    GridResult,
    HordeHandle,
    HordeImage,
    HordeRequest,
    HordeResult,
    ImageRequest,
    UploadedImage,
)
from trt_worker.local_grid.server import LocalGrid
from trt_worker.local_grid.settings import CUSTOMER, LOCAL, Account, Dialect, GridSettings, HordeSettings

__all__ = [
    "CUSTOMER",
    "LOCAL",
    "Account",
    "Dialect",
    "Entry",
    "Fault",
    "Faults",
    "GridHandle",
    "GridResult",
    "GridSettings",
    "HordeHandle",
    "HordeImage",
    "HordeRequest",
    "HordeResult",
    "HordeSettings",
    "ImageRequest",
    "Ledger",
    "LocalGrid",
    "Outcome",
    "Recipe",
    "UploadedImage",
    "read_recipe",
    "shipped_recipes",
]
