"""Which request a worker may have, why not, how much of it, how long it may take, and what it pays.

Pure functions over what both sides said. The rules are those of Haidra-Org/AI-Horde 5.1.5 and of AIPG's fork of
4.46.3, as observed on the running servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from trt_worker.local_grid.horde_state import HordeWorker, Request
from trt_worker.local_grid.settings import Dialect

ALWAYS_COUNTED = (
    "unsafe_ip",
    "img2img",
    "painting",
    "post-processing",
    "lora",
    "controlnet",
    "worker_id",
    "performance",
    "nsfw",
    "untrusted",
    "models",
    "bridge_version",
)
PAINTING = frozenset({"inpainting", "outpainting"})
SLOWEST = 500_000.0  # pixel-steps per second below which only requests that allow slow workers are handed out
LEAST_KUDOS = 14.0  # no account sinks below this, so it cannot be spent
MOST_STEPS = 50  # for workers with `limit_max_steps`
SUSPICIOUS = 20_000_000.0  # pixel-steps per second of one image

_SECOND_ORDER = frozenset({"k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde"})
_POST_PROCESSORS = frozenset(
    {
        "GFPGAN",
        "RealESRGAN_x4plus",
        "RealESRGAN_x2plus",
        "RealESRGAN_x4plus_anime_6B",
        "NMKD_Siax",
        "4x_AnimeSharp",
        "CodeFormers",
        "strip_background",
    }
)
_HEAVY = frozenset({"RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B", "NMKD_Siax", "4x_AnimeSharp", "CodeFormers"})

_EVERYTHING = frozenset({"r2", "r2_source", "img2img", "lora", "hires_fix", "tiling", "controlnet", "post-processing"})
_AGENTS: dict[str, frozenset[str]] = {
    "AI Horde Worker reGen": _EVERYTHING,
    "AI Horde Worker": _EVERYTHING - {"r2_source"},
    "SD-WebUI Stable Horde Worker Bridge": frozenset({"r2", "img2img", "tiling"}),
    "HordeAutoWebBridge": frozenset({"r2", "img2img", "tiling"}),
}
_AIPG_AGENTS = _AGENTS | {"ComfyUI Bridge": frozenset({"r2", "img2img"})}
_REGEN = "AI Horde Worker reGen"
_REGEN_FLUX = 9
_REGEN_NEW_POST_PROCESSORS = 13
_NEWEST_REGEN = {Dialect.AI_HORDE: 13, Dialect.AIPG: 9}


def capabilities(bridge_agent: str, dialect: Dialect) -> frozenset[str]:
    """What a server believes a worker can do, from the name before the first colon; an unknown name can nothing."""
    agents = _AIPG_AGENTS if dialect is Dialect.AIPG else _AGENTS
    return agents.get(_agent(bridge_agent)[0], frozenset())


def bonus(bridge_agent: str, dialect: Dialect) -> float:
    """Share of a reward that is credited: 1 for the newest official worker, 0.9 for older ones, else 0.75."""
    name, version = _agent(bridge_agent)
    if name != _REGEN:
        return 0.75
    return 1.0 if version >= _NEWEST_REGEN[dialect] else 0.9


def obstacles(request: Request, worker: HordeWorker, models: Sequence[str], dialect: Dialect) -> Counter[str]:
    """Why a worker cannot have a request; empty: it can.

    Reasons that the server does not report carry a leading underscore.
    """
    said, body, params = worker.said, request.body, request.params
    found: Counter[str] = Counter()
    pixels = request.width * request.height
    wanted = request.body.get("models") or []
    mode = body.get("source_processing")

    def mind(reason: str, minds: object, times: int = 1) -> None:
        if minds:
            found[reason] += times

    mind("models", wanted and not set(wanted) & set(models))
    mind("nsfw", request.flag("nsfw", True) and not said["nsfw"])
    mind("_max_pixels", pixels > said["max_pixels"])
    mind("unsafe_ip", not request.safe_ip and not said["allow_unsafe_ipaddr"])
    if mode in PAINTING:
        mind("painting", not said["allow_painting"])
        mind("_inpainting model", not any("inpainting" in model for model in models))
    elif request.source_image is not None and "control_type" not in params:
        mind("img2img", not said["allow_img2img"])
    else:
        mind("_only inpainting models", models and all("inpainting" in model for model in models))
    mind("lora", params.get("loras") and not said["allow_lora"])
    mind("controlnet", params.get("control_type") and not said["allow_controlnet"])
    mind("_post-processing", params.get("post_processing") and not said["allow_post_processing"])
    if dialect is Dialect.AI_HORDE:  # AIPG's look-up by lower-cased name never finds the baseline it needs
        mind("_sdxl controlnet", params.get("workflow") == "qr_code" and not said["allow_sdxl_controlnet"])
    mind("_transparent", params.get("transparent") and not said["allow_sdxl_controlnet"])
    mind("step_count", said["limit_max_steps"] and request.steps > MOST_STEPS)
    mind("blacklist", any(word.lower() in body["prompt"].lower() for word in said["blacklist"]))
    mind("untrusted", body.get("trusted_workers") and not worker.owner.trusted)
    listed = body.get("workers") or []
    mind("worker_id", listed and (worker.id in listed) == request.flag("worker_blacklist", False))
    mind("performance", not request.flag("slow_workers", True) and worker.speed < SLOWEST)
    mind("performance", said["extra_slow_worker"] and not request.flag("extra_slow_workers", False))
    usable = request.owner.kudos - LEAST_KUDOS
    mind("kudos", said["require_upfront_kudos"] and usable < kudos(request) * len(request.slots))
    found.update(_bridge_obstacles(request, worker, models, dialect))
    return found


def skipped(
    requests: Iterable[Request], worker: HordeWorker, models: Sequence[str], dialect: Dialect
) -> dict[str, int]:
    """The counts of an answer without a job. `max_pixels` counts requests at the limit too, though they fit."""
    counts: Counter[str] = Counter()
    for request in requests:
        counts.update(obstacles(request, worker, models, dialect))
        counts["max_pixels"] += request.width * request.height >= worker.said["max_pixels"]
    optional = [name for name in ("max_pixels", "step_count", "blacklist", "kudos") if counts[name]]
    return {name: counts[name] for name in (*optional, *ALWAYS_COUNTED)}


def share(request: Request, amount: int, max_pixels: int, dialect: Dialect) -> int:
    """Images of a request that one pop gets; 0: AIPG hands out a whole batch or nothing."""
    left = len(request.waiting)
    if request.flag("disable_batching", False):
        return 1
    if dialect is Dialect.AIPG:
        return left if amount >= left else 0
    processors = request.params.get("post_processing") or []
    weight = 1 + 0.4 * len(processors)
    if _HEAVY & set(processors):
        weight *= 1.8
    safe = round(max_pixels / 3.5 * amount / (request.width * request.height * weight))
    return min(amount, left, max(safe, 1))


def assign(request: Request, models: Sequence[str], draw: int) -> str:
    """The model a worker is to run: one of the request's that it has, or any of its own when none is named."""
    wanted = request.body.get("models") or []
    fits = [model for model in models if model in wanted] if wanted else list(models)
    return fits[draw % len(fits)]


