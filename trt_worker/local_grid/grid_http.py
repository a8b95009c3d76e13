"""The grid's read API as far as a worker uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from trt_worker.local_grid.faults import FaultInjector
from trt_worker.local_grid.grid_ws import WorkerSockets
from trt_worker.local_grid.json_text import dump
from trt_worker.local_grid.ledger import Ledger
from trt_worker.local_grid.recipe import Recipe
from trt_worker.local_grid.settings import Account


class GridPages:
    """Health, workers, models and recipes."""

    def __init__(
        self,
        sockets: WorkerSockets,
        ledger: Ledger,
        recipes: list[Recipe],
        accounts: tuple[Account, ...],
        faults: FaultInjector,
    ) -> None:
        self._sockets = sockets
        self._ledger = ledger
        self._recipes = recipes
        self._faults = faults
        self._keys: Mapping[str, Account] = {account.key: account for account in accounts}

    def routes(self) -> list[web.RouteDef]:
        """The pages' routes."""
        return [
            web.get("/health", self._health),
            web.get("/v1/workers", self._workers),
            web.get("/v1/status/models", self._models),
            web.get("/v1/models/{model:.+}/recipe", self._recipe),
        ]

    def _online_models(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for worker in self._sockets.presence.online():
            for model in worker.models:
                counts[model] = counts.get(model, 0) + 1
        return counts

    async def _health(self, _: web.Request) -> web.Response:
        return json_response(
            {
                "status": "ok",
                "build_commit": "local",
                "redis": True,
                "workers_connected": len(self._sockets.connections),
                "models_available": sorted(self._online_models()),
            }
        )

    async def _workers(self, _: web.Request) -> web.Response:
        workers = [
            {
                "id": worker.worker_id,
                "name": worker.name,
                "models": list(worker.models),
                "job_types": list(worker.job_types),
                "online": True,
            }
            for worker in self._sockets.presence.online()
        ]
        return json_response({"count": len(workers), "workers": workers})

    async def _models(self, _: web.Request) -> web.Response:
        latencies: dict[str, list[float]] = {}
        for entry in self._ledger:
            if entry.transport == "grid" and entry.payments and entry.closed is not None:
                latencies.setdefault(entry.model, []).append(entry.closed - entry.dispatched[-1][0])
        backed = {recipe.model for recipe in self._recipes}
        counts = self._online_models()
        return json_response(
            [
                {
                    "name": model,
                    "count": counts.get(model, 0),
                    "type": "image",
                    "samples": len(seen := latencies.get(model, [])),
                    "avg_latency_s": round(sum(seen) / len(seen), 3) if seen else None,
                    "capabilities": ["image"],
                    "recipe_backed": model in backed,
                }
                for model in sorted(counts | dict.fromkeys(backed, 0))
            ]
        )

    async def _recipe(self, request: web.Request) -> web.Response:
        if fault := self._faults.strike("recipe_error"):
            return json_response({"detail": "Internal Server Error"}, status=fault.code or 500)
        if request.headers.get("apikey") not in self._keys:
            return json_response({"detail": "Invalid API key"}, status=401)
        model = request.match_info["model"]
        found = [recipe.describe() for recipe in self._recipes if recipe.model == model]
        if not found:
            return json_response({"detail": f"No recipe for model '{model}'"}, status=404)
        return json_response({"model": model, "recipes": found})


def json_response(body: Any, *, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, text=dump(body), content_type="application/json")
