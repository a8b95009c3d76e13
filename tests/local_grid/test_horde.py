"""The Horde side over time: faults, batches, ttl, suspicion, limits, and the faults of the network."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import aiohttp
import orjson
import pytest
from PIL import Image

from trt_worker.local_grid import (
    CUSTOMER,
    Account,
    Dialect,
    Fault,
    Faults,
    GridSettings,
    HordeRequest,
    HordeSettings,
    LocalGrid,
)
from trt_worker.local_grid.horde_errors import HordeError

pytestmark = pytest.mark.anyio

REGEN = "AI Horde Worker reGen:13.0.0:https://example.org"
OWNER = Account(key="horde-owner-key", name="owner")
NEWCOMER = Account(key="horde-newcomer-key", name="newcomer", trusted=False)


class Bridge:
    """A worker that pops and submits over HTTP."""

    def __init__(self, grid: LocalGrid, session: aiohttp.ClientSession, key: str) -> None:
        self.grid = grid
        self.session = session
        self.key = key

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"apikey": self.key, "Content-Type": "application/json"}
        data = None if body is None else orjson.dumps(body)
        async with self.session.request(method, self.grid.horde_url + path, headers=headers, data=data) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def pop(self, **fields: Any) -> tuple[int, Any]:
        body = {"name": "bridge", "models": ["shapes-tiny"], "bridge_agent": REGEN, "amount": 1} | fields
        return await self.call("POST", "/generate/pop", body)

    async def job(self, **fields: Any) -> dict[str, Any]:
        status, job = await self.pop(**fields)
        assert status == 200
        assert job["id"] is not None
        return job  # type: ignore[no-any-return]

    async def submit(self, image_id: str, **fields: Any) -> tuple[int, Any]:
        body = {"id": image_id, "generation": "R2", "state": "ok", "seed": 1, "gen_metadata": []} | fields
        return await self.call("POST", "/generate/submit", body)

    async def put(self, url: str, data: bytes = b"webp", headers: dict[str, str] | None = None) -> int:
        skipped = {"skip_auto_headers": ["Content-Type"]} if headers is None else {}
        async with self.session.put(url, data=data, headers=headers, **skipped) as answer:
            return answer.status

    async def finish(self, job: dict[str, Any]) -> list[Any]:
        answers = []
        for image_id, url in zip(job["ids"], job["r2_uploads"], strict=True):
            assert await self.put(url) == 200
            answers.append(await self.submit(image_id))
        return answers


@asynccontextmanager
async def a_horde(
    *, owner: Account = OWNER, dialect: Dialect = Dialect.AI_HORDE, faults: Faults | None = None, **fields: Any
) -> AsyncIterator[Bridge]:
    settings = GridSettings(accounts=(owner, CUSTOMER), horde=HordeSettings(dialect=dialect, **fields))
    async with LocalGrid(settings) as grid, aiohttp.ClientSession() as session:
        grid.faults = faults or Faults()
        yield Bridge(grid, session, owner.key)


async def test_an_image_is_popped_uploaded_submitted_and_delivered() -> None:
    async with a_horde() as bridge:
        handle = await bridge.grid.submit_horde(HordeRequest(seed="77"))

        job = await bridge.job()
        answers = await bridge.finish(job)
        result = await handle.result()

        assert job["payload"]["seed"] == "77"
        assert job["payload"]["ddim_steps"] == 12
        assert answers == [(200, {"reward": 3.12})]
        assert result.done
        assert [(image.data, image.seed, image.kudos) for image in result.images] == [(b"webp", "1", 3.12)]
        assert bridge.grid.violations() == []


async def test_a_text_embedding_without_a_strength_comes_back_with_one() -> None:
    asked = [{"name": "x", "inject_ti": "prompt"}, {"name": "y", "strength": 0.5}]
    async with a_horde() as bridge:
        await bridge.grid.submit_horde(HordeRequest(params={"tis": asked}))

        assert (await bridge.job())["payload"]["tis"] == [
            {"name": "x", "inject_ti": "prompt", "strength": 1.0},
            {"name": "y", "strength": 0.5},
        ]


async def test_text_that_is_no_unicode_goes_through_as_through_the_real_servers() -> None:
    async with a_horde() as bridge:
        body = b'{"prompt": "half a pair: \\ud83d", "params": {}, "models": ["shapes-tiny"]}'
        headers = {"apikey": bridge.key, "Content-Type": "application/json"}
        async with bridge.session.post(bridge.grid.horde_url + "/generate/async", data=body, headers=headers) as answer:
            assert answer.status == 202

        async with bridge.session.post(
            bridge.grid.horde_url + "/generate/pop",
            json={"name": "bridge", "models": ["shapes-tiny"], "bridge_agent": REGEN, "amount": 1},
            headers=headers,
        ) as answer:
            assert b"half a pair: \\ud83d" in await answer.read()


async def test_an_upload_carries_any_content_type_or_none() -> None:
    async with a_horde() as bridge:
        await bridge.grid.submit_horde(HordeRequest())
        url = (await bridge.job())["r2_upload"]

        assert await bridge.put(url) == 200
        assert await bridge.put(url, headers={"Content-Type": "image/webp"}) == 200


async def test_an_empty_queue_answers_with_a_payload_of_defaults_and_retry_after() -> None:
    async with a_horde() as bridge:
        body = orjson.dumps({"name": "bridge", "models": ["shapes-tiny"]})
        headers = {"apikey": OWNER.key, "Content-Type": "application/json"}
        async with bridge.session.post(bridge.grid.horde_url + "/generate/pop", data=body, headers=headers) as answer:
            found = await answer.json()

        assert answer.status == 200
        assert "Retry-After" in answer.headers
        assert (found["id"], found["ids"], found["model"], found["r2_uploads"]) == (None, [], None, None)
        assert found["payload"]["width"] == 512
        assert not any(found["skipped"].values())


@pytest.mark.parametrize(
    ("params", "errors"),
    [
        ({"n": 10**6}, {"params.n": "1000000 is greater than the maximum of 20"}),
        ({"n": 0}, {"params.n": "0 is less than the minimum of 1"}),
        ({"n": "two", "steps": 501},
         {"params.n": "'two' is not of type 'integer'", "params.steps": "501 is greater than the maximum of 500"}),
    ],
)  # fmt: skip
async def test_a_request_for_more_than_the_api_takes_is_refused_as_the_schema_says(
    params: dict[str, Any], errors: dict[str, str]
) -> None:
    async with a_horde() as bridge:
        answer = await bridge.call("POST", "/generate/async", {"prompt": "a lighthouse", "params": params})
        with pytest.raises(HordeError):
            await bridge.grid.submit_horde(HordeRequest(params=params))

        assert answer == (400, {"errors": errors, "message": "Input payload validation failed"})
        assert bridge.grid.horde.open_requests() == []


async def test_a_request_without_a_prompt_is_refused_as_the_schema_says() -> None:
    async with a_horde() as bridge:
        _, answer = await bridge.call("POST", "/generate/async", {"params": {}})

        assert answer["errors"] == {"prompt": "'prompt' is a required property"}


async def test_a_faulted_image_goes_back_once_and_then_is_dead() -> None:
    async with a_horde() as bridge:
        handle = await bridge.grid.submit_horde(HordeRequest())
        first = (await bridge.job())["id"]
        assert await bridge.submit(first, state="faulted", generation="faulted") == (200, {"reward": 0.0})
        assert (await bridge.submit(first))[1]["rc"] == "AbortedGen"
        second = (await bridge.job())["id"]
        assert await bridge.submit(second, state="faulted", generation="") == (200, {"reward": 0.0})

        result = await handle.result()
        status, answer = await bridge.call("GET", f"/generate/status/{handle.id}")

        assert (result.done, result.faulted, result.images, result.restarted) == (True, False, (), 2)
        assert (status, answer["done"], answer["faulted"], answer["restarted"]) == (200, True, False, 2)
        assert (await bridge.pop())[1]["id"] is None
        assert bridge.grid.violations() == []


async def test_a_request_with_three_faulted_images_is_faulted_by_the_sweep() -> None:
    async with a_horde() as bridge:
        handle = await bridge.grid.submit_horde(HordeRequest(n=4))
        job = await bridge.job(amount=4)
        for image_id in job["ids"][:3]:
            await bridge.submit(image_id, state="faulted")
        await bridge.submit(job["ids"][3])

        bridge.grid.horde_results.sweep()
        result = await handle.result()

        assert result.faulted
        assert (await bridge.call("GET", f"/generate/check/{handle.id}"))[1]["is_possible"] is False


async def test_a_duplicate_is_refused_and_paid_once() -> None:
    async with a_horde() as bridge:
        await bridge.grid.submit_horde(HordeRequest())
        job = await bridge.job()
        await bridge.finish(job)

        assert (await bridge.submit(job["id"]))[1]["rc"] == "DuplicateGen"
        assert bridge.grid.ledger.counts["paid"] == 1


async def test_a_submit_whose_answer_is_lost_was_taken() -> None:
    async with a_horde(faults=Faults(lost_submit=Fault())) as bridge:
        handle = await bridge.grid.submit_horde(HordeRequest())
        job = await bridge.job()
        await bridge.put(job["r2_upload"])
        with pytest.raises(aiohttp.ClientError):
            await bridge.submit(job["id"])

        assert len((await handle.result()).images) == 1
        assert (await bridge.submit(job["id"]))[1]["rc"] == "DuplicateGen"
        assert bridge.grid.violations() == []


async def test_a_job_whose_pop_was_lost_comes_back_after_its_ttl() -> None:
    async with a_horde(faults=Faults(pop_cut=Fault()), ttl_seconds=1.0, sweep_seconds=0.01) as bridge:
        handle = await bridge.grid.submit_horde(HordeRequest())
        with pytest.raises(aiohttp.ClientError):
            await bridge.pop()
        (lost,) = bridge.grid.horde.generations.values()
        lost.started -= 2.0
        while (await bridge.pop())[1]["id"] is None:
            pass  # the sweep runs between two pops
        again = next(each for each in bridge.grid.horde.generations.values() if not each.aborted)
        await bridge.submit(again.id)

        assert (await handle.result()).restarted == 1
        assert bridge.grid.violations() == []


async def test_a_late_image_is_accepted_until_the_sweep_and_refused_after() -> None:
    async with a_horde(faults=Faults(late_job=Fault(count=2, seconds=1_000.0))) as bridge:
        for _ in range(2):
            await bridge.grid.submit_horde(HordeRequest())
        early, late = (await bridge.job())["id"], (await bridge.job())["id"]

        assert (await bridge.submit(early))[0] == 200
        bridge.grid.horde_results.sweep()
        status, answer = await bridge.submit(late)

        assert (status, answer["rc"]) == (400, "AbortedGen")


async def test_aipg_hands_out_a_whole_batch_or_nothing() -> None:
    async with a_horde(dialect=Dialect.AIPG) as bridge:
        await bridge.grid.submit_horde(HordeRequest(n=3, params={"seed": "1000", "seed_variation": 10}))

        assert (await bridge.pop(amount=2))[1]["id"] is None
        job = await bridge.job(amount=3)

        assert (
            len(job["ids"]) == len(job["r2_uploads"]) == job["payload"]["n_iter"] == job["payload"]["batch_size"] == 3
        )
        assert job["ttl"] == 600
        assert job["payload"]["seed"] == str(job["payload"]["seeds"][0])


async def test_upstream_cuts_a_batch_to_what_the_worker_says_it_can() -> None:
    async with a_horde() as bridge:
        await bridge.grid.submit_horde(HordeRequest(n=4))

        assert len((await bridge.job(amount=3))["ids"]) == 3
        assert len((await bridge.job(amount=3))["ids"]) == 1


async def test_aipg_answers_with_lower_case_names() -> None:
    async with a_horde(dialect=Dialect.AIPG) as bridge:
        await bridge.grid.submit_horde(HordeRequest(models=["SDXL 1.0"]))

        assert (await bridge.job(models=["SDXL 1.0"]))["model"] == "sdxl 1.0"


async def test_more_than_twenty_drops_in_an_hour_force_maintenance_which_the_owner_lifts() -> None:
    async with a_horde() as bridge:
        for _ in range(21):
            await bridge.grid.submit_horde(HordeRequest())
            assert (await bridge.submit((await bridge.job())["id"], state="faulted"))[0] == 200

        status, answer = await bridge.pop()
        assert (status, answer["rc"]) == (403, "WorkerMaintenance")
        assert answer["message"].startswith("Maintenance mode activated")
        worker = bridge.grid.horde.workers.by_name["bridge"]
        assert await bridge.call("PUT", f"/workers/{worker.id}", {"maintenance": False}) == (
            200,
            {"maintenance": False},
        )
        assert (await bridge.pop())[0] == 200


async def test_a_fast_worker_of_an_untrusted_owner_is_paused_and_gets_each_request_once_as_a_fake() -> None:
    async with a_horde(owner=NEWCOMER) as bridge:
        for _ in range(5):
            await bridge.grid.submit_horde(HordeRequest(width=512, height=512, steps=500))
            await bridge.finish(await bridge.job())
        assert bridge.grid.horde.workers.by_name["bridge"].paused
        handle = await bridge.grid.submit_horde(HordeRequest())

        fake = await bridge.job()

        assert (await bridge.submit(fake["id"]))[1]["reward"] > 0
        assert not handle.has_ended
        assert (await bridge.pop())[1]["id"] is None
        assert len(bridge.grid.horde.open_requests()) == 1
        assert bridge.grid.violations() == []


async def test_changed_flags_are_stored_at_most_once_per_debounce_upstream_and_at_once_on_aipg() -> None:
    lora = {"params": {"loras": [{"name": "1"}]}}
    for dialect, expected in ((Dialect.AI_HORDE, 1), (Dialect.AIPG, 0)):
        async with a_horde(dialect=dialect, debounce_seconds=30.0) as bridge:
            await bridge.grid.submit_horde(HordeRequest(**lora))
            await bridge.pop(allow_lora=False)
            worker = bridge.grid.horde.workers.by_name["bridge"]
            worker.created -= 31.0

            _, answer = await bridge.pop(allow_lora=True)
            assert answer["skipped"].get("lora", 0) == expected
            worker.stored -= 31.0
            if expected:
                assert (await bridge.pop(allow_lora=True))[1]["id"] is not None


async def test_a_source_image_comes_as_an_address_or_as_base64_after_the_agent() -> None:
    buffer = BytesIO()
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(buffer, "PNG")
    async with a_horde() as bridge:
        request = HordeRequest(source_image=buffer.getvalue(), source_processing="img2img")
        for agent in (REGEN, "AI Horde Worker:13:https://example.org"):
            await bridge.grid.submit_horde(request)
            job = await bridge.job(bridge_agent=agent)
            if agent == REGEN:
                async with bridge.session.get(job["source_image"]) as answer:
                    data = await answer.read()
            else:
                data = base64.b64decode(job["source_image"])
            with Image.open(BytesIO(data)) as image:
                assert (image.format, image.size, image.mode) == ("WEBP", (64, 64), "RGBA")


async def test_a_limit_answers_429_when_it_is_enforced() -> None:
    async with a_horde(enforce_rate_limits=True) as bridge:
        handle = await bridge.grid.submit_horde(HordeRequest())
        answers = [await bridge.call("GET", f"/generate/status/{handle.id}") for _ in range(21)]  # two windows at most

        assert (429, {"message": "10 per 1 minute"}) in answers
        assert sum(status == 200 for status, _ in answers) >= 10


async def test_a_retired_server_answers_410_to_everything() -> None:
    async with a_horde(faults=Faults(retired=Fault(count=None))) as bridge:
        status, answer = await bridge.pop()

        assert (status, answer["status"]) == (410, "gone")
        assert (await bridge.call("GET", "/status/heartbeat"))[0] == 410
        assert (await bridge.call("GET", "/whatever"))[0] == 410


async def test_an_unknown_path_is_an_html_page() -> None:
    async with a_horde() as bridge, bridge.session.get(bridge.grid.horde_url + "/generate/pop/") as answer:
        assert (answer.status, answer.content_type) == (404, "text/html")


@pytest.mark.parametrize(
    ("faults", "status", "message"),
    [
        (Faults(pop_error=Fault(code=502)), 502, "Internal Server Error"),
        (Faults(pop_limited=Fault(seconds=7)), 429, "60 per 1 second"),
        (Faults(maintenance=Fault()), 403, "This worker has been put into maintenance mode by its owner"),
    ],
)
async def test_a_fault_of_the_server_strikes_once_and_is_over(faults: Faults, status: int, message: str) -> None:
    async with a_horde(faults=faults) as bridge:
        assert await bridge.pop() == (
            status,
            {"message": message} | ({"rc": "WorkerMaintenance"} if status == 403 else {}),
        )
        assert (await bridge.pop())[0] == 200


async def test_a_cancelled_request_is_answered_and_its_image_still_paid() -> None:
    async with a_horde() as bridge:
        handle = await bridge.grid.submit_horde(HordeRequest(n=2))
        job = await bridge.job()
        await bridge.call("DELETE", f"/generate/status/{handle.id}")

        assert (await handle.result()).images == ()
        assert (await bridge.submit(job["id"]))[0] == 200
        assert bridge.grid.ledger.counts["paid"] == 1
        assert bridge.grid.violations() == []
