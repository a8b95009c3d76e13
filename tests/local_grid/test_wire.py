"""The Horde side against recorded exchanges with the two real servers.

Every recording is either replayed here or named in `NOT_REPRODUCED` with its reason. A recording tells what was asked
and answered, and not always what state its server was in: that is written here, by number. Of other recordings those
are replayed that hold all of it themselves.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from trt_worker.local_grid import Account, Dialect, GridSettings, HordeSettings, LocalGrid

pytestmark = [pytest.mark.anyio, pytest.mark.wire]

SHIPPED = Path(__file__).parents[1] / "data" / "wire"
WIRE = Path(os.environ.get("WIRE_DIR", SHIPPED))
DESCRIBED = {path.stem[:3] for path in SHIPPED.glob("*/[0-9]*.json")}
DIALECTS = {"ai-horde": Dialect.AI_HORDE, "aipg-system-core": Dialect.AIPG}
MODELS = frozenset(
    {
        "stable_diffusion",
        "SDXL 1.0",
        "Flux.1-Schnell fp8 (Compact)",
        "stable_diffusion_inpainting",
        "Stable Cascade 1.0",
        "Deliberate",
    }
)

NOT_REPRODUCED = {
    "348": "the second pop after 347; see test_horde",
    "355": "needs the clock of the check-in debounce; see test_horde",
    "356": "follows 355 in time; see test_horde",
    "357": "the request it pops is not in the recording",
    "421": "follows 420 in time; see test_horde",
    "422": "follows 421 in time; see test_horde",
    "424": "follows 422 in time; see test_horde",
    "444": "follows 422 in time, after the minutely sweep; see test_horde",
    "522": "news are whatever a server's owner writes",
}
"""Recordings that are not replayed, by number, and why."""
OTHER_SERIES = "6"  # extras of the recording session, whose set-up is not in the files

RATE_LIMITS = {"540", "541", "542", "543"}
UNTRUSTED = {"221", "337", "338", "449", "505"}
MODERATOR = {"346", "350", "352", "509"}
FLAGGED = {"351"}
NO_ACCOUNT = {"301", "303", "437", "438", "503", "526", "543"}
WRONG_USER = {"436", "525"}
MAINTENANCE = {
    "340": None,
    "343": "Swapping the GPU, back in an hour.",
    "344": None,
    "446": None,
    "447": None,
    "448": None,
}
UNKNOWN_ID = {"433", "434", "435", "438", "440"}

DEPENDS_ON_HISTORY = re.compile(r"kudos_details\.(generated|uptime)$|records\.\w+\.megapixelsteps$")
"""Null or an integer 0 before the first earnings, a float after."""
NUMBERS = re.compile(r"\d+")
UUIDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def recordings() -> list[Any]:
    found = [path for dialect in DIALECTS for path in sorted((WIRE / dialect).glob("[0-9]*.json"))]
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in found] or [
        pytest.param(None, marks=pytest.mark.skip(reason=f"no recordings under {WIRE}"))
    ]


class World:
    """A local grid brought into the state a recording was made in."""

    def __init__(self, grid: LocalGrid, session: aiohttp.ClientSession, number: str, key: str) -> None:
        self.grid = grid
        self.session = session
        self.number = number
        self.key = key  # of the worker's owner

    async def call(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any, Any]:
        sent = {name: value for name, value in headers.items() if name in ("apikey", "Content-Type", "Client-Agent")}
        data = None if body is None else body.encode() if isinstance(body, str) else orjson.dumps(body)
        async with self.session.request(method, self.grid.url + path, headers=sent, data=data) as answer:
            text = await answer.read()
            return answer.status, orjson.loads(text), answer.headers

    async def pop(self, name: str = "fixture-worker-01", amount: int = 1) -> dict[str, Any]:
        body = {
            "name": name,
            "models": ["stable_diffusion"],
            "bridge_agent": "AI Horde Worker reGen:13.0.0:https://github.com/Haidra-Org/horde-worker-reGen",
            "max_pixels": 4194304,
            "amount": amount,
        } | dict.fromkeys(
            ("allow_controlnet", "allow_sdxl_controlnet", "allow_lora", "nsfw", "allow_img2img", "allow_painting"), True
        )
        _, job, _ = await self.call(
            "POST", "/api/v2/generate/pop", {"apikey": self.key, "Content-Type": "application/json"}, body
        )
        return job

    async def ask(self, key: str = "customer", **fields: Any) -> str:
        body = {
            "prompt": "a lighthouse on a cliff at dawn",
            "params": {"width": 512, "height": 512, "steps": 20, "n": 1, "sampler_name": "k_euler", "cfg_scale": 7.5},
            "models": ["stable_diffusion"],
        } | fields
        status, asked, _ = await self.call(
            "POST", "/api/v2/generate/async", {"apikey": key, "Content-Type": "application/json"}, body
        )
        assert status == 202, asked
        return str(asked["id"])


def accounts_of(recording: dict[str, Any], number: str) -> tuple[list[Account], str]:
    """Accounts for every key of a recording, and the key of the worker's owner."""
    asks = recording.get("context", [])
    main = recording["request"]["headers"].get("apikey")
    keys = {main, *(item["request"]["headers"].get("apikey") for item in asks)} - {None, ""}
    found = []
    for key in sorted(keys):
        if key == main and number in NO_ACCOUNT:
            continue
        own = key == main
        found.append(
            Account(
                key=key,
                name=f"user-{len(found)}",
                trusted=not (own and number in UNTRUSTED),
                moderator=own and number in MODERATOR,
                flagged=own and number in FLAGGED,
                kudos=14 if number == "220" and not own else 1_000_000,
            )
        )
    found.append(Account(key="customer", name="customer"))
    found.append(Account(key="owner", name="owner"))
    stranger = number in NO_ACCOUNT | WRONG_USER | MODERATOR or not main
    return found, "owner" if stranger else main


