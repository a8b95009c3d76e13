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
from trt_worker.errors import BadJob, ConfigError, UnservableJob
from trt_worker.job import SourceFit
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
        stats = work.transports[0].state()
        assert (stats.connections, stats.connected, stats.busy) == (1, 1, 0)
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
        assert (job.source, job.strength, job.source_fit) == (source, 0.5, SourceFit.COVER)
        assert (job.width, job.height) == (128, 192)


async def test_a_source_image_that_cannot_be_had_fails_the_job_in_plain_words(at_work, a_picture) -> None:
    async with at_work(faults=Faults(source_error=Fault(count=None))) as work:
        handle = await work.grid.submit_grid(ImageRequest(source_image=a_picture("PNG")))
        result = await handle.result()

        assert (result.status, result.message) == (502, "The source image could not be used.")
        assert [(end.receipt.settlement, end.transport) for end in work.gate.ends] == [(Settlement.FAILED, "grid")]
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200


async def test_a_job_whose_connection_breaks_while_its_source_is_fetched_is_counted_once(at_work, a_picture) -> None:
    async with at_work(faults=Faults(drop_mid_job=Fault(), source_slow=Fault(seconds=0.3))) as work:
        handle = await work.grid.submit_grid(ImageRequest(source_image=a_picture("PNG")))

        assert (await handle.result()).status == 200
        assert [(end.id, end.receipt.settlement) for end in work.gate.ends] == [(handle.id, Settlement.RETURNED)]


async def test_loras_fail_honestly_and_the_connection_works_on(at_work) -> None:
    async with at_work() as work:
        handle = await work.grid.submit_grid(ImageRequest(loras=[{"name": "1"}]))
        result = await handle.result()

        assert (result.status, result.message) == (502, UnservableJob.public)
        assert [end.receipt.settlement for end in work.gate.ends] == [Settlement.FAILED]
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200
        assert work.transports[0].state().reconnects == 0


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
        assert any("not acknowledged" in line for line in lines)
        if then == "job":
            assert (await work.finish(await work.offer(2))).settlement is Settlement.PAID


async def test_a_late_and_a_double_acknowledgement_settle_once(at_work) -> None:
    async with at_work(faults=Faults(late_ack=Fault(seconds=0.05), duplicate_ack=Fault())) as work:
        for count in (1, 2):
            await work.grid.submit_grid(ImageRequest())
            await work.until(lambda count=count: len(work.receipts) == count)

        assert [receipt.settlement for receipt in work.receipts] == [Settlement.PAID] * 2
    assert work.grid.violations() == []


async def test_frames_that_mean_nothing_are_passed_over(at_work) -> None:
    async with at_work(faults=Faults(malformed_frame=Fault(), wrong_frame=Fault())) as work:
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200
        assert work.transports[0].state().reconnects == 0


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
        assert work.transports[0].state().reconnects == 1
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
        assert set(work.transports[0].state().lost) == {"rig", "rig-2"}


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
        assert "retired" in work.transports[0].state().withdrawn["flux.1-krea-dev"]


async def test_a_server_that_dies_before_ready_is_tried_again(at_work) -> None:
    async with at_work(faults=Faults(drop_before_ready=Fault(count=3))) as work:
        await work.grid.connected()

        assert work.transports[0].state().reconnects == 0


async def test_a_name_taken_by_a_newer_connection_is_left_to_it(at_work, gate, lines) -> None:
    async with at_work() as work:
        await work.grid.connected()
        await work.start()
        await work.until(lambda: bool(work.closed))

        assert "in use by another connection" in str(work.closed[0])
        assert sum("in use by another connection" in line and "looking" in line for line in lines) == 1
        assert [frame["name"] for frame in work.grid.sockets.registrations] == ["rig", "rig"]


async def test_a_name_that_is_free_again_is_taken_back_at_once_and_not_after_the_long_wait(at_work) -> None:
    faults = Faults(close_idle=Fault())
    async with at_work(server={"ping_seconds": 0.02}, faults=faults, takeover_wait=3600.0) as work:
        await work.grid.connected()
        await work.grid.connected(0)
        await work.grid.connected()

        assert not work.closed
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200


async def test_a_grid_that_restarts_gets_its_connections_back_by_looks_that_they_share(at_work) -> None:
    async with at_work(connections=8, look_seconds=0.1, takeover_wait=3600.0) as work:
        await work.grid.connected(8)
        await work.grid.restart()
        await work.grid.sockets.registered(16)

        assert not work.closed
        assert 1 <= work.transports[0].looks < 8


