"""The models the grid may give us jobs for: those the gate serves, less those whose recipes we cannot read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import anyio
import msgspec
from loguru import logger

from trt_engines.model import Model
from trt_worker.intake.grid.frames import UNREADABLE
from trt_worker.intake.grid.recipe import refusal
from trt_worker.intake.grid.settings import GridSettings
from trt_worker.intake.transport import Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Withdrawn:
    reason: str
    root: str = ""  # the recipe that a job brought; the model comes back when it is gone
    final: bool = False


class Catalogue:
    """Which models are offered; told by recipes, jobs and refusals."""

    def __init__(self, settings: GridSettings, gate: Gate) -> None:
        self._settings = settings
        self._gate = gate
        self._withdrawn: dict[str, _Withdrawn] = {}
        self._known: frozenset[str] = frozenset(gate.models_served())
        self.changed = anyio.Event()

    def offered(self) -> Mapping[str, Model]:
        """The models to register with, by name."""
        return {name: model for name, model in self._gate.models_served().items() if name not in self._withdrawn}

    @property
    def withdrawn(self) -> dict[str, str]:
        """Models that are served and yet not offered, and why."""
        return {name: entry.reason for name, entry in self._withdrawn.items()}

    def withdraw(self, name: str, reason: str, root: str) -> None:
        """A job brought a recipe that cannot be served."""
        self._set(name, _Withdrawn(reason=reason, root=root))

    def retire(self, names: tuple[str, ...]) -> bool:
        """The grid does not take these models any more, in any case of letters; False: none of them is ours."""
        lower = {name.casefold() for name in names}
        ours = [name for name in self.offered() if name.casefold() in lower]
        for name in ours:
            self._set(name, _Withdrawn(reason="the grid has retired this model", final=True))
        return bool(ours)

    def look(self) -> None:
        """The gate may serve other models than before: tell it if so."""
        if frozenset(self.offered()) != self._known:
            self._tell()

    async def check(self, session: aiohttp.ClientSession) -> None:
        """Read the recipes of every model and see whether they can be served. Trouble with that changes nothing."""
        async with anyio.create_task_group() as calls:
            for name, model in self._gate.models_served().items():
                calls.start_soon(self._check_one, session, name, model)
        self.look()

    async def _check_one(self, session: aiohttp.ClientSession, name: str, model: Model) -> None:
        entry = self._withdrawn.get(name)
        if entry is not None and entry.final:
            return
        try:
            recipes = await self._fetch(session, name)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("Grid: the recipes of {} could not be read ({}); left as it is", name, type(error).__name__)
            return
        except UNREADABLE as error:
            logger.warning("Grid: the recipes of {} are not as expected ({}); left as it is", name, error)
            return
        for recipe in recipes:
            reason = refusal(recipe.get("spec"), model)
            if reason is not None:
                title = str(recipe.get("name") or recipe.get("recipe_root"))[:80]
                self._set(name, _Withdrawn(reason=f"recipe {title!r}: {reason}"))
                return
        if entry is not None and (not entry.root or all(recipe.get("recipe_root") != entry.root for recipe in recipes)):
            del self._withdrawn[name]
            logger.info("Grid: {} is offered again: its recipes can be served", name)

    async def _fetch(self, session: aiohttp.ClientSession, name: str) -> list[dict[str, object]]:
        """The image recipes of a model; none when it has none. Raises: ValueError: the answer is something else."""
        async with session.get(
            self._settings.recipe_url(name),
            headers={"apikey": self._settings.api_key},
            timeout=aiohttp.ClientTimeout(total=self._settings.call_timeout),
            ssl=self._settings.ssl_context or True,
            allow_redirects=False,  # the key goes to this host and no other
        ) as response:
            if response.status == 404:
                return []
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            body = msgspec.json.decode(await response.read())
        recipes = body.get("recipes") if isinstance(body, dict) else None
        if not isinstance(recipes, list) or not all(isinstance(recipe, dict) for recipe in recipes):
            raise ValueError("no list of recipes")
        return [recipe for recipe in recipes if recipe.get("job_type") in (None, "image")]

    def _set(self, name: str, entry: _Withdrawn) -> None:
        if self._withdrawn.get(name) == entry:
            return
        logger.warning("Grid: {} is not offered any more: {}", name, entry.reason)
        self._withdrawn[name] = entry
        self._tell()

    def _tell(self) -> None:
        self._known = frozenset(self.offered())
        self.changed.set()
        self.changed = anyio.Event()
