"""The search for places where a job's way can throw, and the device's half of what is thrown there."""

from __future__ import annotations

import ast
from pathlib import Path

from trt_perf.robustness import points, unexpected


def test_no_place_of_the_device_process_costs_another_job() -> None:
    figures = unexpected.measure(("device",))

    assert figures["unexpected_points"] >= 20
    assert (figures["unexpected_points_missing"], figures["jobs_lost"]) == (0, 0)


def test_every_await_of_a_module_on_the_way_is_a_point_unless_it_is_named_with_a_reason() -> None:
    source = Path(unexpected.ROOT, "trt_worker/submit/upload.py").read_text()
    tree = ast.parse(source)
    awaits = sum(isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor) for node in ast.walk(tree))
    before = len(points.points)

    points.marked("trt_worker.submit.upload", tree)

    found = points.points[before:]
    del points.points[before:]
    assert len(found) == awaits


def test_what_is_left_out_exists() -> None:
    for name in points.ELSEWHERE:
        module, _, function = name.partition(":")
        file = Path(unexpected.ROOT, *module.split(".")).with_suffix(".py")
        assert file.is_file(), name
        assert not function or f"def {function.rpartition('.')[2]}(" in file.read_text(), name
