"""What a graph depends on is in the name that it is kept under."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import trt_engines.modules
from trt_export.building import certificates
from trt_export.graphs import cache
from trt_export.graphs.cache import GraphCache, code_digest


def imported(folder: Path) -> Iterator[str]:
    """Our modules that the files of a folder import, as paths below our packages."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("trt_"):
                place = node.module.replace(".", "/")
                yield from (f"{place}/{name.name}" for name in node.names) if "/" not in place else [place]


def test_modules_are_made_of_nothing_of_ours_but_what_names_a_graph() -> None:
    parts = tuple(imported(Path(trt_engines.modules.__path__[0])))

    assert parts
    assert [part for part in parts if not part.startswith(cache.SOURCES)] == []


@pytest.mark.parametrize("sources", [cache.SOURCES, certificates.SOURCES])
def test_every_part_that_is_hashed_is_there_and_counts(sources: tuple[str, ...]) -> None:
    whole = code_digest(sources)

    assert all(code_digest(tuple(part for part in sources if part != one)) != whole for one in sources)


def test_a_part_that_is_not_there_is_no_part() -> None:
    with pytest.raises(FileNotFoundError):
        code_digest(("trt_export/gone",))


def test_another_network_configuration_or_precision_is_another_graph(tmp_path: Path) -> None:
    graphs = GraphCache(tmp_path)
    places = {
        graphs.path("sdxl/denoiser", {"width": 1}, "float16"),
        graphs.path("sdxl/denoiser", {"width": 2}, "float16"),
        graphs.path("sdxl/denoiser", {"width": 1}, "bfloat16"),
        graphs.path("flux_dev/denoiser", {"width": 1}, "float16"),
    }

    assert len(places) == 4
    assert graphs.path("sdxl/denoiser", {"width": 1}, "float16") in places
