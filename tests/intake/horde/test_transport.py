"""A transport against a scripted Horde, over real sockets."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from PIL import Image

from trt_worker.delivery import EncodedImage, Offer, Settlement
from trt_worker.errors import ConfigError, TransportClosed
from trt_worker.intake.horde import transport as module
from trt_worker.intake.horde.settings import HordeSettings
from trt_worker.intake.horde.transport import HordeTransport

pytestmark = pytest.mark.anyio

Run = Callable[..., AbstractAsyncContextManager[Any]]
APop = Callable[..., dict[str, Any]]
AnImage = Callable[..., EncodedImage]

KEY = "a-secret-key"
MAINTENANCE = (403, {"message": "Back on Monday", "rc": "WorkerMaintenance"})


def a_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


async def test_a_job_is_offered_and_its_result_handed_in(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop()))
    async with running() as worker:
        offer = await worker.next_offer()

        assert (offer.transport, offer.network) == ("horde", "127.0.0.1")
        assert offer.job.id == "job-0"
        slot = offer.delivery.slots[0]
        assert slot.url == "https://store.example/job-0.webp?X-Amz-Signature=1"
        assert slot.content_type is None
        await offer.delivery.progress(0.5)
        receipt = await offer.delivery.deliver([an_image(seed=457820011)])

        assert (receipt.settlement, receipt.reward, receipt.unit) == (Settlement.PAID, 6.22, "kudos")
        (submit,) = horde.of("submit")
        assert submit.body == {
            "id": "job-0",
            "generation": "R2",
            "state": "ok",
            "seed": 457820011,
            "censored": False,
            "gen_metadata": [],
        }
        stats, state = worker.transport.stats(), worker.transport.state()
        assert (stats.popped, stats.submitted, stats.faulted, stats.kudos) == (1, 1, 0, 6.22)
        assert (state.network, state.connected, state.reconnects) == ("horde", 1, 0)
        assert (stats.username, stats.user_kudos) == ("owner#3", 6957.0)


async def test_every_call_carries_the_key_in_its_header_alone(horde: Any, running: Run) -> None:
    async with running():
        await horde.until("pop")

    for call in horde.calls:
        assert call.headers["apikey"] == KEY
        assert KEY not in f"{call.path} {call.body}"


async def test_a_batch_is_handed_in_image_by_image_with_its_place_in_it(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop(ids=("a", "b", "c"), payload={"seed": "7", "n_iter": 3})))
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([an_image(0, 7), an_image(1, 7), an_image(2, 7)])

    submits = {call.body["id"]: call.body for call in horde.of("submit")}
    assert receipt.reward == pytest.approx(3 * 6.22)
    assert list(submits) == ["a", "b", "c"]
    for index, body in enumerate(submits.values()):
        assert body["gen_metadata"] == [{"type": "batch_index", "value": "see_ref", "ref": str(index)}]


async def test_slots_follow_the_ids_that_they_name_and_not_their_order(horde: Any, running: Run, a_pop: APop) -> None:
    swapped = ["https://store.example/b.webp?s=1", "https://store.example/a.webp?s=1"]
    horde.answer("pop", (200, a_pop(ids=("a", "b"), r2_uploads=swapped)))
    async with running() as worker:
        offer = await worker.next_offer()

        assert [slot.url for slot in offer.delivery.slots] == swapped[::-1]
        await offer.delivery.fail("no")


async def test_an_image_without_a_slot_travels_inline(horde: Any, running: Run, a_pop: APop, an_image: AnImage) -> None:
    horde.answer("pop", (200, a_pop(r2_upload=None, r2_uploads=None)))
    async with running() as worker:
        offer = await worker.next_offer()
        assert list(offer.delivery.slots) == [None]
        await offer.delivery.deliver([an_image(data=b"picture")])

    assert base64.b64decode(horde.of("submit")[0].body["generation"]) == b"picture"


async def test_a_missing_image_is_handed_back_as_faulted_and_the_others_are_paid(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop(ids=("a", "b"), payload={"seed": "7"})))
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([an_image(0, 7), None])

        assert receipt.settlement is Settlement.PAID
        bodies = {call.body["id"]: call.body for call in horde.of("submit")}
        assert bodies["a"]["state"] == "ok"
        assert (bodies["b"]["state"], bodies["b"]["generation"], bodies["b"]["seed"]) == ("faulted", "faulted", 7)
        stats = worker.transport.stats()
        assert (stats.submitted, stats.faulted, stats.drops_this_hour) == (1, 1, 1)


async def test_a_job_given_up_is_faulted_and_its_reason_stays_here(horde: Any, running: Run, a_pop: APop) -> None:
    horde.answer("pop", (200, a_pop()))
    horde.answer("submit", (200, {"reward": 0.0}))
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.fail("the card is on fire")

    assert receipt.settlement is Settlement.FAILED
    assert receipt.reward == 0.0
    assert horde.of("submit")[0].body["state"] == "faulted"
    assert "fire" not in str(horde.of("submit")[0].body)


async def test_a_duplicate_after_a_lost_answer_is_a_success(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop()))
    horde.answer("submit", (0, None), (400, {"message": "already submitted", "rc": "DuplicateGen"}))
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([an_image()])

        assert receipt.settlement is Settlement.PAID
        assert "already recorded" in receipt.detail
        assert len(horde.of("submit")) == 2
        assert worker.transport.stats().drops_this_hour == 0


@pytest.mark.parametrize(
    ("status", "rc", "drops"), [(400, "AbortedGen", 1), (404, "InvalidJobID", 0), (403, "WrongCredentials", 0)]
)
async def test_a_result_that_is_not_taken_is_refused_and_not_repeated(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage, status: int, rc: str, drops: int
) -> None:
    horde.answer("pop", (200, a_pop()))
    horde.answer("submit", (status, {"message": "no", "rc": rc}))
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([an_image()])

        assert receipt.settlement is Settlement.REFUSED
        assert len(horde.of("submit")) == 1
        assert worker.transport.stats().drops_this_hour == drops
        assert worker.transport.stats().submitted == 0


async def test_a_fault_reported_twice_is_one_drop(horde: Any, running: Run, a_pop: APop) -> None:
    horde.answer("pop", (200, a_pop()))
    horde.answer("submit", (0, None), (400, {"message": "aborted", "rc": "AbortedGen"}))
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([None])

        assert receipt.settlement is Settlement.FAILED
        assert worker.transport.stats().drops_this_hour == 1


@pytest.mark.parametrize(
    "trouble",
    [(500, {"message": "Internal Server Error"}), (502, b"<html>"), (0, None), (200, b"not a reward")],
)
async def test_a_submit_that_fails_for_the_servers_reasons_is_tried_again(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage, trouble: tuple[int, Any]
) -> None:
    horde.answer("pop", (200, a_pop()))
    horde.answer("submit", trouble, trouble)
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([an_image()])

    assert receipt.settlement is Settlement.PAID
    assert len(horde.of("submit")) == 3


async def test_a_submit_is_tried_three_times_even_when_the_job_is_out_of_time_and_then_no_more(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage, lines: list[str]
) -> None:
    horde.answer("pop", (200, a_pop(ttl=0.1)))
    horde.answer("submit", *[(500, {"message": "Internal Server Error"})] * 50)
    async with running(first_retry_wait=0.2) as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([an_image()])

    assert receipt.settlement is Settlement.UNACKNOWLEDGED
    assert len(horde.of("submit")) == 3
    assert any("was not handed in" in line for line in lines)


async def test_a_result_accepted_for_nothing_is_unpaid(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop()))
    horde.answer("submit", (200, {"reward": 0.0}))
    async with running() as worker:
        offer = await worker.next_offer()
        receipt = await offer.delivery.deliver([an_image()])

    assert receipt.settlement is Settlement.UNPAID


async def test_a_job_with_a_feature_not_served_is_handed_back_at_once_and_named(
    horde: Any, running: Run, a_pop: APop, lines: list[str]
) -> None:
    horde.answer("pop", (200, a_pop(ids=("a", "b"), payload={"loras": [{"name": "1"}]})))
    async with running() as worker:
        submits = await horde.until("submit", 2)
        await horde.until("pop", 2)

        assert {call.body["state"] for call in submits} == {"faulted"}
        assert worker.transport.stats().drops_this_hour == 2
        assert worker.transport.state().notes == ["2 images dropped within the hour"]
        assert worker.offers.statistics().current_buffer_used == 0
    assert any("loras" in line for line in lines)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({"width": "wide"}, "$.payload.width"),
        ({"prompt": "half a pair: \ud83d"}, "job a cannot be read"),
        ({"seed": 1e400}, "job a"),
    ],
)
async def test_a_job_that_cannot_be_read_is_handed_back_for_every_id_and_counted_once(
    horde: Any, running: Run, gate: Any, a_pop: APop, lines: list[str], payload: dict[str, Any], named: str
) -> None:
    horde.answer("pop", (200, a_pop(ids=("a", "b"), payload=payload)))
    async with running():
        submits = await horde.until("submit", 2)

    assert {call.body["id"] for call in submits} == {"a", "b"}
    assert {call.body["state"] for call in submits} == {"faulted"}
    assert any(named in line for line in lines)
    assert [(end.id, end.receipt.settlement) for end in gate.ends] == [("a", Settlement.FAILED)]


@pytest.mark.parametrize(
    "bad",
    [
        {"model": None},
        {"payload": {"width": 10**9}},
        {"payload": {"height": -64}},
        {"payload": {"ddim_steps": 0}},
        {"payload": {"cfg_scale": -3.0}},
        {"payload": {"sampler_name": "magic"}},
        {"payload": {"prompt": ["no", "text"]}},
    ],
    ids=str,
)
async def test_after_a_job_that_cannot_be_run_the_next_one_is(
    horde: Any, running: Run, a_pop: APop, lines: list[str], bad: dict[str, Any]
) -> None:
    horde.answer("pop", (200, a_pop(ids=("bad",), **bad)), (200, a_pop(ids=("good",))))
    async with running(fault_hold=0.01) as worker:
        offer = await worker.next_offer()
        await offer.delivery.fail("no")

    assert offer.job.id == "good"
    assert (horde.of("submit")[0].body["id"], horde.of("submit")[0].body["state"]) == ("bad", "faulted")
    assert any("handed back" in line for line in lines)


async def test_a_job_that_the_gate_refuses_is_handed_back_with_the_reason_in_the_log(
    horde: Any, running: Run, gate: Any, a_pop: APop, lines: list[str]
) -> None:
    gate.refuses = lambda job: "it would be 12 s late"
    horde.answer("pop", (200, a_pop()))
    async with running():
        (submit,) = await horde.until("submit")

    assert submit.body["state"] == "faulted"
    assert any("it would be 12 s late" in line for line in lines)


async def test_after_a_fault_no_pop_leaves_for_a_while(
    horde: Any, running: Run, a_pop: APop, standing_clock: Any
) -> None:
    """The same worker would be given the same image again at once, and the second fault is final."""
    horde.answer("pop", (200, a_pop(payload={"tiling": True})))
    async with running(fault_hold=60.0, open_pops=1, clock=standing_clock):
        await horde.until("submit")

        assert await standing_clock.sleeper() == 60
        assert standing_clock.advance(59) == 0
        assert len(horde.of("pop")) == 1

        assert standing_clock.advance(1) == 1
        await horde.until("pop", 2)


async def test_a_source_image_is_fetched_from_its_address(horde: Any, running: Run, a_pop: APop) -> None:
    horde.answer("source", (200, a_picture()))
    url = f"http://127.0.0.1:{horde.port}/source/1.webp?X-Amz-Signature=1"
    horde.answer("pop", (200, a_pop(source_image=url, payload={"denoising_strength": 0.6})))
    async with running() as worker:
        offer = await worker.next_offer()

        assert (offer.job.source, offer.job.strength) == (a_picture(), 0.6)
        assert KEY not in str(horde.of("source")[0].headers)
        await offer.delivery.fail("no")


async def test_a_source_image_may_come_as_base64(horde: Any, running: Run, a_pop: APop) -> None:
    text = base64.b64encode(a_picture()).decode()
    horde.answer("pop", (200, a_pop(source_image=text, payload={"denoising_strength": 0.6})))
    async with running() as worker:
        offer = await worker.next_offer()

        assert (offer.job.source, offer.job.strength) == (a_picture(), 0.6)
        await offer.delivery.fail("no")


@pytest.mark.parametrize(("source", "value"), [("address", "download_failed"), ("bm90IGFuIGltYWdl", "parse_failed")])
async def test_a_source_image_that_cannot_be_used_makes_a_plain_picture_and_is_reported(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage, lines: list[str], source: str, value: str
) -> None:
    horde.answer("source", *[(404, {})] * 9)
    if source == "address":
        source = f"http://127.0.0.1:{horde.port}/source/1.webp?X-Amz-Signature=secret"
    horde.answer("pop", (200, a_pop(source_image=source, payload={"denoising_strength": 0.6})))
    async with running() as worker:
        offer = await worker.next_offer()
        assert (offer.job.source, offer.job.strength) == (None, 1.0)
        await offer.delivery.deliver([an_image()])

    assert horde.of("submit")[0].body["gen_metadata"] == [{"type": "source_image", "value": value}]
    assert any("source image" in line for line in lines)
    assert not any("secret" in line for line in lines)


async def test_a_job_that_demands_censoring_is_handed_back_and_never_served_unlooked_at(
    horde: Any, running: Run, a_pop: APop, lines: list[str]
) -> None:
    horde.answer("pop", (200, a_pop(payload={"use_nsfw_censor": True})))
    async with running():
        (submit,) = await horde.until("submit")

    assert submit.body["state"] == "faulted"
    assert any("censoring" in line for line in lines)


async def test_a_job_that_is_run_with_another_sampler_says_so_with_its_result(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop(payload={"sampler_name": "k_dpm_adaptive"})))
    async with running() as worker:
        await (await worker.next_offer()).delivery.deliver([an_image()])

    (told,) = horde.of("submit")[0].body["gen_metadata"]
    assert (told["type"], told["value"]) == ("information", "see_ref")
    assert "dpm_adaptive is run as dpmpp_2m" in told["ref"]


# Popping


async def test_no_pop_leaves_while_there_is_no_room(horde: Any, running: Run, gate: Any) -> None:
    gate.images = 0
    async with running():
        await gate.until_asked("room")  # and it says that there is none
        assert horde.of("pop") == []

        gate.make_room(3)

        assert (await horde.until("pop"))[0].body["amount"] == 3


async def test_a_pop_asks_for_no_more_than_a_batch(horde: Any, running: Run, gate: Any) -> None:
    gate.images = 50
    async with running(max_batch=8):
        assert (await horde.until("pop"))[0].body["amount"] == 8


async def test_no_pop_leaves_without_a_model(horde: Any, running: Run, gate: Any) -> None:
    """The server refuses a pop without models for good."""
    served, gate.models = gate.models, {}
    async with running():
        await gate.until_asked("models", 3)
        assert horde.of("pop") == []

        gate.models = served

        assert (await horde.until("pop"))[0].body["models"] == ["stable_diffusion"]


async def test_without_work_one_pop_at_a_time_is_under_way(horde: Any, running: Run, gate: Any) -> None:
    gate.images = 50
    async with running(open_pops=4):
        await horde.until("pop", 10)

    assert horde.most_at_once == 1


async def test_with_work_several_pops_are_under_way_within_the_room_that_there_is(
    horde: Any, running: Run, gate: Any, a_pop: APop
) -> None:
    gate.images = 6
    horde.answer("pop", (200, a_pop()))
    async with running(open_pops=3) as worker:
        offer = await worker.next_offer()
        horde.held["pop"] = anyio.Event()
        pops = await horde.until("pop", 3)

        assert [pop.body["amount"] for pop in pops] == [4, 4, 2]
        horde.held.pop("pop").set()
        await horde.until("pop", 6)
        await offer.delivery.fail("no")
    assert all(pop.body["amount"] >= 1 for pop in horde.of("pop"))


async def test_a_pop_waits_for_room_that_another_one_holds_and_then_goes_on(
    horde: Any, running: Run, gate: Any, a_pop: APop
) -> None:
    gate.images = 1
    horde.answer("pop", (200, a_pop(ids=("a",))), (200, a_pop(ids=("b",))))
    async with running(open_pops=2) as worker:
        first = await worker.next_offer()
        horde.held["pop"] = anyio.Event()
        await horde.until("pop", 2)
        await anyio.wait_all_tasks_blocked()
        assert len(horde.of("pop")) == 2

        gate.images = 8
        under_way, horde.held["pop"] = horde.held["pop"], anyio.Event()
        under_way.set()

        assert [pop.body["amount"] for pop in await horde.until("pop", 4)] == [1, 1, 4, 4]
        horde.held.pop("pop").set()
        for offer in (first, await worker.next_offer()):
            await offer.delivery.fail("no")


async def test_a_worker_pops_again_while_a_job_is_open(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop(ids=("a",))), (200, a_pop(ids=("b",))))
    async with running() as worker:
        offers = [await worker.next_offer(), await worker.next_offer()]

        assert {offer.job.id for offer in offers} == {"a", "b"}
        for offer in offers:
            await offer.delivery.deliver([an_image()])


async def test_in_maintenance_polls_go_on_and_the_owners_sentence_is_shown_once(
    horde: Any, running: Run, a_pop: APop, lines: list[str]
) -> None:
    horde.answer("pop", MAINTENANCE, MAINTENANCE, (200, a_pop()))
    horde.held["submit"] = anyio.Event()
    async with running() as worker:
        await horde.until("pop", 2)
        offer = await worker.next_offer()  # a job of its own account comes in maintenance, too

        assert worker.transport.stats().maintenance == ""
        horde.held.pop("submit").set()
        await offer.delivery.fail("no")
    assert len([line for line in lines if "Back on Monday" in line]) == 1


async def test_maintenance_is_in_the_statistics(horde: Any, running: Run) -> None:
    horde.answer("pop", *[MAINTENANCE] * 1000)
    async with running() as worker:
        await horde.until("pop", 2)
        assert worker.transport.stats().maintenance == "Back on Monday"


async def test_a_message_is_shown_once_however_often_it_comes(
    horde: Any, running: Run, no_job: dict[str, Any], lines: list[str]
) -> None:
    message = {"id": "m1", "message": "Please update your worker.", "origin": "moderator", "expiry": "never"}
    horde.answer("pop", *[(200, no_job | {"messages": [message]})] * 3)
    async with running():
        await horde.until("pop", 4)

    assert len([line for line in lines if "Please update your worker." in line]) == 1


async def test_requests_held_back_are_in_the_statistics(horde: Any, running: Run, no_job: dict[str, Any]) -> None:
    horde.answer("pop", *[(200, no_job | {"skipped": {"nsfw": 2, "models": 0}})] * 1000)
    async with running() as worker:
        await horde.until("pop", 2)
        assert worker.transport.stats().skipped == {"nsfw": 2}


@pytest.mark.parametrize("trouble", [(500, {"message": "Internal Server Error"}), (0, None), (200, b"<html>")])
async def test_a_pop_that_fails_for_the_servers_reasons_is_tried_again(
    horde: Any, running: Run, trouble: tuple[int, Any]
) -> None:
    horde.answer("pop", trouble, trouble)
    async with running():
        await horde.until("pop", 4)

    assert len(horde.of("pop")) >= 4


# Beginning and end


async def closed_by(transport: HordeTransport) -> str:
    """Why the transport ended by itself."""
    send, receive = anyio.create_memory_object_stream[Offer](8)
    async with send, receive:
        with anyio.fail_after(10), pytest.raises(TransportClosed) as caught:
            await transport.run(send)
    assert KEY not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "answer", "told"),
    [
        ("find_user", (401, {"message": "", "rc": "InvalidAPIKey"}), "API key is not valid"),
        ("find_user", (404, {"message": "", "rc": "UserNotFound"}), "API key is not valid"),
        ("find_user", (200, {"username": "x#1", "kudos": 0.0, "flagged": True}), "x#1 is flagged"),
        ("find_user", (410, {"status": "gone", "message": ""}), "use the grid transport"),
        ("pop", (410, {"status": "gone", "message": ""}), "use the grid transport"),
        ("pop", (403, {"message": "", "rc": "AnonForbiddenWorker"}), "anonymous key"),
        ("pop", (403, {"message": "", "rc": "WorkerFlaggedMaintenance"}), "flagged"),
        ("pop", (403, {"message": "", "rc": "WrongCredentials"}), "belongs to another account"),
        ("pop", (400, {"message": "", "errors": {"apikey": "Missing required parameter"}}), "API key"),
    ],
)
async def test_a_worker_that_is_not_wanted_ends_with_the_reason(
    horde: Any,
    a_settings: Callable[..., HordeSettings],
    gate: Any,
    endpoint: str,
    answer: tuple[int, Any],
    told: str,
) -> None:
    horde.answer(endpoint, answer)

    assert told in await closed_by(HordeTransport(a_settings(url=horde.url), gate))
    assert len(horde.of(endpoint)) <= 2


async def test_a_server_that_retires_while_a_job_is_open_ends_the_transport_after_its_receipt(
    horde: Any, a_settings: Callable[..., HordeSettings], gate: Any, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop()))
    horde.answer("submit", (410, {"status": "gone"}))
    transport = HordeTransport(a_settings(url=horde.url), gate)
    send, receive = anyio.create_memory_object_stream[Offer](8)
    settled = []

    async def work() -> None:
        offer = await receive.receive()
        settled.append(await offer.delivery.deliver([an_image()]))

    async with send, receive, anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        with anyio.fail_after(10), pytest.raises(TransportClosed, match="use the grid transport"):
            await transport.run(send)

    assert settled[0].settlement is Settlement.REFUSED


async def test_a_server_that_is_down_at_the_start_is_tried_until_it_answers(horde: Any, running: Run) -> None:
    horde.answer("find_user", (502, b"<html>"), (500, {"message": "Internal Server Error"}), (0, None))
    async with running():  # goes on although the server has not answered yet
        await horde.until("pop")

    assert len(horde.of("find_user")) == 4


async def test_a_stop_while_the_server_is_down_ends_at_once(horde: Any, running: Run) -> None:
    horde.answer("find_user", *[(0, None)] * 100)
    async with running(first_retry_wait=1000.0):
        await horde.until("find_user")

    assert not horde.of("pop")


async def test_a_stop_while_there_is_no_room_ends_at_once(running: Run, gate: Any) -> None:
    gate.images = 0
    async with running(open_pops=4) as worker:
        await anyio.wait_all_tasks_blocked()

    assert worker.transport.stats().popped == 0


async def test_redirects_are_not_followed_because_the_key_would_go_along(
    horde: Any, a_settings: Callable[..., HordeSettings], gate: Any
) -> None:
    horde.answer("find_user", (301, {}, {"Location": f"http://127.0.0.1:{horde.port}/elsewhere"}))

    assert "check the url" in await closed_by(HordeTransport(a_settings(url=horde.url), gate))
    assert len(horde.calls) == 1


async def test_maintenance_is_ended_at_the_start_when_the_operator_wants_it(horde: Any, running: Run) -> None:
    horde.answer("GET workers", (200, {"id": "w-1", "name": "worker 01", "maintenance_mode": True}))
    horde.answer("PUT workers", (200, {"maintenance": False}))
    async with running(remove_maintenance_on_init=True, worker_name="worker/01"):
        await horde.until("pop")

    (lookup,), (put,) = horde.of("GET workers"), horde.of("PUT workers")
    assert lookup.path == "/api/v2/workers/name/worker%2F01"
    assert (put.path, put.body) == ("/api/v2/workers/w-1", {"maintenance": False})


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"id": "w-1", "maintenance_mode": False}),
        (404, {"message": "not found", "rc": "WorkerNotFound"}),
        (200, b"<html>"),
    ],
)
async def test_a_worker_that_is_new_or_not_in_maintenance_is_left_alone(
    horde: Any, running: Run, answer: tuple[int, Any]
) -> None:
    horde.answer("GET workers", answer)
    async with running(remove_maintenance_on_init=True):
        await horde.until("pop")

    assert horde.of("PUT workers") == []


async def test_a_stopped_transport_waits_for_the_receipts_of_open_jobs_and_takes_no_more(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage
) -> None:
    horde.answer("pop", (200, a_pop()))
    async with running(open_pops=1) as worker:
        offer = await worker.next_offer()
        horde.held["pop"] = anyio.Event()
        await horde.until("pop", 2)
        horde.answer("pop", (200, a_pop(ids=("late",))))

        worker.transport.stop_taking()
        horde.held.pop("pop").set()
        late = await worker.next_offer()  # the pop was under way: the server counts its job as ours

        assert late.job.id == "late"
        assert (await late.delivery.deliver([an_image()])).settlement is Settlement.PAID
        assert (await offer.delivery.deliver([an_image()])).settlement is Settlement.PAID
    assert len(horde.of("pop")) == 2


async def test_a_job_whose_model_is_taken_off_while_it_is_popped_is_made(
    horde: Any, running: Run, gate: Any, a_pop: APop, an_image: AnImage
) -> None:
    horde.held["pop"] = anyio.Event()
    horde.answer("pop", (200, a_pop()))
    async with running(open_pops=1) as worker:
        await horde.until("pop")
        gate.models = {}
        horde.held.pop("pop").set()
        offer = await worker.next_offer()

        assert (await offer.delivery.deliver([an_image()])).settlement is Settlement.PAID


async def test_other_settings_hold_from_the_next_pop_on(
    horde: Any, running: Run, a_settings: Callable[..., HordeSettings]
) -> None:
    async with running(open_pops=1) as worker:
        await horde.until("pop")
        worker.transport.adopt(a_settings(url=horde.url, open_pops=1, nsfw=False))
        pops = await horde.until("pop", 3)

        assert [pop.body["nsfw"] for pop in (pops[0], pops[-1])] == [True, False]
        with pytest.raises(ConfigError, match="worker_name cannot change while the worker runs"):
            worker.transport.adopt(a_settings(url=horde.url, open_pops=1, worker_name="another"))


async def test_a_job_that_ran_out_of_time_is_withdrawn_and_counts_as_a_drop(
    horde: Any, running: Run, a_pop: APop, an_image: AnImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.0)
    horde.answer("pop", (200, a_pop(ttl=0.05)))
    async with running() as worker:
        offer = await worker.next_offer()
        with anyio.fail_after(10):
            await offer.delivery.withdrawn.wait()

        assert (await offer.delivery.deliver([an_image()])).settlement is Settlement.RETURNED
        assert horde.of("submit") == []
        assert worker.transport.stats().drops_this_hour == 1


async def test_a_job_that_nobody_takes_in_time_is_handed_back(
    horde: Any, a_settings: Callable[..., HordeSettings], gate: Any, a_pop: APop
) -> None:
    horde.answer("pop", (200, a_pop(ttl=0.05)))
    transport = HordeTransport(a_settings(url=horde.url), gate)
    send, receive = anyio.create_memory_object_stream[Offer](0)
    async with send, receive, anyio.create_task_group() as tasks:
        tasks.start_soon(transport.run, send)
        (submit,) = await horde.until("submit")
        transport.stop_taking()

    assert submit.body["state"] == "faulted"


async def test_when_the_worker_goes_down_a_popped_job_is_handed_back(
    horde: Any, a_settings: Callable[..., HordeSettings], gate: Any, a_pop: APop
) -> None:
    horde.answer("pop", (200, a_pop()))
    transport = HordeTransport(a_settings(url=horde.url), gate)
    send, receive = anyio.create_memory_object_stream[Offer](8)
    receive.close()
    async with send:
        with anyio.fail_after(10):
            await transport.run(send)

    assert horde.of("submit")[0].body["state"] == "faulted"


@pytest.mark.parametrize("server", ["ai-horde", "aipg-system-core"])
@pytest.mark.parametrize("number", ["101", "105", "107", "108", "117"])
async def test_recorded_jobs_make_the_whole_way(
    horde: Any,
    running: Run,
    gate: Any,
    a_model: Callable[..., Any],
    an_image: AnImage,
    recorded: Callable[[str, str], dict[str, Any]],
    server: str,
    number: str,
) -> None:
    body = recorded(server, number)["response"]["body"]
    name = body["model"].upper()
    gate.models, gate.images = {name: a_model(name, native=2048)}, 20
    horde.answer("pop", (200, body))
    async with running(max_batch=20) as worker:
        offer = await worker.next_offer()
        images = [an_image(index, seed.value) for index, seed in enumerate(offer.job.seeds)]
        receipt = await offer.delivery.deliver(images)

    assert receipt.settlement is Settlement.PAID
    assert offer.job.model == name
    assert [slot.url if slot else None for slot in offer.delivery.slots] == body["r2_uploads"]
    assert [call.body["id"] for call in horde.of("submit")] == body["ids"]
    assert {call.body["seed"] for call in horde.of("submit")} == {int(body["payload"]["seed"])}