def ttl(request: Request, worker: HordeWorker, model: str, dialect: Dialect) -> float:
    """Seconds until a job is stale. AI-Horde goes by the work, AIPG gives 600."""
    if dialect is Dialect.AIPG:
        return 600.0
    seconds = 30 + 2 * _effective_steps(request) * (request.width * request.height / 512**2)
    if request.params.get("control_type"):
        seconds *= 2
    if _is_flux(model):
        seconds *= 3
    seconds = max(seconds, 150)
    return seconds * 3 if worker.said["extra_slow_worker"] else seconds


def kudos(request: Request) -> float:
    """What one image pays: 3 + 0.61 per megapixel-step, + 3 per LoRA.

    A stand-in for the servers' neural estimate and their multipliers by model family: it meets their 512 x 512 figures
    (6.22 at 20 steps, 11.0 at 50) within 0.03 and nothing else in particular.
    """
    return round(3 + 0.61 * request.pixel_steps / 1e6 + 3 * len(request.params.get("loras") or ()), 2)


def _bridge_obstacles(request: Request, worker: HordeWorker, models: Sequence[str], dialect: Dialect) -> Counter[str]:
    agent = worker.said["bridge_agent"]
    can = capabilities(agent, dialect)
    name, version = _agent(agent)
    params = request.params
    found: Counter[str] = Counter()
    if request.flag("r2", True) and "r2" not in can:
        found["_r2"] += 1
    needs = {
        "img2img": request.source_image is not None,
        "lora": bool(params.get("loras")),
        "hires_fix": bool(params.get("hires_fix")),
        "tiling": bool(params.get("tiling")),
        "controlnet": bool(params.get("control_type")),
        "post-processing": bool(params.get("post_processing")),
    }
    if any(needed and feature not in can for feature, needed in needs.items()):
        found["bridge_version"] += 2  # counted once in the query and once again over its result
    new = set(params.get("post_processing") or ()) - _POST_PROCESSORS
    if dialect is Dialect.AIPG:
        found["_post-processor"] += bool(new)  # unknown to that server: nobody ever gets it
    else:
        found["bridge_version"] += bool(new) and not (name == _REGEN and version >= _REGEN_NEW_POST_PROCESSORS)
        flux = any(_is_flux(model) for model in models)
        found["bridge_version"] += flux and not (name == _REGEN and version >= _REGEN_FLUX)
    return +found


def _agent(bridge_agent: str) -> tuple[str, int]:
    parts = bridge_agent.split(":")
    major = parts[1].partition(".")[0] if len(parts) > 2 else ""
    return (parts[0], int(major)) if major.isdecimal() else ("unknown", 0)


def _is_flux(model: str) -> bool:
    return "flux" in model.lower()


def _effective_steps(request: Request) -> int:
    sampler = request.params.get("sampler_name")
    if sampler == "k_dpm_adaptive":
        return 40
    return request.steps * (2 if sampler in _SECOND_ORDER else 1)
