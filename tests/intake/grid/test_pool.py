"""The transport against the local grid, over real sockets: registration, settlement, closings, drain."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import ssl

import anyio
import pytest
import trustme

from trt_worker.delivery import Settlement
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.local_grid import Account, Fault, Faults, ImageRequest, shipped_recipes

pytestmark = pytest.mark.anyio

OWN = Account(key="grid_main", name="main")


async def test_four_images_go_out_with_seeds_of_their_own_and_are_paid(at_work) -> None:
    async with at_work() as work:
        handle = await work.grid.submit_grid(ImageRequest(n=4, seed=2**53 - 2, steps=8, ext="png"))
        result = await handle.result()
        await work.until(lambda: bool(work.receipts))

        assert (result.status, len(result.images)) == (200, 4)
        assert [image.seed for image in result.images] == [2**53 - 2, 2**53 - 1, 0, 1]
        assert all(image.is_intact and image.content_type == "image/png" for image in result.images)
        assert (work.receipts[0].settlement, work.receipts[0].reward) == (Settlement.PAID, result.den)
        stats = work.transports[0].stats()
        assert (stats.connected, stats.busy, stats.den) == (1, 0, result.den)
    assert work.grid.violations() == []


async def test_a_worker_registers_as_the_protocol_asks(at_work) -> None:
    async with at_work(connections=3, bridge_agent="lab:1") as work:
        await work.grid.connected(3)

        frames = work.grid.sockets.registrations
        assert {frame["name"] for frame in frames} == {"rig", "rig-2", "rig-3"}
        assert frames[0] | {"name": ""} == {
            "name": "",
            "models": ["shapes-tiny"],
            "job_types": ["image"],
            "bridge_agent": "lab:1",
        }


async def test_a_certificate_that_is_not_trusted_is_told_with_the_key_that_mends_it(at_work, lines) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "localhost", 0, ssl=context)
    async with server, at_work(start=False) as work:
        await work.start(url=f"wss://localhost:{server.sockets[0].getsockname()[1]}/v1/workers/ws")
        with anyio.fail_after(10):
            await lines.until("grid_ca_file")

    assert any("localhost shows a certificate that this machine does not trust" in line for line in lines)


async def test_a_source_image_reaches_the_job(at_work, a_picture) -> None:
    async with at_work() as work:
        source = a_picture("PNG", (96, 64))
        handle = await work.grid.submit_grid(
            ImageRequest(source_image=source, width=128, height=192, denoise=0.5, recipe="shapes-tiny (img2img)")
        )

        assert (await handle.result()).status == 200
        job = work.offers[0].job
        assert (job.source, job.strength, job.source_crop) == (source, 0.5, True)
        assert (job.width, job.height) == (128, 192)


async def test_a_source_image_that_cannot_be_had_fails_the_job_in_plain_words(at_work, a_picture) -> None:
    async with at_work(faults=Faults(source_error=Fault(count=None))) as work:
        handle = await work.grid.submit_grid(ImageRequest(source_image=a_picture("PNG")))
        result = await handle.result()

        assert (result.status, result.message) == (502, "The source image could not be used.")
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200


async def test_loras_fail_honestly_and_the_connection_works_on(at_work) -> None:
    async with at_work() as work:
        handle = await work.grid.submit_grid(ImageRequest(loras=[{"name": "1"}]))
        result = await handle.result()

        assert (result.status, result.message) == (502, UnservableJob.public)
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200
        assert work.transports[0].stats().reconnects == 0


async def test_a_job_without_a_recipe_is_served(at_work, gate, a_model, lines) -> None:
    gate.models = {"My Model/1": a_model("My Model/1")}
    async with at_work() as work:
        handle = await work.grid.submit_grid(ImageRequest(model="My Model/1", sampler="k_heun", scheduler="karras"))

        assert (await handle.result()).status == 200
        assert (work.offers[0].job.sampler, work.offers[0].job.scheduler) == ("heun", "karras")
        assert lines == []


async def test_a_probe_is_unpaid(at_work) -> None:
    async with at_work() as work:
        await (await work.grid.submit_grid(ImageRequest(probe=True))).result()
        await work.until(lambda: bool(work.receipts))

        assert work.receipts[0].settlement is Settlement.UNPAID


@pytest.mark.parametrize("then", ["ping", "job", "silence"])
async def test_a_result_without_an_answer_is_unacknowledged(at_work, then, lines) -> None:
    fields = {"ack_seconds": 0.05} if then == "silence" else {}
    server = {"ping_seconds": 0.05} if then == "ping" else {}
    async with at_work(faults=Faults(no_ack=Fault()), server=server, automatic=False, **fields) as work:
        await work.grid.submit_grid(ImageRequest())
        offer = await work.offer()
        if then == "job":
            await work.grid.submit_grid(ImageRequest())  # held until the first is done
        receipt = await work.finish(offer)

        assert receipt.settlement is Settlement.UNACKNOWLEDGED
        assert work.transports[0].stats().unacknowledged == 1
        assert any("not acknowledged" in line for line in lines)
        if then == "job":
            assert (await work.finish(await work.offer(2))).settlement is Settlement.PAID


async def test_a_late_and_a_double_acknowledgement_settle_once(at_work) -> None:
    async with at_work(faults=Faults(late_ack=Fault(seconds=0.05), duplicate_ack=Fault())) as work:
        for count in (1, 2):
            await work.grid.submit_grid(ImageRequest())
            await work.until(lambda count=count: len(work.receipts) == count)

        assert work.transports[0].stats().settlements == {Settlement.PAID: 2}
    assert work.grid.violations() == []


async def test_frames_that_mean_nothing_are_passed_over(at_work) -> None:
    async with at_work(faults=Faults(malformed_frame=Fault(), wrong_frame=Fault())) as work:
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200
        assert work.transports[0].stats().reconnects == 0


@pytest.mark.parametrize("faults", [Faults(drop_mid_job=Fault()), Faults(close_mid_job=Fault(code=1011))])
async def test_a_job_whose_connection_breaks_is_returned_and_its_result_never_sent(at_work, faults) -> None:
    async with at_work(faults=faults, automatic=False) as work:
        handle = await work.grid.submit_grid(ImageRequest())
        lost = await work.offer()
        await lost.delivery.withdrawn.wait()
        again = await work.offer(2)

        assert again.job.id == lost.job.id
        assert (await work.finish(lost)).settlement is Settlement.RETURNED
        assert not handle.has_ended
        assert (await work.finish(again)).settlement is Settlement.PAID
        assert (await handle.result()).status == 200
        assert work.transports[0].stats().reconnects == 1
    assert work.grid.violations() == []


async def test_a_connection_that_breaks_after_the_result_leaves_it_unacknowledged(at_work) -> None:
    async with at_work(faults=Faults(drop_after_done=Fault())) as work:
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200
        await work.until(lambda: len(work.receipts) == 2)

        assert [receipt.settlement for receipt in work.receipts] == [Settlement.UNACKNOWLEDGED, Settlement.PAID]
        assert not work.offers[0].delivery.withdrawn.is_set()


async def test_an_incomplete_result_is_given_up_in_plain_words(at_work) -> None:
    async with at_work(automatic=False) as work:
        handle = await work.grid.submit_grid(ImageRequest(n=2))
        offer = await work.offer()
        receipt = await offer.delivery.deliver([None, None])

        assert receipt.settlement is Settlement.FAILED
        assert (await handle.result()).message == BadJob.public


async def test_progress_is_told_at_most_every_few_seconds(at_work) -> None:
    async with at_work(automatic=False) as work:
        handle = await work.grid.submit_grid(ImageRequest())
        offer = await work.offer()
        for fraction in (0.25, 0.5, math.pi):
            await offer.delivery.progress(fraction)
        await work.finish(offer)
        await handle.result()
        await offer.delivery.progress(1.0)

        assert handle.progress == [25]


async def test_nothing_is_told_about_a_job_that_is_over(at_work) -> None:
    async with at_work(automatic=False, progress_seconds=0.0) as work:
        await work.grid.submit_grid(ImageRequest())
        over = await work.offer()
        await work.finish(over)
        following = await work.grid.submit_grid(ImageRequest())
        current = await work.offer(2)

        await over.delivery.progress(0.75)  # the server would book it on the current job
        assert (await over.delivery.fail("too late")).settlement is Settlement.PAID
        await work.finish(current)

        assert ((await following.result()).status, following.progress) == (200, [])


async def test_an_idle_connection_answers_pings(at_work) -> None:
    async with at_work(server={"ping_seconds": 0.01}) as work:
        await work.grid.connected()
        with anyio.fail_after(5):
            await work.grid.sockets.ponged(2)


# Closings


@pytest.mark.parametrize(
    ("key", "said"),
    [("grid_wrong", "Invalid API key"), ("grid_reader", "lacks worker.connect"), ("grid_bound", "another rig")],
)
async def test_a_key_that_may_not_work_closes_the_transport(at_work, key, said) -> None:
    accounts = (
        OWN,
        Account(key="grid_reader", name="reader", scopes=frozenset()),
        Account(key="grid_bound", name="bound", bound_to="that-rig"),
    )
    async with at_work(server={"accounts": accounts}, api_key=key, connections=2) as work:
        await work.until(lambda: bool(work.closed))

        assert said in str(work.closed[0])
        assert key not in str(work.closed[0])
        assert set(work.transports[0].stats().ended) == {"rig", "rig-2"}


async def test_a_key_for_one_name_keeps_that_connection(at_work) -> None:
    accounts = (OWN, Account(key="grid_bound", name="bound", bound_to="rig"))
    async with at_work(server={"accounts": accounts}, api_key="grid_bound", connections=2) as work:
        await work.grid.connected()

        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200
        assert not work.closed


async def test_a_name_of_another_account_closes_the_transport(at_work) -> None:
    async with at_work(server={"accounts": (OWN, Account(key="grid_other", name="other"))}) as work:
        await work.grid.connected()
        await work.start(api_key="grid_other")
        await work.until(lambda: bool(work.closed))

        assert "another account" in str(work.closed[0])


async def test_an_evicted_worker_waits_and_comes_back(at_work, lines) -> None:
    async with at_work(faults=Faults(refuse_register=Fault(count=3))) as work:
        await work.grid.connected()

        assert sum("evicted" in line for line in lines) == 3


async def test_a_retired_model_is_dropped_and_the_others_are_offered(at_work, gate, a_model) -> None:
    gate.models["flux.1-krea-dev"] = a_model("flux.1-krea-dev")
    async with at_work() as work:
        await work.grid.connected()

        assert work.grid.sockets.registrations[-1]["models"] == ["shapes-tiny"]
        assert "retired" in work.transports[0].stats().withdrawn["flux.1-krea-dev"]


async def test_a_server_that_dies_before_ready_is_tried_again(at_work) -> None:
    async with at_work(faults=Faults(drop_before_ready=Fault(count=3))) as work:
        await work.grid.connected()

        assert work.transports[0].stats().reconnects == 0


async def test_a_name_taken_by_a_newer_connection_is_left_to_it(at_work, gate, lines) -> None:
    async with at_work() as work:
        await work.grid.connected()
        await work.start()
        await work.until(lambda: bool(work.closed))

        assert "in use by another connection" in str(work.closed[0])
        assert sum("in use by another connection" in line and "looking" in line for line in lines) == 1
        assert [frame["name"] for frame in work.grid.sockets.registrations] == ["rig", "rig"]


async def test_a_server_that_restarts_does_not_cost_the_name(at_work) -> None:
    async with at_work(server={"ping_seconds": 0.02}, faults=Faults(close_idle=Fault())) as work:
        await work.grid.connected()
        await work.grid.connected(0)
        await work.grid.connected()

        assert not work.closed
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200


# Recipes and the gate


def unreadable(recipe, **fields):
    spec = {**recipe.spec, "77": {"class_type": "FaceSwap", "inputs": {}}}
    return dataclasses.replace(recipe, spec=spec, root="0x" + "7" * 64, **fields)


async def test_a_model_whose_recipe_cannot_be_read_is_not_offered_until_it_can(at_work, gate, a_model) -> None:
    gate.models["other"] = a_model("other")
    recipes = [*shipped_recipes()]
    recipes[0] = unreadable(recipes[0])
    async with at_work(recipes=recipes, recipe_check_seconds=0.05) as work:
        await work.grid.connected()
        assert work.grid.sockets.registrations[0]["models"] == ["other"]
        assert "FaceSwap" in work.transports[0].stats().withdrawn["shapes-tiny"]

        work.grid.recipes[0] = shipped_recipes()[0]
        handle = await work.grid.submit_grid(ImageRequest())

        assert (await handle.result()).status == 200
        assert work.grid.sockets.registrations[-1]["models"] == ["other", "shapes-tiny"]
        assert work.transports[0].stats().withdrawn == {}


async def test_a_job_with_a_new_recipe_goes_back_and_its_model_is_withdrawn(at_work, gate, a_model) -> None:
    gate.models["other"] = a_model("other")
    async with at_work() as work:
        await work.grid.connected()
        work.grid.recipes[:] = [unreadable(recipe) for recipe in work.grid.recipes]

        handle = await work.grid.submit_grid(ImageRequest())
        await handle.dispatched()
        await work.grid.connected(0)
        await work.grid.connected()

        assert work.grid.sockets.registrations[-1]["models"] == ["other"]
        assert "'77'" in work.transports[0].stats().withdrawn["shapes-tiny"]
        assert (work.grid.ledger[handle.id].requeued, handle.has_ended) == (1, False)


async def test_without_any_model_nothing_is_offered_until_there_is_one(at_work, gate, a_model) -> None:
    gate.models = {}
    async with at_work(recipe_check_seconds=0.02) as work:
        gate.models = {"shapes-tiny": a_model()}
        await work.grid.connected()

        assert work.grid.sockets.registrations[0]["models"] == ["shapes-tiny"]


async def test_a_job_the_gate_refuses_goes_to_somebody_else(at_work, gate) -> None:
    refused: list[str] = []

    def once(job):
        refused.append(job.id)
        return "it would be late" if len(refused) == 1 else None

    gate.refuses = once
    async with at_work() as work:
        handle = await work.grid.submit_grid(ImageRequest())
        result = await handle.result()

        assert (result.status, result.requeues) == (200, 1)
        assert refused == [handle.id, handle.id]
        assert work.transports[0].stats().settlements[Settlement.RETURNED] == 1
    assert work.grid.violations() == []


# Stopping


async def test_a_job_given_back_goes_to_somebody_else_and_is_failed_when_it_comes_back(at_work) -> None:
    async with at_work(automatic=False) as work:
        handle = await work.grid.submit_grid(ImageRequest())
        first = await work.offer()
        receipt = await first.delivery.give_back("no backend is left")

        again = await work.offer(2)
        assert (receipt.settlement, handle.has_ended) == (Settlement.RETURNED, False)
        assert again.job.id == first.job.id

        receipt = await again.delivery.give_back("no backend is left")
        result = await handle.result()
        assert (receipt.settlement, result.status, result.message) == (Settlement.FAILED, 502, BadJob.public)
        assert work.transports[0].stats().settlements == {Settlement.RETURNED: 1, Settlement.FAILED: 1}


async def test_stopping_closes_idle_connections_and_lets_a_busy_one_finish(at_work) -> None:
    async with at_work(connections=3, automatic=False) as work:
        await work.grid.connected(3)
        handle = await work.grid.submit_grid(ImageRequest())
        offer = await work.offer()

        work.stop()
        with anyio.fail_after(5):
            await work.grid.sockets.left(1)
        assert not handle.has_ended
        assert (await work.finish(offer)).settlement is Settlement.PAID
        await work.grid.connected(0)
    assert work.grid.violations() == []
    assert not work.closed


async def test_a_job_that_follows_while_stopping_goes_back(at_work) -> None:
    async with at_work(automatic=False) as work:
        first = await work.grid.submit_grid(ImageRequest())
        offer = await work.offer()
        second = await work.grid.submit_grid(ImageRequest())
        work.stop()
        await work.finish(offer)
        await work.grid.connected(0)

        assert (first.has_ended, second.has_ended, len(work.offers)) == (True, False, 1)


async def test_stopping_ends_a_wait_for_a_server_that_is_not_there(at_work) -> None:
    async with at_work(start=False) as work:
        transport = await work.start(url="ws://127.0.0.1:9", http_url="http://127.0.0.1:9", first_retry_wait=60.0)
        transport.stop_taking()

    assert transport.stats().connected == 0


async def test_a_job_whose_id_fits_into_no_frame_goes_back_and_the_others_are_made(at_work) -> None:
    async with at_work(connections=2) as work:
        payload = {"prompt": "a red circle", "n": 1, "width": 64, "height": 64, "steps": 2, "seed": 1, "ext": "webp"}
        long = work.grid.coordinator.submit(model="shapes-tiny", payload=payload, probe=False, job_id="f" * 1_100_000)
        await long.dispatched()

        result = await (await work.grid.submit_grid(ImageRequest(width=64, height=64))).result()

        assert result.status == 200
        assert not long.has_ended or (await long.result()).status == 503
