"""The worker WebSocket: what the AIPG coordinator does, seen from a worker's end."""

from __future__ import annotations

from functools import partial

import aiohttp
import anyio
import pytest

from trt_worker.local_grid import Account, Fault, Faults, ImageRequest

pytestmark = pytest.mark.anyio


async def test_a_job_is_dispatched_uploaded_verified_acknowledged_and_paid(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest(n=2, width=1024, height=1024, steps=8))

        job = await worker.frame("job")
        await worker.send({"type": "progress", "id": job["id"], "pct": 50})
        await worker.done(job)
        ack = await worker.frame("ack")
        result = await handle.result()

        assert ack == {"type": "ack", "id": handle.id, "den": 0.64}
        assert (result.status, result.den, result.worker, result.requeues) == (200, 0.64, "rig", 0)
        assert len(result.images) == 2
        assert all(image.is_intact and image.content_type == "image/webp" for image in result.images)
        assert [image.seed for image in result.images] == job["payload"]["seeds"]
        assert handle.progress == [50]
        assert place.grid.violations() == []


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"apikey": "grid_unknown"}, 4001, "Invalid API key"),
        ({"apikey": None}, 4001, "Missing apikey or name"),
        ({"apikey": "grid_reader"}, 4003, "API key lacks worker.connect scope"),
        ({"apikey": "grid_bound"}, 4003, "worker credential targets another rig"),
        ({"apikey": "grid_other", "name": "taken"}, 4003, "worker name already registered to another account"),
        ({"models": ["flux.1-krea-dev-fp8"]}, 4003, "Retired model identity: flux.1-krea-dev-fp8"),
    ],
)
async def test_a_registration_is_refused_with_the_documented_code(open_grid, fields, code, message) -> None:
    accounts = (
        Account(key="grid_main", name="main"),
        Account(key="grid_other", name="other"),
        Account(key="grid_reader", name="reader", scopes=frozenset({"account.read"})),
        Account(key="grid_bound", name="bound", bound_to="that-rig"),
    )
    async with open_grid(*accounts) as place:
        await place.worker("taken")

        worker = await place.register(**{"name": "rig", **fields})

        assert await worker.frame("error") == {"type": "error", "message": message}
        assert await worker.closed() == code


async def test_a_newer_connection_of_a_name_closes_the_older_with_1012_and_gets_its_job(open_grid) -> None:
    async with open_grid() as place:
        older = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        job = await older.frame("job")

        newer = await place.worker()

        assert await older.closed() == 1012
        again = await newer.frame("job")
        assert again["id"] == job["id"]
        await newer.done(again)
        assert (await handle.result()).requeues == 1
        assert list(place.grid.sockets.connections) == ["rig"]


async def test_a_busy_connection_holds_two_further_jobs_and_no_more(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handles = [await place.grid.submit_grid(ImageRequest()) for _ in range(5)]
        first = await worker.frame("job")

        assert place.grid.coordinator.queued == 2
        other = await place.worker("other")
        newest = [(await other.frame("job"))["id"]]

        assert first["id"] == handles[0].id
        assert newest == [handles[3].id]
        await worker.done(first)
        await worker.frame("ack")
        assert (await worker.frame("job"))["id"] == handles[1].id


async def test_an_idle_connection_is_pinged_and_a_busy_one_is_not(open_grid) -> None:
    async with open_grid(ping_seconds=0.02) as place:
        worker = await place.worker()
        await worker.frame("ping")
        await worker.send({"type": "pong"})
        handle = await place.grid.submit_grid(ImageRequest())
        job = await worker.frame("job")
        idle = await place.worker("idle")
        before = place.grid.sockets.pings

        for _ in range(3):  # as long as three pings of the idle one
            await idle.frame("ping")
        await worker.done(job)

        assert (await worker.next()).json()["type"] == "ack"
        assert place.grid.sockets.pings >= before + 3
        assert place.grid.sockets.pongs == 1
        assert (await handle.result()).status == 200


@pytest.mark.parametrize(
    "spoil",
    ["count", "index", "upper", "missing", "empty"],
)
async def test_a_result_that_does_not_verify_is_neither_acknowledged_nor_paid(open_grid, spoil) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest(n=2))
        job = await worker.frame("job")
        if spoil == "missing":
            assert await worker.put(job["upload"][0]) == 200
            results = [{"index": index, "sha256": "a" * 64} for index in range(2)]
        else:
            results = await worker.upload(job, b"" if spoil == "empty" else b"picture")
        if spoil == "count":
            results = results[:1]
        if spoil == "index":
            results[1]["index"] = 0
        if spoil == "upper":
            results[1]["sha256"] = "A" * 64

        await worker.done(job, results)
        result = await handle.result()

        assert (result.status, result.message) == (502, "Worker output verification failed.")
        second = await place.grid.submit_grid(ImageRequest())
        assert (await worker.next()).json()["id"] == second.id  # the next frame is a job, not an acknowledgement
        assert place.grid.ledger[handle.id].payments == []