async def prepare(world: World, recording: dict[str, Any]) -> tuple[str, Any]:
    """Bring the world into the recording's state; returns the path and body to send."""
    number, request = world.number, recording["request"]
    path, body = request["path"], request["body"]
    horde = world.grid.horde
    if path.endswith("/submit"):
        fields = {"nsfw": False} if number in ("415", "416", "417", "418") else {}
        request_id = await world.ask(**fields)
        job = await world.pop()
        if number not in UNKNOWN_ID and body is not None:
            body = {**body, "id": job["id"]}
        if number in ("402", "403", "414", "448"):
            headers = {"apikey": world.key, "Content-Type": "application/json"}
            await world.call("POST", path, headers, {"id": job["id"], "generation": "R2", "seed": 1})
        if number == "439":
            horde.cancel(horde.requests[request_id])
        if number == "442":
            world.grid.horde_results.sweep(now=1e18)
        if number == "413":
            body["gen_metadata"] = [{"type": "lora", "value": "see_ref"}] * 51
    elif "/workers" in path or path.endswith("/find_user"):
        await world.pop()
        worker = horde.workers.by_name["fixture-worker-01"]
        if number == "538":
            worker = await another_worker(world, "fixture-someunknown")
        if number == "539":
            await world.ask()
            await world.pop()
        if number == "529":
            await another_worker(world, body["name"])
        if number not in ("510", "511", "527"):
            path = UUIDS.sub(worker.id, path)
        if isinstance(body, dict) and "worker_id" in body:
            body = {**body, "worker_id": worker.id}
        if number == "502":
            await world.ask(key=world.key)
            await world.pop()
    elif number == "519" or "/status/models" in path:
        await world.pop()
    elif "/generate/check" in path or "/generate/status" in path:
        if number != "536":
            request_id = await world.ask()
            path = UUIDS.sub(request_id, path)
            if number in ("532", "533", "534"):
                job = await world.pop()
                if number != "532":
                    headers = {"apikey": world.key, "Content-Type": "application/json"}
                    done = {"id": job["id"], "generation": "R2", "seed": 1234}
                    await world.call("POST", "/api/v2/generate/submit", headers, done)
    elif path.endswith("/pop"):
        await prepare_pop(world, recording, body)
    if number in MAINTENANCE:
        headers = {"apikey": world.key, "Content-Type": "application/json"}
        text = MAINTENANCE[number]
        worker = horde.workers.by_name["fixture-worker-01"]
        change = {"maintenance": True} | ({"maintenance_msg": text} if text else {})
        await world.call("PUT", f"/api/v2/workers/{worker.id}", headers, change)
    if number == "445":
        horde.workers.by_name[body["name"]].maintenance = recording["response"]["body"]["message"]
    return path, body


async def another_worker(world: World, name: str) -> Any:
    """A worker beside the first, of the same owner."""
    await world.pop(name)
    return world.grid.horde.workers.by_name[name]


