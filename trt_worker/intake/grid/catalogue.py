"""The models the grid may give us jobs for: those the gate serves whose recipes were read and can be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import anyio
import anyio.lowlevel
import msgspec
from loguru import logger

from trt_engines.model import Model
from trt_worker.capped import read_capped
from trt_worker.concurrency import Backoff
from trt_worker.errors import AnswerTooLarge
from trt_worker.intake.grid.frames import UNREADABLE
from trt_worker.intake.grid.recipe import refusal
from trt_worker.intake.grid.settings import GridSettings
from trt_worker.intake.transport import Gate
from trt_worker.sessions import why_unreached

LARGEST_LIST = 4 * 2**20
"""Bytes of a model's recipes; each has some kilobytes."""

MOST_BROUGHT = 256
"""Recipes that jobs brought which are remembered until the grid's list is read again."""

UNCHECKED = "its recipes could not be read yet"

_TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, AnswerTooLarge, *UNREADABLE)
_SHOWN = 80


class _KeyNotTaken(Exception):
    """The grid does not let this key read recipes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unserved:
    """A recipe that this worker cannot serve."""

    title: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """What was seen of a model's recipes."""

    model: Model
    roots: frozenset[str]  # of all its image recipes; empty: its jobs come without a graph
    unserved: Mapping[str, _Unserved]  # by root

    @property
    def why_not(self) -> str | None:
        """Why the model must not be offered; None: there is nothing, or something, that can be served."""
        if not self.roots or len(self.unserved) < len(self.roots):
            return None
        first = next(iter(self.unserved.values()))
        return f"none of its {len(self.roots)} recipe(s) can be served; recipe {first.title!r}: {first.reason}"