async def test_an_upload_with_another_content_type_is_refused(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        await place.grid.submit_grid(ImageRequest(ext="png"))
        job = await worker.frame("job")

        assert job["upload"][0]["content_type"] == "image/png"
        assert await worker.put(job["upload"][0], content_type="image/webp") == 403
        assert await worker.put(job["upload"][0]) == 200


async def test_an_expired_or_forged_address_is_refused(open_grid) -> None:
    async with open_grid(upload_seconds=0) as place:
        worker = await place.worker()
        await place.grid.submit_grid(ImageRequest())
        slot = (await worker.frame("job"))["upload"][0]

        assert await worker.put(slot) == 403
        forged = {**slot, "put_url": slot["put_url"].replace("X-Amz-Expires=0", "X-Amz-Expires=900")}
        assert await worker.put(forged) == 403
        assert place.grid.storage.counts["refused"] == 2


async def test_a_worker_error_is_terminal_and_reaches_the_customer_verbatim(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        job = await worker.frame("job")

        await worker.send({"type": "error", "id": job["id"], "message": "The job could not be run."})
        result = await handle.result()

        assert (result.status, result.message) == (502, "The job could not be run.")
        assert place.grid.ledger[handle.id].requeued == 0
        assert place.grid.violations() == []


async def test_a_job_whose_connection_drops_goes_to_another_and_is_paid_once(open_grid) -> None:
    async with open_grid(faults=Faults(drop_mid_job=Fault())) as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        await worker.frame("job")
        assert await worker.closed() == 1006

        other = await place.worker("other")
        await other.done(await other.frame("job"))
        result = await handle.result()

        assert (result.status, result.worker, result.requeues) == (200, "other", 1)
        assert place.grid.ledger.counts["paid"] == 1
        assert place.grid.violations() == []


async def test_jobs_held_behind_a_running_one_go_back_too_when_the_connection_drops(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handles = [await place.grid.submit_grid(ImageRequest()) for _ in range(3)]
        await worker.frame("job")

        await worker.socket.close()
        await place.grid.connected(0)

        assert place.grid.coordinator.queued == 3
        assert [place.grid.ledger[handle.id].requeued for handle in handles] == [1, 0, 0]
        assert place.grid.violations() == []


async def test_a_job_is_given_up_after_its_last_requeue(open_grid) -> None:
    async with open_grid(max_requeues=2, faults=Faults(drop_mid_job=Fault(count=None))) as place:
        handle = await place.grid.submit_grid(ImageRequest())
        for attempt in range(3):
            worker = await place.worker(f"rig-{attempt}")
            await worker.frame("job")
            await worker.closed()

        result = await handle.result()

        assert (result.status, result.requeues) == (503, 2)
        assert place.grid.violations() == []


async def test_a_job_waits_for_a_connection_that_serves_its_model(open_grid) -> None:
    async with open_grid() as place:
        await place.worker("other", models=["another model"])
        handle = await place.grid.submit_grid(ImageRequest(model="My Custom"))
        assert place.grid.coordinator.queued == 1

        worker = await place.worker("mine", models=["My Custom"])

        assert (await worker.frame("job"))["id"] == handle.id


async def test_a_customer_who_has_left_is_answered_once_and_the_late_result_is_paid(open_grid) -> None:
    async with open_grid(client_seconds=0.05) as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        job = await worker.frame("job")
        assert (await handle.result()).status == 504

        await worker.done(job)

        assert (await worker.frame("ack"))["den"] == 0.1
        assert place.grid.violations() == []


async def test_a_probe_is_acknowledged_with_nothing(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest(probe=True))
        job = await worker.frame("job")
        await worker.done(job)

        assert (await worker.frame("ack"))["den"] == 0
        assert (await handle.result()).status == 200
        assert job["payload"]["steps"] is None
        assert job["payload"]["deterministic"] is True
        assert not {"seeds", "sampler_name"} & set(job["payload"])


async def test_a_frame_about_a_job_the_connection_does_not_have_is_an_offence(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        await worker.send({"type": "done", "id": "stray", "results": []})
        handle = await place.grid.submit_grid(ImageRequest())
        job = await worker.frame("job")
        await worker.done(job)
        await handle.result()

        assert len(place.grid.violations()) == 1
        assert "stray" in place.grid.violations()[0]


async def test_silence_during_a_job_drops_the_connection_and_the_job_goes_back(open_grid) -> None:
    async with open_grid(silence_seconds=0.05, ping_seconds=0.02) as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        await worker.frame("job")

        assert await worker.closed() == 1006
        await place.grid.connected(0)
        assert place.grid.coordinator.queued == 1
        assert place.grid.ledger[handle.id].requeued == 1


async def test_a_first_frame_that_never_comes_closes_the_socket(open_grid) -> None:
    async with open_grid(register_seconds=0.02) as place:
        assert await (await place.dial()).closed() == 1011


async def test_a_socket_that_died_before_ready_can_come_back(open_grid) -> None:
    async with open_grid(faults=Faults(drop_before_ready=Fault())) as place:
        assert await (await place.register()).closed() == 1006
        await place.worker()

        assert list(place.grid.sockets.connections) == ["rig"]


@pytest.mark.parametrize("kind", ["drop_ack", "drop_after_done", "no_ack", "duplicate_ack", "late_ack"])
async def test_a_fault_around_the_acknowledgement_neither_loses_nor_pays_twice(open_grid, kind) -> None:
    async with open_grid(faults=Faults(**{kind: Fault(seconds=0.01)})) as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        await worker.done(await worker.frame("job"))
        if kind in ("drop_ack", "drop_after_done"):
            assert await worker.closed() == 1006
        if kind == "drop_after_done":
            worker = await place.worker()
            await worker.done(await worker.frame("job"))
        result = await handle.result()
        if kind == "duplicate_ack":
            assert await worker.frame("ack") == await worker.frame("ack")

        assert result.status == (503 if kind == "no_ack" else 200)
        assert place.grid.ledger.counts["paid"] == (0 if kind == "no_ack" else 1)
        assert place.grid.injector.struck[kind] == 1
        assert place.grid.violations() == []


async def test_frames_that_mean_nothing_precede_the_job(open_grid) -> None:
    async with open_grid(faults=Faults(malformed_frame=Fault(), wrong_frame=Fault())) as place:
        worker = await place.worker()
        await place.grid.submit_grid(ImageRequest())

        seen = [await worker.next() for _ in range(8)]

        assert seen[0].data == '{"type":"job","id":'
        assert seen[6].type is aiohttp.WSMsgType.BINARY
        assert seen[7].json()["type"] == "job"


async def test_closing_the_grid_closes_its_connections(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(place.grid.sockets.close)
            assert await worker.closed() == 1001


async def test_the_last_job_held_for_a_connection_is_lost_with_it_where_the_real_one_loses_it(open_grid) -> None:
    async with open_grid(loses_held=True) as place:
        worker = await place.worker()
        handles = [await place.grid.submit_grid(ImageRequest()) for _ in range(3)]
        await worker.frame("job")

        await worker.socket.close()
        await place.grid.connected(0)

        assert place.grid.coordinator.queued == 2
        assert [job.id for job in place.grid.coordinator.lost] == [handles[2].id]


async def test_an_idle_connection_that_its_worker_closes_goes_on_taking_jobs_until_one_is_sent(open_grid) -> None:
    async with open_grid(loses_held=True, dispatch_gap_seconds=0.01) as place:
        worker = await place.worker()
        await worker.socket.close()
        handles = [await place.grid.submit_grid(ImageRequest()) for _ in range(3)]
        await place.grid.connected(0)

        assert place.grid.coordinator.queued == 2
        assert [job.id for job in place.grid.coordinator.lost] == [handles[2].id]


async def test_a_ping_that_is_answered_by_closing_is_noticed_at_once(open_grid) -> None:
    async with open_grid(loses_held=True, ping_seconds=0.05) as place:
        worker = await place.worker()
        await worker.frame("ping")
        await worker.socket.close()
        await place.grid.connected(0)
        await place.grid.submit_grid(ImageRequest())

        assert place.grid.coordinator.queued == 1
        assert place.grid.sockets.pings == 1


async def test_a_name_is_online_while_it_is_refreshed_and_no_more_once_it_has_closed(open_grid) -> None:
    async with open_grid(presence_seconds=0.2, presence_refresh_seconds=0.02) as place:
        worker = await place.worker()
        await place.grid.sockets.presence_refreshed(20)
        assert [entry.name for entry in place.grid.sockets.presence.online()] == ["rig"]

        await worker.socket.close()
        await place.grid.connected(0)
        assert place.grid.sockets.presence.online() == []


@pytest.mark.parametrize("tidy", [True, False])
async def test_a_grid_that_restarts_comes_back_with_its_queue_and_with_no_presence_that_it_deleted(
    open_grid, tidy
) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        await worker.frame("job")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(place.grid.restart, tidy=tidy))
            assert await worker.closed() == 1012

        assert [entry.name for entry in place.grid.sockets.presence.online()] == ([] if tidy else ["rig"])
        assert (await (await place.worker()).frame("job"))["id"] == handle.id


async def test_the_read_api_tells_what_is_connected_and_which_recipes_there_are(open_grid) -> None:
    async with open_grid() as place:
        await place.worker(models=["shapes-tiny", "My Custom"])

        async def get(path: str, **headers: str):
            async with place.session.get(place.grid.url + path, headers=headers) as answer:
                return answer.status, await answer.json()

        assert (await get("/health"))[1]["workers_connected"] == 1
        assert (await get("/v1/workers"))[1]["workers"][0]["name"] == "rig"
        models = {model["name"]: model for model in (await get("/v1/status/models"))[1]}
        assert models["shapes-tiny"]["recipe_backed"]
        assert models["My Custom"]["count"] == 1
        assert (await get("/v1/models/shapes-tiny/recipe"))[0] == 401
        assert (await get("/v1/models/My%20Custom/recipe", apikey=place.grid.key))[0] == 404
        status, found = await get("/v1/models/shapes-tiny/recipe", apikey=place.grid.key)
        assert status == 200
        assert {"KSampler", "PrimitiveInt"} <= set(found["recipes"][0]["node_types"])
        assert found["recipes"][0]["model_files"] == ["shapes-tiny.safetensors"]


async def test_a_worker_that_does_not_ask_for_images_gets_none(open_grid) -> None:
    async with open_grid() as place:
        await place.worker("text", job_types=None)
        await place.grid.submit_grid(ImageRequest())

        assert place.grid.coordinator.queued == 1


async def test_a_job_can_be_dispatched_after_its_customer_has_left(open_grid) -> None:
    async with open_grid(client_seconds=0.02, faults=Faults(late_job=Fault())) as place:
        worker = await place.worker()
        handle = await place.grid.submit_grid(ImageRequest())
        assert (await handle.result()).status == 504

        await worker.done(await worker.frame("job"))

        assert (await worker.frame("ack"))["id"] == handle.id
        assert place.grid.violations() == []


async def test_a_close_in_the_middle_of_a_job_carries_its_code(open_grid) -> None:
    async with open_grid(faults=Faults(close_mid_job=Fault(code=4001))) as place:
        worker = await place.worker()
        await place.grid.submit_grid(ImageRequest())
        await worker.frame("job")

        assert await worker.closed() == 4001
        await place.grid.connected(0)
        assert place.grid.coordinator.queued == 1


async def test_an_idle_connection_can_be_closed_in_place_of_a_ping(open_grid) -> None:
    async with open_grid(ping_seconds=0.01, faults=Faults(close_idle=Fault())) as place:
        assert await (await place.worker()).closed() == 1012


async def test_a_frame_that_is_no_json_ends_the_connection(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        await worker.send("{")

        assert await worker.closed() == 1011
        assert "no JSON" in place.grid.violations()[0]


async def test_an_evicted_worker_is_refused_for_a_while(open_grid) -> None:
    async with open_grid(faults=Faults(refuse_register=Fault())) as place:
        worker = await place.register()

        assert (await worker.frame("error"))["message"].startswith("Worker recently evicted")
        assert await worker.closed() == 4003
        await place.worker()