async def prepare_pop(world: World, recording: dict[str, Any], body: Any) -> None:
    """What a pop finds: workers, requests, messages."""
    number, horde = world.number, world.grid.horde
    if number in ("337", "338"):
        for index in range(4):
            await world.pop(f"fixture-crowd-{index}")
    if number == "336":
        horde.workers.other_names.add(body["name"])
    if number in ("222", "223", "225", "340", "341", "343", "347", "353", "354", "445", "447"):
        await world.pop(body["name"])
    if number == "225":
        horde.workers.by_name[body["name"]].speeds.append(1.0)
    if number in ("353", "354"):
        horde.workers.by_name[body["name"]].messages.extend(recording["response"]["body"]["messages"])
    if number == "341":
        horde.workers.by_name[body["name"]].maintenance = "down"
    if number == "347":
        horde.workers.by_name[body["name"]].paused = True
    if number == "333":
        await world.pop(body["name"])
    for item in recording.get("context", []):
        asked = item["request"]
        if not asked["path"].endswith("/generate/async"):
            continue
        wanted = dict(asked["body"])
        if number == "223":
            wanted["workers"] = [horde.workers.by_name[body["name"]].id]
        status, answer, _ = await world.call("POST", asked["path"], asked["headers"], wanted)
        assert status == 202, answer
        if number == "228":
            horde.requests[answer["id"]].safe_ip = False
    if number == "354":
        await world.ask()


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where the types of two bodies differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = [f"{path}.{name}: only recorded" for name in theirs.keys() - ours.keys()]
        found += [f"{path}.{name}: only ours" for name in ours.keys() - theirs.keys()]
        for name in ours.keys() & theirs.keys():
            found += differences(ours[name], theirs[name], f"{path}.{name}")
        return found
    if isinstance(ours, list) and isinstance(theirs, list):
        return differences(ours[0], theirs[0], f"{path}[0]") if ours and theirs else []
    if DEPENDS_ON_HISTORY.search(path):
        return []
    return [] if type(ours) is type(theirs) else [f"{path}: {type(ours).__name__}, recorded {type(theirs).__name__}"]


def read(path: Path) -> dict[str, Any]:
    recording: dict[str, Any] = orjson.loads(path.read_bytes())
    return recording


def holds_its_set_up(number: str, recording: dict[str, Any]) -> bool:
    """Whether a recording can be replayed from itself: a job with the request that made it, or a refused schema."""
    body = recording["response"]["body"]
    return number.startswith("1") or (isinstance(body, dict) and "errors" in body)


def comparable(text: str, *, numbers: bool) -> str:
    """A message without ids and, where they are measurements, without numbers."""
    text = UUIDS.sub("ID", text)
    return NUMBERS.sub("N", text) if numbers else text


@pytest.mark.parametrize("path", recordings())
async def test_a_recorded_request_is_answered_as_the_real_server_did(path: Path) -> None:
    number = path.stem[:3]
    if number in NOT_REPRODUCED or number[0] == OTHER_SERIES:
        pytest.skip(NOT_REPRODUCED.get(number, "extra of the recording session, its set-up is not in the file"))
    recording = read(path)
    if number not in DESCRIBED and not holds_its_set_up(number, recording):
        pytest.skip("the state its server was in is neither in the file nor described here")
    accounts, key = accounts_of(recording, number)
    settings = GridSettings(
        accounts=tuple(accounts),
        horde=HordeSettings(
            dialect=DIALECTS[path.parent.name], known_models=MODELS, enforce_rate_limits=number in RATE_LIMITS
        ),
    )
    async with LocalGrid(settings) as grid, aiohttp.ClientSession() as session:
        world = World(grid, session, number, key)
        target, body = await prepare(world, recording)

        sent = recording["request"]["method"], target, recording["request"]["headers"], body
        status, ours, headers = await world.call(*sent)
        for _ in range(1_000 if number in RATE_LIMITS else 0):
            if status == 429:
                break
            status, ours, headers = await world.call(*sent)

    theirs = recording["response"]["body"]
    assert (status, ours) == (recording["response"]["status"], ours)
    assert ("Retry-After" in headers) == ("Retry-After" in recording["response"]["headers"])
    assert headers["Content-Type"].startswith("application/json")
    if status >= 400:
        assert set(ours) == set(theirs)
        assert ours.get("rc") == theirs.get("rc")
        assert ours.get("errors") == theirs.get("errors")
        late = ours.get("rc") == "AbortedGen"
        start = comparable(theirs["message"].partition(" You have requested")[0], numbers=late)
        assert comparable(ours["message"], numbers=late).startswith(start)
        return
    assert differences(ours, theirs) == []
    if "skipped" in theirs:
        assert ours["skipped"] == theirs["skipped"]
        assert len(ours["ids"]) == len(theirs["ids"])
        asked = [item["request"]["body"] or {} for item in recording.get("context", [])]
        chosen = any(
            len(body.get("models") or []) != 1 for body in asked if isinstance(body, dict) and "prompt" in body
        )
        same = ("ttl", "source_processing") if chosen else ("ttl", "source_processing", "model")
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
        drawn = ("seed", "seeds")
        assert {k: v for k, v in ours["payload"].items() if k not in drawn} == {
            k: v for k, v in theirs["payload"].items() if k not in drawn
        }
