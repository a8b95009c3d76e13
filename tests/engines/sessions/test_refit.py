"""Which weights a refit sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_engines.sessions.refit import weights_to_set

PRISTINE = {name: np.full(2, number) for number, name in enumerate("abcd")}
sets_of_weights = st.dictionaries(st.sampled_from("abcd"), st.integers(10, 99), max_size=4)


@settings(deadline=None)
@given(st.lists(sets_of_weights, max_size=5))
def test_after_any_refits_the_engine_has_the_last_ones_weights_and_is_otherwise_as_built(
    refits: list[dict[str, int]],
) -> None:
    engine, changed = dict(PRISTINE), frozenset[str]()
    for wanted in refits:
        weights = {name: np.full(2, value) for name, value in wanted.items()}
        engine |= weights_to_set(weights, changed, PRISTINE)
        changed = frozenset(weights)

        for name, value in engine.items():
            np.testing.assert_array_equal(value, weights.get(name, PRISTINE[name]))


def test_a_changed_weight_that_cannot_be_put_back_is_named() -> None:
    with pytest.raises(KeyError, match="e"):
        weights_to_set({}, frozenset("e"), PRISTINE)