async def test_a_name_whose_presence_a_dead_grid_left_behind_is_taken_back_when_that_ends(at_work) -> None:
    async with at_work(server={"presence_seconds": 0.5}, takeover_wait=3600.0) as work:
        await work.grid.connected()
        await work.grid.restart(tidy=False)
        assert work.grid.sockets.presence.online()
        await work.grid.connected()

        assert not work.closed


async def test_a_list_of_workers_that_cannot_be_read_is_looked_at_until_it_can(at_work, lines) -> None:
    async with at_work(takeover_wait=0.01) as work:
        await work.grid.connected()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work.grid.restart, 0.3)
            await lines.until("the list of workers cannot be read")
        await work.grid.connected()

        assert not work.closed
        assert sum("cannot be read" in line for line in lines) == 1


# Renewals


async def test_other_models_are_registered_when_a_connection_is_pinged_and_a_quarter_at_a_time(
    at_work, gate, a_model
) -> None:
    fewest = 8
    async with at_work(server={"ping_seconds": 0.05, "loses_held": True}, connections=8) as work:
        await work.grid.connected(8)
        gate.serve(a_model(), a_model("other"))
        while len(work.grid.sockets.registrations) < 16:
            await work.grid.sockets.changed()
            fewest = min(fewest, len(work.grid.sockets.connections))

        assert fewest >= 6
        assert all(frame["models"] == ["other", "shapes-tiny"] for frame in work.grid.sockets.registrations[8:])
    assert work.grid.coordinator.lost == []


async def test_a_connection_leaves_in_place_of_answering_a_ping(at_work, gate, a_model) -> None:
    async with at_work(server={"ping_seconds": 0.1}) as work:
        await work.grid.connected()
        gate.serve(a_model("other"))
        await work.grid.sockets.registered(2)

        assert work.grid.sockets.pings == work.grid.sockets.pongs + 1


async def test_a_connection_without_a_ping_is_not_renewed(at_work, gate, a_model) -> None:
    async with at_work() as work:
        await work.grid.connected()
        gate.serve(a_model("other"))
        results = [await (await work.grid.submit_grid(ImageRequest())).result() for _ in range(3)]

        assert [(result.status, result.requeues) for result in results] == [(200, 0)] * 3
        assert len(work.grid.sockets.registrations) == 1


async def test_a_connection_that_is_never_idle_long_enough_is_renewed_when_no_job_follows_an_acknowledgement(
    at_work, gate, a_model
) -> None:
    async with at_work(server={"dispatch_gap_seconds": 0.02}, ping_patience=0.0, gap_seconds=0.2) as work:
        await work.grid.connected()
        gate.serve(a_model(), a_model("other"))
        handles = [await work.grid.submit_grid(ImageRequest()) for _ in range(3)]  # two are held behind the first
        results = [await handle.result() for handle in handles]
        assert len(work.grid.sockets.registrations) == 1
        await work.grid.sockets.registered(2)

        assert [(result.status, result.requeues) for result in results] == [(200, 0)] * 3


async def test_other_settings_reach_connections_without_closing_them(at_work, a_picture) -> None:
    async with at_work() as work:
        await work.grid.connected()
        (transport,) = work.transports
        transport.adopt(dataclasses.replace(work.settings[0], allow_img2img=False))
        handle = await work.grid.submit_grid(ImageRequest(source_image=a_picture("PNG")))

        assert (await handle.result()).message == UnservableJob.public
        assert transport.state().reconnects == 0
        with pytest.raises(ConfigError, match="name cannot change while the worker runs"):
            transport.adopt(dataclasses.replace(work.settings[0], name="another"))


# Recipes and the gate


def unreadable(recipe, root="0x" + "7" * 64):
    save = {"class_type": "SaveImage", "inputs": {"images": ["77", 0]}}
    spec = {**recipe.spec, "9": save, "77": {"class_type": "FaceSwap", "inputs": {}}}
    return dataclasses.replace(recipe, spec=spec, root=root)


async def test_a_model_is_offered_while_one_of_its_recipes_can_be_served(at_work, lines) -> None:
    text, *rest = shipped_recipes()
    async with at_work(recipes=[unreadable(text), *rest]) as work:
        await work.grid.connected()

        assert work.grid.sockets.registrations[0]["models"] == ["shapes-tiny"]
        state = work.transports[0].state()
        assert (state.withdrawn, list(state.unserved)) == ({}, ["shapes-tiny, 'shapes-tiny' (0x77777777)"])
        assert [line for line in lines if "FaceSwap" in line and "1 recipe(s) are not served" in line] == lines
        assert (await (await work.grid.submit_grid(ImageRequest(recipe=rest[0].name))).result()).status == 200


