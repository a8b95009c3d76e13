"""When an engine is kept out of use, how long, and when a model is not to be offered."""

from __future__ import annotations

from trt_worker.plan.blame import RECENT_SECONDS
from trt_worker.plan.quarantine import PROBE_WAITS, Record, Suspect, blamed, postponed, probed, withdrawn

ENGINE = Suspect(device=1, backend="onnxruntime", model="m", engine="m/denoiser/64x64r8t77")


def after_faults(*times: float, bar: bool = True) -> Record:
    record = Record()
    for at in times:
        record = blamed(record, at, "because", limit=2, bar=bar)
    return record


def test_one_fault_bars_nothing_and_the_second_does() -> None:
    assert not after_faults(0.0).barred
    assert after_faults(0.0, 5.0) == Record(
        faults=(0.0, 5.0), barred=True, probe_at=5.0 + PROBE_WAITS[0], reason="because"
    )


def test_faults_of_long_ago_do_not_count() -> None:
    assert not after_faults(0.0, RECENT_SECONDS).barred


def test_what_may_be_a_jobs_own_doing_is_probed_at_once_and_in_use_until_that_fails() -> None:
    record = after_faults(0.0, 5.0, bar=False)

    assert (record.barred, record.probe_at) == (False, 5.0)
    assert probed(record, 6.0, "it fails").barred


def test_a_probe_that_comes_out_well_ends_the_quarantine_and_forgets_the_faults() -> None:
    ended = probed(after_faults(0.0, 5.0), 20.0, "")

    assert ended == Record(probed=20.0)
    assert not blamed(ended, 21.0, "again", limit=2, bar=True).barred


def test_each_failed_probe_makes_the_next_one_wait_longer_up_to_the_longest() -> None:
    record, now, waits = after_faults(0.0, 0.0), 0.0, []
    for _ in range(len(PROBE_WAITS) + 1):
        record = probed(record, now, "still")
        assert record.probe_at is not None
        waits.append(record.probe_at - now)
        now = record.probe_at

    assert waits == [*PROBE_WAITS, PROBE_WAITS[-1]]
    assert list(PROBE_WAITS) == sorted(PROBE_WAITS)


def test_a_probe_that_said_nothing_is_made_again_and_counts_for_neither() -> None:
    record = probed(after_faults(0.0, 0.0), 10.0, "it fails")

    assert postponed(record, 30.0).failed_probes == record.failed_probes
    assert postponed(record, 30.0).probe_at == 30.0 + PROBE_WAITS[0]


def test_a_fault_during_a_quarantine_does_not_put_its_probe_off() -> None:
    record = after_faults(0.0, 5.0)

    assert blamed(record, 9.0, "again", limit=2, bar=True).probe_at == record.probe_at


def test_a_model_is_withdrawn_once_all_that_can_run_it_is_barred() -> None:
    others = Suspect(device=2, backend="pytorch", model="m")
    able = {"m": [ENGINE.whole, others], "n": [Suspect(device=1, backend="onnxruntime", model="n")], "nowhere": []}

    assert withdrawn(able, [ENGINE.whole, ENGINE]) == frozenset()
    assert withdrawn(able, [ENGINE.whole, others]) == {"m"}
