"""How the Horde words what it knows: job payloads, status pages, worker and user details."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trt_worker.local_grid import horde_match as match
from trt_worker.local_grid.horde_images import result_text
from trt_worker.local_grid.horde_queue import HordeQueue
from trt_worker.local_grid.horde_state import Generation, HordeWorker, Request
from trt_worker.local_grid.settings import Account, Dialect
from trt_worker.local_grid.storage import Storage

_ONLINE_SECONDS = 300.0
_PASSED_ON = (
    "denoising_strength",
    "hires_fix_denoising_strength",
    "clip_skip",
    "post_processing",
    "facefixer_strength",
    "control_type",
    "special",
    "workflow",
    "extra_texts",
)


class HordeViews:
    """Bodies of answers."""

    def __init__(self, queue: HordeQueue, storage: Storage) -> None:
        self._queue = queue
        self._storage = storage
        self._aipg = queue.dialect is Dialect.AIPG

    def job(self, taken: Sequence[Generation], worker: HordeWorker, skipped: Mapping[str, int]) -> dict[str, Any]:
        """A pop's answer: a job, or, with nothing taken, what is skipped over a payload of defaults."""
        request = taken[0].request if taken else None
        slots = [
            self._storage.slot(each.upload_key, seconds=self._queue.settings.upload_seconds, content_type=None).put_url
            for each in taken
        ]
        image, mask, extra = self._sources(request, worker)
        mode = request.body.get("source_processing") if request is not None else None
        return {
            "payload": self._payload(request, len(taken)),
            "id": taken[0].id if taken else None,
            "ids": [each.id for each in taken],
            "messages": list(worker.messages),
            "ttl": int(taken[0].ttl) if taken else None,
            "skipped": dict(skipped),
            "model": self._model(taken[0].model) if taken else None,
            "source_image": image,
            "source_processing": mode or ("txt2img" if self._aipg else "img2img"),
            **({"media_type": "image"} if self._aipg else {}),
            "source_mask": mask,
            "extra_source_images": extra,
            "r2_upload": slots[0] if slots else None,
            "r2_uploads": slots or None,
        }

    def _payload(self, request: Request | None, count: int) -> dict[str, Any]:
        params: Mapping[str, Any] = request.params if request is not None else {}
        payload: dict[str, Any] = {}
        if request is not None:
            payload["prompt"] = request.body["prompt"]
        payload |= {"ddim_steps": params.get("steps", 30), "n_iter": max(count, 1)}
        if self._aipg:
            payload["batch_size"] = max(count, 1)
        if request is not None:
            seeds = self._seeds(request, count)
            if self._aipg:
                payload["seeds"] = seeds
            payload["seed"] = str(seeds[0])
            payload |= {name: params[name] for name in _PASSED_ON if name in params}
            if params.get("loras"):
                payload["loras"] = [
                    {"model": 1.0, "clip": 1.0, "is_version": False, **lora} for lora in params["loras"]
                ]
            if params.get("tis"):
                payload["tis"] = [{"strength": 1.0, **ti} for ti in params["tis"]]
            if not request.flag("nsfw", True) and request.flag("censor_nsfw", True):
                payload["use_nsfw_censor"] = True
        return payload | {
            "image_is_control": params.get("image_is_control", False),
            "return_control_map": params.get("return_control_map", False),
            "sampler_name": params.get("sampler_name", "k_euler_a"),
            "cfg_scale": float(params.get("cfg_scale", 5.0 if request is not None else 7.5)),
            "height": params.get("height", 512),
            "width": params.get("width", 512),
            "karras": params.get("karras", request is not None),
            "tiling": params.get("tiling", False),
            "hires_fix": params.get("hires_fix", False),
            "transparent": params.get("transparent", False),
        }

    def _seeds(self, request: Request, count: int) -> list[int]:
        """AIPG adds a seed variation once for the whole batch and once more from its end; upstream once a pop."""
        variation = int(request.params.get("seed_variation", 0))
        if self._aipg:
            return [request.seed + variation * (2 * count - index if variation else 0) for index in range(count)]
        handed_out = len(request.generations) - count
        return [request.seed + variation * handed_out] * count

    def _sources(self, request: Request | None, worker: HordeWorker) -> tuple[Any, Any, Any]:
        if request is None:
            return None, None, None
        by_address = "r2_source" in match.capabilities(worker.said["bridge_agent"], self._queue.dialect)

        def transport(data: bytes | None, name: str) -> str | None:
            if data is None:
                return None
            if not by_address:
                return base64.b64encode(data).decode()
            key = f"horde-sources/{request.id}_{name}.webp"
            self._storage.add(key, data, "image/webp")
            return self._storage.address(key, seconds=self._queue.settings.upload_seconds)

        extra = [
            {"image": transport(data, f"extra_{index}"), "strength": strength}
            for index, (data, strength) in enumerate(request.extra_images)
        ]
        return transport(request.source_image, "src"), transport(request.source_mask, "mask"), extra or None

    def _model(self, name: str) -> str:
        return name.lower() if self._aipg else name

    def progress(self, request: Request) -> dict[str, Any]:
        """The answer of `/generate/check`."""
        ahead = [other for other in self._queue.open_requests() if other.created < request.created]
        return {
            "finished": request.finished,
            "processing": request.processing,
            "restarted": request.restarted,
            "waiting": len(request.waiting),
            "done": request.done,
            "faulted": request.faulted,
            "wait_time": 0,
            "queue_position": len(ahead) + 1 if request.waiting else 0,
            "kudos": round(3.0 + request.consumed, 2),
            "is_possible": not request.faulted,
        }

    def status(self, request: Request) -> dict[str, Any]:
        """The answer of `/generate/status`."""
        finals = [slot.final for slot in request.slots if slot.final is not None]
        images = [
            {
                "img": result_text(final, self._storage, seconds=self._queue.settings.upload_seconds),
                "seed": str(final.seed),
                "id": final.id,
                "censored": final.censored,
                "gen_metadata": [dict(each) for each in final.metadata],
                "worker_id": final.worker.id,
                "worker_name": final.worker.name,
                "model": self._model(final.model),
                "state": "ok",
            }
            for final in finals
        ]
        return {"generations": images, "shared": request.flag("shared", False), **self.progress(request)}

    def worker(self, worker: HordeWorker, asking: Account | None) -> dict[str, Any]:
        """One worker; moderators see more."""
        said = worker.said
        moderator = asking is not None and asking.moderator
        wallet = said["wallet_address"]
        return {
            "requests_fulfilled": worker.fulfilled,
            "kudos_rewards": float(worker.kudos),
            "kudos_details": {"generated": float(worker.kudos) or None, "uptime": None},
            "performance": f"{worker.speed / 1e6:.1f} megapixelsteps per second",
            "threads": said["threads"],
            "uptime": int(worker.checked_in - worker.created),
            "maintenance_mode": worker.maintenance is not None,
            **({"paused": worker.paused} if moderator else {}),
            **({"info": worker.info} if worker.info is not None else {}),
            "nsfw": said["nsfw"],
            **({"owner": _alias(self._queue, worker.owner), "ipaddr": "127.0.0.1"} if moderator else {}),
            "trusted": worker.owner.trusted,
            "flagged": worker.owner.flagged,
            **({"suspicious": worker.suspicion} if moderator else {}),
            "uncompleted_jobs": worker.uncompleted,
            "models": [self._model(model) for model in worker.models],
            "team": {"name": None, "id": None},
            "bridge_agent": said["bridge_agent"],
            **({"wallet_address": wallet} if self._aipg and wallet else {}),
            "max_pixels": said["max_pixels"],
            "megapixelsteps_generated": float(round(worker.pixel_steps / 1e6)),
            "img2img": said["allow_img2img"],
            "painting": said["allow_painting"],
            "post-processing": said["allow_post_processing"],
            "lora": said["allow_lora"],
            "controlnet": said["allow_controlnet"],
            "sdxl_controlnet": said["allow_sdxl_controlnet"],
            **({"messages": list(worker.messages)} if moderator else {}),
            "type": "image",
            "name": worker.name,
            "id": worker.id,
            "online": time.monotonic() - worker.checked_in < _ONLINE_SECONDS,
        }

    def user(self, account: Account) -> dict[str, Any]:
        """`/find_user`."""
        own = [worker for worker in self._queue.workers.by_name.values() if worker.owner.key == account.key]
        pixel_steps = round(sum(worker.pixel_steps for worker in own) / 1e6, 2)
        fulfilled = sum(worker.fulfilled for worker in own)
        earned = float(sum(worker.kudos for worker in own))
        under_way = [
            each.id
            for each in self._queue.generations.values()
            if each.request.owner.key == account.key and each.done is None and not each.aborted
        ]
        nothing = {"image": 0, "text": 0, "interrogation": 0}
        kinds = ("accumulated", "gifted", "donated", "admin", "received", "recurring", "awarded", "styled")
        return {
            "username": _alias(self._queue, account),
            "id": _number(self._queue, account),
            "kudos": account.kudos + earned,
            "concurrency": 30,
            "worker_invited": 0,
            "moderator": account.moderator,
            "kudos_details": dict.fromkeys(kinds, 0) | {"accumulated": earned},
            "worker_count": len(own),
            "worker_ids": [worker.id for worker in own],
            "styles": [],
            "sharedkey_ids": [],
            **({"active_generations": {"image": under_way}} if under_way else {}),
            "trusted": account.trusted,
            "flagged": account.flagged,
            "vpn": False,
            "service": False,
            "education": False,
            "customizer": False,
            "special": False,
            **({} if self._aipg else {"deleted": False}),
            "pseudonymous": True,
            "account_age": 3_600,
            "usage": {"megapixelsteps": None, "requests": None},
            "contributions": {"megapixelsteps": None, "fulfillments": None},
            "records": {
                "usage": {"megapixelsteps": 0, "tokens": 0},
                "contribution": {"megapixelsteps": pixel_steps or 0, "tokens": 0},
                "fulfillment": nothing | {"image": fulfilled},
                "request": dict(nothing),
                "style": dict(nothing),
            },
        }

    def models(self) -> list[dict[str, Any]]:
        """`/status/models`."""
        workers = list(self._queue.workers.by_name.values())
        counts = {
            model: [worker for worker in workers if model in worker.models]
            for model in sorted(self._queue.workers.known_models)
        }
        waiting = self._queue.open_requests()
        rows = []
        for model, serving in counts.items():
            queued = [request for request in waiting if model in (request.body.get("models") or ())]
            rows.append(
                {
                    "performance": round(sum(worker.speed for worker in serving), 1),
                    "queued": float(sum(request.pixel_steps * len(request.waiting) for request in queued)),
                    "jobs": float(sum(len(request.waiting) for request in queued)),
                    "eta": 0,
                    "type": "image",
                    "name": self._model(model) if self._aipg else model,
                    "count": len(serving),
                }
            )
        return [row for row in rows if row["count"] or row["jobs"]]

    def performance(self) -> dict[str, Any]:
        """`/status/performance`."""
        waiting = self._queue.open_requests()
        workers = self._queue.workers.by_name.values()
        return {
            "queued_requests": sum(len(request.waiting) for request in waiting),
            "queued_text_requests": 0,
            "worker_count": len(workers),
            "text_worker_count": 0,
            "thread_count": sum(worker.said["threads"] for worker in workers),
            "text_thread_count": 0,
            "queued_megapixelsteps": sum(request.pixel_steps for request in waiting) / 1e6,
            "past_minute_megapixelsteps": 0.0,
            "queued_forms": 0.0,
            "interrogator_count": 0,
            "interrogator_thread_count": 0,
            "queued_tokens": 0.0,
            "past_minute_tokens": 0.0,
        }


def _number(queue: HordeQueue, account: Account) -> int:
    return list(queue.workers.accounts).index(account.key) + 1


def _alias(queue: HordeQueue, account: Account) -> str:
    return f"{account.name}#{_number(queue, account)}"