async def test_a_job_of_a_recipe_that_is_not_served_goes_back_once_and_is_failed_when_it_comes_back(
    at_work, gate
) -> None:
    text, *rest = shipped_recipes()
    async with at_work(recipes=[unreadable(text), *rest]) as work:
        result = await (await work.grid.submit_grid(ImageRequest(recipe=text.name))).result()

        assert (result.status, result.requeues, result.message) == (502, 1, BadJob.public)
        assert [end.receipt.settlement for end in gate.ends] == [Settlement.RETURNED, Settlement.FAILED]
        assert {(end.id, end.model) for end in gate.ends} == {(result.job_id, "shapes-tiny")}
        assert (await (await work.grid.submit_grid(ImageRequest(recipe=rest[0].name))).result()).status == 200
        assert work.transports[0].state().withdrawn == {}


async def test_a_model_none_of_whose_recipes_can_be_read_is_not_offered_until_one_can(at_work, gate, a_model) -> None:
    gate.models["other"] = a_model("other")
    recipes = [unreadable(recipe, f"0x{number:064}") for number, recipe in enumerate(shipped_recipes())]
    server = {"ping_seconds": 0.05}
    async with at_work(recipes=recipes, server=server, recipe_check_seconds=0.05) as work:
        await work.grid.connected()
        assert work.grid.sockets.registrations[0]["models"] == ["other"]
        withdrawn = work.transports[0].state().withdrawn["shapes-tiny"]
        assert "none of its 4 recipe(s)" in withdrawn
        assert "FaceSwap" in withdrawn

        work.grid.recipes[0] = shipped_recipes()[0]
        handle = await work.grid.submit_grid(ImageRequest())

        assert (await handle.result()).status == 200
        assert work.grid.sockets.registrations[-1]["models"] == ["other", "shapes-tiny"]
        assert work.transports[0].state().withdrawn == {}


async def test_jobs_with_new_recipes_that_cannot_be_read_go_back_and_the_list_is_read_again(
    at_work, gate, a_model
) -> None:
    gate.models["other"] = a_model("other")
    async with at_work() as work:
        await work.grid.connected()
        work.grid.recipes[:] = [unreadable(recipe) for recipe in work.grid.recipes]

        handle = await work.grid.submit_grid(ImageRequest())
        with anyio.fail_after(10):
            while work.grid.sockets.registrations[-1]["models"] != ["other"]:
                await work.grid.connected(0)
                await work.grid.connected()

        assert "'77'" in work.transports[0].state().withdrawn["shapes-tiny"]
        assert work.grid.ledger[handle.id].requeued >= 1


async def test_a_new_recipe_that_cannot_be_read_costs_no_other(at_work, gate) -> None:
    text, *rest = shipped_recipes()
    async with at_work() as work:
        await work.grid.connected()
        work.grid.recipes[:] = [unreadable(text), *rest]

        result = await (await work.grid.submit_grid(ImageRequest(recipe=text.name))).result()

        assert (result.status, result.requeues) == (502, 1)
        assert (await (await work.grid.submit_grid(ImageRequest(recipe=rest[0].name))).result()).status == 200


async def test_a_model_whose_recipes_cannot_be_had_is_offered_only_once_they_were_read(at_work, lines) -> None:
    text, *rest = shipped_recipes()
    faults = Faults(recipe_error=Fault(count=3))
    async with at_work(recipes=[unreadable(text)], faults=faults) as work:
        with anyio.fail_after(10):
            await lines.until("none of its 1 recipe(s)")
        assert sum("not offered until they are" in line for line in lines) == 3
        assert work.grid.sockets.registrations == []

        work.grid.recipes[:] = rest
        await work.start()  # another worker, for which everything is well at once
        await work.grid.connected()


async def test_recipes_of_gigabytes_are_not_read(at_work, lines) -> None:
    text, *rest = shipped_recipes()
    giant = dataclasses.replace(
        text, spec={**text.spec, "note": {"class_type": "Note", "inputs": {"text": "a" * 5 * 2**20}}}
    )
    async with at_work(recipes=[giant, *rest]):
        with anyio.fail_after(10):
            await lines.until("answered more than 4194304 bytes); not offered until they are")


async def test_a_model_that_the_gate_serves_only_now_is_checked_before_it_is_offered(at_work, gate, a_model) -> None:
    text, *rest = shipped_recipes()
    bad = dataclasses.replace(unreadable(text), model="bad")
    async with at_work(recipes=[text, *rest, bad], server={"ping_seconds": 0.05}) as work:
        await work.grid.connected()
        gate.serve(*gate.models.values(), a_model("good"), a_model("bad"))
        with anyio.fail_after(10):
            while work.grid.sockets.registrations[-1]["models"] != ["good", "shapes-tiny"]:
                await work.grid.connected(0)
                await work.grid.connected()

        assert all("bad" not in frame["models"] for frame in work.grid.sockets.registrations)


