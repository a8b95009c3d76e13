"""An architecture in three files is recognised, built and served, and no other file is touched for it."""

from __future__ import annotations

from trt_perf.new_architecture import trial


def test_three_new_files_and_no_changed_one_make_an_architecture_that_draws() -> None:
    assert (len(trial.new_files()), trial.changed_files()) == (3, ())

    likeness = trial.draw()

    assert likeness["pytorch"] > 55, "both backends compute the same"
    assert max(likeness[wrong] for wrong in ("prompt", "guidance", "source")) < 25, "everything that a job asks counts"
