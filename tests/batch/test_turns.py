"""Device time between models: even shares, switches that pay, nobody starved."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trt_worker.batch.admission import BatchKey, RunningBatch, next_batch
from trt_worker.batch.turns import Turns


def a_batch(
    model: str, *, width: int = 64, rows: int = 1, arrived: float = 0.0, last_step: float = 0.0, switch: float = 0.0
) -> RunningBatch:
    return RunningBatch(
        key=BatchKey(model=model, backend="b", width=width, height=64),
        rows=rows,
        room=0,
        last_step=last_step,
        due=1e9,
        seconds_left=0.0,
        arrived=arrived,
        switch_seconds=switch,
    )


def test_the_current_model_goes_on_until_another_has_fallen_behind_by_a_turn() -> None:
    turns = Turns(turn=1.0).charged("a", 0.6, ["a", "b"])
    assert turns.next({"a": 0.0, "b": 0.0}) == "a"

    assert turns.charged("a", 0.6, ["a", "b"]).next({"a": 0.0, "b": 0.0}) == "b"


def test_a_switch_waits_until_it_takes_no_more_than_its_share_of_the_time() -> None:
    turns = Turns(switch_share=0.2).charged("a", 9.0, ["a", "b"])
    candidates = {"a": 0.0, "b": 2.0}
    assert turns.next(candidates) == "a"  # 2 s of loading after 9 s of work is more than a fifth

    assert turns.charged("a", 1.5, ["a", "b"]).next(candidates) == "b"


def test_a_device_without_work_for_its_current_model_switches_at_once() -> None:
    assert Turns().charged("a", 5.0, ["a"]).next({"b": 30.0}) == "b"


def test_what_is_resident_comes_before_what_must_be_loaded() -> None:
    assert Turns().next({"a": 3.0, "b": 0.0}) == "b"


def test_a_pause_earns_no_credit() -> None:
    turns = Turns().charged("a", 5.0, ["a", "b"]).charged("b", 5.0, ["a", "b"])
    for _ in range(10):
        turns = turns.charged("a", 5.0, ["a"])

    turns = turns.charged("a", 1.0, ["a", "b"])

    assert turns.served["a"] - turns.served["b"] <= 1.0 + 5.0


def test_the_oldest_row_of_the_model_whose_turn_it_is_decides() -> None:
    batches = [a_batch("a", width=64, rows=4, arrived=5.0), a_batch("a", width=128, rows=1, arrived=3.0)]

    assert next_batch(batches, 6.0, patience=60, guard=5) == batches[1].key


def test_a_model_that_must_be_loaded_is_served_once_it_has_waited_for_what_pays_for_it() -> None:
    busy, rare = a_batch("a", last_step=9.9), a_batch("b", last_step=0.0, switch=2.0)
    turns = Turns(current="a", switch_share=0.2)

    assert next_batch([busy, rare], 9.0, patience=2, guard=5, turns=turns) == busy.key
    assert next_batch([busy, rare], 10.0, patience=2, guard=5, turns=turns) == rare.key


@settings(max_examples=60, deadline=None)
@given(
    seconds=st.lists(st.floats(0.01, 2.0), min_size=2, max_size=5),
    switches=st.lists(st.floats(0.0, 3.0), min_size=5, max_size=5),
)
def test_every_model_steps_within_what_pays_for_its_switch_and_a_round_of_the_others(
    seconds: list[float], switches: list[float]
) -> None:
    """One model is resident at a time; a step of a model takes `seconds`, loading it `switches`."""
    models = [f"m{number}" for number in range(len(seconds))]
    loading = dict(zip(models, switches, strict=False))
    step = dict(zip(models, seconds, strict=True))
    last, now, resident = dict.fromkeys(models, 0.0), 0.0, models[0]
    turns = Turns(turn=1.0)
    longest = sum(step[model] + loading[model] for model in models)
    for _ in range(400):
        costs = {model: 0.0 if model == resident else loading[model] for model in models}
        batches = [a_batch(model, last_step=last[model], switch=costs[model]) for model in models]
        chosen = next_batch(batches, now, patience=2.0, guard=0.0, turns=turns)
        assert chosen is not None
        resident = chosen.model
        now += costs[resident] + step[resident]
        last[resident] = now
        turns = turns.charged(resident, costs[resident] + step[resident], models)
        for model in models:
            assert now - last[model] <= max(2.0, turns.patience(loading[model])) + longest + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.01, 1.0)), min_size=50, max_size=200))
def test_two_resident_models_get_even_shares_whatever_their_steps_take(steps: list[tuple[str, float]]) -> None:
    turns = Turns(turn=1.0)
    had = {"a": 0.0, "b": 0.0}
    for _, seconds in steps:
        model = turns.next({"a": 0.0, "b": 0.0})
        turns = turns.charged(model, seconds, ["a", "b"])
        had[model] += seconds
        assert abs(had["a"] - had["b"]) <= turns.turn + 1.0 + 1e-6