@pytest.mark.parametrize("prompt", ["half a pair: \ud83d", "\udc00"])
async def test_a_job_whose_text_is_no_unicode_goes_back_and_is_failed_when_it_comes_back(at_work, gate, prompt) -> None:
    async with at_work() as work:
        result = await (await work.grid.submit_grid(ImageRequest(prompt=prompt))).result()

        assert (result.status, result.requeues, result.message) == (502, 1, BadJob.public)
        assert [end.receipt.settlement for end in gate.ends] == [Settlement.RETURNED, Settlement.FAILED]
        assert (await (await work.grid.submit_grid(ImageRequest())).result()).status == 200
    assert work.grid.violations() == []


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
        assert [end.receipt.settlement for end in gate.ends] == [Settlement.RETURNED]
    assert work.grid.violations() == []


async def test_a_job_that_can_never_be_made_in_time_closes_one_connection_and_is_then_failed(at_work, gate) -> None:
    gate.refuses = lambda job: "it would be late"
    async with at_work(connections=4) as work:
        await work.grid.connected(4)
        handle = await work.grid.submit_grid(ImageRequest())
        result = await handle.result()

        assert (result.status, result.message, result.requeues) == (502, BadJob.public, 1)
        assert [end.receipt.settlement for end in gate.ends] == [Settlement.RETURNED, Settlement.FAILED]
        assert len(work.grid.sockets.connections) == 3


async def test_a_job_given_back_goes_to_somebody_else_and_is_failed_when_it_comes_back(at_work) -> None:
    async with at_work(automatic=False) as work:
        handle = await work.grid.submit_grid(ImageRequest())
        first = await work.offer()
        receipt = await first.delivery.give_back("no backend is left")

        again = await work.offer(2)
        work.transports[0].adopt(dataclasses.replace(work.settings[0], allow_img2img=False))  # an edit forgets nothing
        assert (receipt.settlement, handle.has_ended) == (Settlement.RETURNED, False)
        assert again.job.id == first.job.id

        receipt = await again.delivery.give_back("no backend is left")
        result = await handle.result()
        assert (receipt.settlement, result.status, result.message) == (Settlement.FAILED, 502, BadJob.public)
        assert work.gate.ends == []  # both were offered: whoever took the offer counts them


async def test_the_gate_is_asked_before_a_source_image_is_fetched(at_work, gate, a_picture) -> None:
    gate.refuses = lambda job: "it would be late"
    async with at_work(faults=Faults(source_error=Fault(count=None))) as work:
        result = await (await work.grid.submit_grid(ImageRequest(source_image=a_picture("PNG")))).result()

        assert (result.status, result.requeues) == (502, 1)
        assert work.grid.injector.struck["source_error"] == 0


# Stopping


async def test_a_withdrawn_model_leaves_the_offer_at_once_and_its_jobs_wait_for_it_instead_of_being_failed(
    at_work, gate, a_model
) -> None:
    async with at_work(automatic=False) as work:
        handle = await work.grid.submit_grid(ImageRequest())
        await (await work.offer()).delivery.give_back("no backend is left")
        again = await work.offer(2)

        gate.serve()
        receipt = await again.delivery.give_back("no backend is left")
        await work.grid.connected(0)
        assert (receipt.settlement, handle.has_ended) == (Settlement.RETURNED, False)

        gate.serve(a_model())
        assert (await work.finish(await work.offer(3))).settlement is Settlement.PAID
        assert (await handle.result()).status == 200


async def test_idle_connections_offer_what_the_gate_serves_as_soon_as_that_changes(at_work, gate, a_model) -> None:
    async with at_work() as work:
        await work.grid.connected()
        gate.serve(a_model(), a_model("other"))
        await work.grid.connected(0)
        await work.grid.connected()

        assert work.grid.sockets.registrations[-1]["models"] == ["other", "shapes-tiny"]


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

    assert transport.state().connected == 0


async def test_a_job_whose_id_fits_into_no_frame_goes_back_and_the_others_are_made(at_work) -> None:
    async with at_work(connections=2) as work:
        payload = {"prompt": "a red circle", "n": 1, "width": 64, "height": 64, "steps": 2, "seed": 1, "ext": "webp"}
        long = work.grid.coordinator.submit(model="shapes-tiny", payload=payload, probe=False, job_id="f" * 1_100_000)
        await long.dispatched()

        result = await (await work.grid.submit_grid(ImageRequest(width=64, height=64))).result()

        assert result.status == 200
        assert not long.has_ended or (await long.result()).status in {502, 503}  # back once, and then failed