class Catalogue:
    """Which models are offered; told by the grid's recipes, by jobs and by refusals.

    A model is offered once its recipes were read, and while one of them can be served: the grid names the recipe of
    every job by its root, so what cannot be served is withheld by root, not by model.
    """

    def __init__(self, settings: GridSettings, gate: Gate) -> None:
        self._settings = settings
        self._gate = gate
        self._checked: dict[str, _Checked] = {}
        self._tried: dict[str, Model] = {}
        self._brought: dict[tuple[str, str], str] = {}  # (model, root) that only jobs told us of -> why not
        self._retired: dict[str, str] = {}
        self._offered: frozenset[str] = frozenset()
        self._said: dict[str, str] = {}
        self._said_unserved: dict[str, str] = {}
        self._asked = anyio.Event()
        self.changed = anyio.Event()
        """Set, and replaced, when other models are offered."""

    def offered(self) -> Mapping[str, Model]:
        """The models to register with, by name. One that the gate serves only now is checked soon."""
        served = self._gate.models_served()
        if any(self._tried.get(name) != model for name, model in served.items()):
            self.recheck()
        return {name: model for name, model in served.items() if self._why_not(name, model) is None}

    @property
    def withdrawn(self) -> dict[str, str]:
        """Models that are served and yet not offered, and why."""
        reasons = {name: self._why_not(name, model) for name, model in self._gate.models_served().items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    @property
    def unserved(self) -> dict[str, str]:
        """Recipes of the models that are offered whose jobs go back, and why."""
        listed = {
            _recipe(name, root, entry.title): entry.reason
            for name in self.offered()
            for root, entry in self._checked[name].unserved.items()
        }
        return listed | {_recipe(name, root): reason for (name, root), reason in self._brought.items()}

    def withholds(self, name: str, root: str) -> bool:
        """Whether the jobs of a recipe are not served, whatever their values."""
        checked = self._checked.get(name)
        return (name, root) in self._brought or (checked is not None and root in checked.unserved)

    def withhold(self, name: str, root: str, reason: str) -> None:
        """A job brought a graph that cannot be read. A root that the grid's list did not have is noted, and only it."""
        checked = self._checked.get(name)
        if not root or (checked is not None and root in checked.roots) or len(self._brought) >= MOST_BROUGHT:
            return  # as listed it can be read: it is this job's values that make it unreadable
        self._brought[name, root] = reason
        self.recheck()  # the grid's recipes have changed since they were read

    def retire(self, names: tuple[str, ...]) -> bool:
        """The grid does not take these models any more, in any case of letters; False: none of them is ours."""
        lower = {name.casefold() for name in names}
        ours = [name for name in self.offered() if name.casefold() in lower]
        self._retired |= dict.fromkeys(ours, "the grid has retired this model")
        self.look()
        return bool(ours)

    def recheck(self) -> None:
        """Something has changed, such as the models that are served: read the recipes again soon."""
        self._asked.set()

    async def check(self, session: aiohttp.ClientSession) -> None:
        """Read the recipes of every model and see whether they can be served.

        Trouble with that leaves a model as it is: unoffered if it was never checked.
        """
        self._asked = anyio.Event()
        served = dict(self._gate.models_served())
        self._tried = served
        self._checked = {name: checked for name, checked in self._checked.items() if served.get(name) == checked.model}
        self._brought = {(name, root): reason for (name, root), reason in self._brought.items() if name in served}
        async with anyio.create_task_group() as calls:
            for name, model in served.items():
                if name not in self._retired:
                    calls.start_soon(self._check_one, session, name, model)
        self.look()

    async def watch(self, session: aiohttp.ClientSession) -> None:
        """Check again for ever: now and then, and soon when asked or while a model could not be checked at all."""
        settings = self._settings
        backoff = Backoff(settings.first_retry_wait, settings.longest_retry_wait)
        while True:
            await anyio.sleep(backoff.next_wait())  # however many ask: one check after each wait, and the waits grow
            unchecked = self._tried.keys() - self._checked.keys() - self._retired.keys()
            if not unchecked and not self._asked.is_set():
                backoff.reset()
                with anyio.move_on_after(settings.recipe_check_seconds):
                    await self._asked.wait()
            await self.check(session)

    async def _check_one(self, session: aiohttp.ClientSession, name: str, model: Model) -> None:
        try:
            recipes = await self._fetch(session, name)
        except _KeyNotTaken:
            logger.warning(
                "Grid: the API key may not read the recipes of {}; it is offered unread, and registering shows whether "
                "the key is good",
                name,
            )
            self._checked.setdefault(name, _Checked(model=model, roots=frozenset(), unserved={}))
            return
        except _TROUBLE as error:
            left = "left as it is" if name in self._checked else "not offered until they are"
            logger.warning("Grid: the recipes of {} could not be read ({}); {}", name, why_unreached(error), left)
            return
        unserved: dict[str, _Unserved] = {}
        for root, recipe in recipes.items():
            reason = refusal(recipe.get("spec"), model)
            if reason is not None:
                unserved[root] = _Unserved(title=str(recipe.get("name") or "unnamed")[:_SHOWN], reason=reason)
            await anyio.lowlevel.checkpoint()  # each is read in bounded time; connections are served in between
        self._checked[name] = _Checked(model=model, roots=frozenset(recipes), unserved=unserved)
        self._brought = {(of, root): reason for (of, root), reason in self._brought.items() if of != name}

    async def _fetch(self, session: aiohttp.ClientSession, name: str) -> Mapping[str, Mapping[str, object]]:
        """The image recipes of a model by their roots; none when it has none.

        Raises: ValueError: the answer is something else. _KeyNotTaken: it is HTTP 401.
        """
        async with session.get(
            self._settings.recipe_url(name),
            headers={"apikey": self._settings.api_key},
            timeout=aiohttp.ClientTimeout(total=self._settings.call_timeout),
            ssl=self._settings.ssl_context or True,
            allow_redirects=False,  # the key goes to this host and no other
        ) as response:
            if response.status == 404:
                return {}
            if response.status == 401:
                raise _KeyNotTaken
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            body = msgspec.json.decode(await read_capped(response, LARGEST_LIST))
        recipes = body.get("recipes") if isinstance(body, dict) else None
        if not isinstance(recipes, list) or not all(isinstance(recipe, dict) for recipe in recipes):
            raise ValueError("no list of recipes")
        return _by_root([recipe for recipe in recipes if recipe.get("job_type") in (None, "image")])

    def _why_not(self, name: str, model: Model) -> str | None:
        if name in self._retired:
            return self._retired[name]
        checked = self._checked.get(name)
        return checked.why_not if checked is not None and checked.model == model else UNCHECKED

    def look(self) -> None:
        """Say what is new about what is offered, as when the gate serves other models; wake whoever waits for it."""
        withdrawn, unserved = self.withdrawn, self.unserved
        for name, reason in withdrawn.items():
            if reason != UNCHECKED and self._said.get(name) != reason:
                logger.warning("Grid: {} is not offered: {}", name, reason)
        for name in (self._said.keys() - withdrawn.keys()) & self._gate.models_served().keys():
            logger.info("Grid: {} is offered", name)
        if unserved and unserved != self._said_unserved:
            told = "; ".join(f"{recipe}: {reason}" for recipe, reason in unserved.items())
            logger.warning("Grid: {} recipe(s) are not served, their jobs go back: {}", len(unserved), told)
        self._said, self._said_unserved = withdrawn, unserved
        offered = frozenset(self.offered())
        if offered != self._offered:
            self._offered = offered
            self.changed.set()
            self.changed = anyio.Event()


def _by_root(recipes: Sequence[Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """Recipes by root; one that names none gets a root that no job has."""
    return {str(recipe.get("recipe_root") or f"#{number}")[:_SHOWN]: recipe for number, recipe in enumerate(recipes, 1)}


def _recipe(model: str, root: str, title: str = "") -> str:
    """A recipe in few words: its model, its title, and enough of its root to find it."""
    return f"{model}, {title!r} ({root[:10]})" if title else f"{model}, {root[:10]}"
